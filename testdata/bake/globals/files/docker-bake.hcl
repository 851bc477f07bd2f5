prefix = "reg/"
list = ["a", "b"]
target "default" {
  tags = [for l in list : "${prefix}${l}"]
}
