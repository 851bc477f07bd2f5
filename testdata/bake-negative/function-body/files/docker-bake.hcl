function "f" {
  params = [x]
  result = x + 1
}
target "default" {
  tags = [f("a")]
}
