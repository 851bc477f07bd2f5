target "app" {
  name = "a${x}-${y}"
  matrix = {
    x = range(100)
    y = range(100)
  }
}
