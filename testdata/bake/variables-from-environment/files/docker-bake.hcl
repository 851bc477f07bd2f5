variable "TAG" { default = "latest" }
variable "N" { default = 3 }
variable "ON" { default = true }
variable "EMPTY" { default = "x" }
variable "UNDEF" {}
target "default" {
  tags = ["app:${TAG}"]
  args = {
    n = N + 1
    on = ON ? "on" : "off"
    empty = "<${EMPTY}>"
    undef = UNDEF
  }
}
