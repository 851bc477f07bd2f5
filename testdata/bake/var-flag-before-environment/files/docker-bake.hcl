variable "TAG" { default = "latest" }
variable "L" {
  type = list(string)
  default = ["d"]
}
target "default" {
  tags = [for t in L : "app:${TAG}-${t}"]
}
