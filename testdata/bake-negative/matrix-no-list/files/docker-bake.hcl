target "app" {
  matrix = { v = "1" }
}
