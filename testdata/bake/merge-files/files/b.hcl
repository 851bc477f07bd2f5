variable "TAG" { default = "b" }
target "app" {
  args = { B = "2", C = "2" }
  tags = ["b:${TAG}"]
  cache-from = ["b"]
}
target "new" { inherits = ["app"] }
group "default" { targets = ["app", "new"] }
