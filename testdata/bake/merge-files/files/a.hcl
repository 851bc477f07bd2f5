variable "TAG" { default = "a" }
group "default" { targets = ["app"] }
target "app" {
  args = { A = "1", B = "1" }
  tags = ["a:${TAG}"]
  cache-from = ["a"]
}
