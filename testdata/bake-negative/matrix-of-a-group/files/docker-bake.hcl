group "g" {
  targets = []
  matrix = { a = ["x"] }
}
