target "a" {
  tags = keys(target)
}
