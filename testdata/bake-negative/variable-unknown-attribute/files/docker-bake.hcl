variable "N" {
  defualt = "x"
}
target "default" {}
