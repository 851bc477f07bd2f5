variable "C" { default = "${B}c" }
variable "B" { default = "${A}b" }
variable "A" { default = "a" }
other = "${C}!"
target "default" { args = { v = other } }
