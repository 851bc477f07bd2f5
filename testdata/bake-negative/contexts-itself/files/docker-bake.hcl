target "a" {
  contexts = { x = "target:a" }
}
