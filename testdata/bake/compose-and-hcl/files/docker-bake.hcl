variable "TAG" { default = "v1" }
target "app" {
  tags = ["img:${TAG}"]
  args = { B = "2" }
}
target "extra" { inherits = ["db"] }
group "default" { targets = ["app", "extra"] }
