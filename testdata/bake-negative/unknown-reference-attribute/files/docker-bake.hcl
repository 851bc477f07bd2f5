target "a" {}
target "default" {
  tags = target.a.tagz
}
