target "default" {
  tags = ["over"]
  args = { B = "2" }
}
