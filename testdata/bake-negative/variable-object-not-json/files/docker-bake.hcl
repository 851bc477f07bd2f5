variable "O" {
  type = object({ a = string })
}
target "default" {}
