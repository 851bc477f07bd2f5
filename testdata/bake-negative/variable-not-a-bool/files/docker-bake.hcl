variable "B" { type = bool }
target "default" {}
