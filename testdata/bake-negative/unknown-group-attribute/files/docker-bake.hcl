group "default" {
  targets = []
  tags = ["a"]
}
