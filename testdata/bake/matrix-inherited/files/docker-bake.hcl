target "base" { args = { B = "1" } }
target "app" {
  name = "app-${v}"
  matrix = { v = ["1", "2"] }
  inherits = ["base"]
  contexts = { lib = "target:lib-${v}" }
}
target "lib" {
  name = "lib-${v}"
  matrix = { v = ["1", "2"] }
  args = { V = v }
}
