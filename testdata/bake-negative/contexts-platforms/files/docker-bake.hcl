target "a" {
  platforms = ["linux/amd64", "linux/s390x"]
  contexts = { x = "target:b" }
}
target "b" {
  platforms = ["linux/amd64", "linux/arm64"]
}
