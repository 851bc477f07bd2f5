target "default" {
  args = {
    A = 1e999999999
  }
}
