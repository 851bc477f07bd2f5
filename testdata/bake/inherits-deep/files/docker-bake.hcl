target "a" {
  args = { x = "a", a = "a" }
  dockerfile = "a.Dockerfile"
}
target "b" {
  inherits = ["a"]
  args = { x = "b" }
  target = "t"
}
target "c" {
  inherits = ["b", "a"]
}
target "d" {
  inherits = ["a", "b"]
  context = "d"
}
group "default" { targets = ["c", "d"] }
