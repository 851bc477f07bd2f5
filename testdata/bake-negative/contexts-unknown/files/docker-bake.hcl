target "a" {
  contexts = { x = "target:nope" }
}
