target "app" {
  name = item.name
  matrix = {
    item = [
      { name = "a", tgt = "stage-a", args = { X = "1" } },
      { name = "b", tgt = "stage-b", args = { X = "2", Y = "3" } },
    ]
  }
  target = item.tgt
  args = item.args
}
