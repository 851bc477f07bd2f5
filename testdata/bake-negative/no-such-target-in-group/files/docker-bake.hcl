group "default" {
  targets = ["wep"]
}
target "web" {}
