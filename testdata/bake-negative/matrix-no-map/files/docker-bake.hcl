target "app" {
  matrix = ["1", "2"]
}
