variable "A" { default = join("", [for i in range(1000) : "aaaaaaaaaaaaaaaaaaaa"]) }
variable "B" { default = join("", [for i in range(1000) : A]) }
target "default" {}
