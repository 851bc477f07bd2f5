target "default" {
  inherits = ["bas"]
}
target "base" {}
