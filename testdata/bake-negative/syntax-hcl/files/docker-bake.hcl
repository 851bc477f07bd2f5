target "web" {
  tags = [
}
