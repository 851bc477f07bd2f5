variable "N" {
  type = text
}
target "default" {}
