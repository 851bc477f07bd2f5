target "default" {
  tags = ["a:${TAGG}"]
}
