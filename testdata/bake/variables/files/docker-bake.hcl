variable "TAG" { default = "latest" }
variable "REG" {}
variable "N" { default = 3 }
variable "ON" { default = true }
variable "NOTHING" { default = null }
variable "F" { default = 1.5 }
target "default" {
  tags = ["${REG}app:${TAG}"]
  args = {
    n = N
    next = N + 1
    on = ON
    f = F
    neg = !ON
    nothing = NOTHING
    isnull = NOTHING == null ? "yes" : "no"
  }
}
