variable "L" { default = ["a"] }
target "default" {}
