target "app" {
  tags = ["app"]
  platforms = ["linux/amd64"]
  output = ["type=docker"]
  cache-from = ["a"]
}
