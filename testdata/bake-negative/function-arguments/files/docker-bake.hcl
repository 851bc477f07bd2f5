function "f" {
  params = [x, y]
  result = x
}
target "default" {
  tags = [f("a")]
}
