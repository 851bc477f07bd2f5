variable "O" {
  type = object({ name = string, tags = list(string) })
  default = { name = "d", tags = [] }
}
variable "L" {
  type = list(string)
  default = []
}
variable "U" { default = "plain" }
target "default" {
  tags = O.tags
  args = {
    name = O.name
    l = join("|", L)
    u = U
  }
}
