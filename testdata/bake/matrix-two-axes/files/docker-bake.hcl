variable "VERS" { default = ["1.0", "2.0"] }
target "app" {
  name = "app-${os}-${replace(ver, ".", "-")}"
  matrix = {
    os = ["alpine", "debian"]
    ver = VERS
  }
  dockerfile = "${os}.Dockerfile"
  args = { VERSION = ver }
}
