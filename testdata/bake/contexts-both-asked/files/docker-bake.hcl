target "lib" { tags = ["lib"] }
target "app" {
  contexts = { lib = "target:lib" }
}
