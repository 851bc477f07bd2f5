variable "target" {}
target "default" {}
