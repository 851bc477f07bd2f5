target "default" {
  tags = ["x"]
  args = { A = "1" }
}
