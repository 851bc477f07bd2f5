group "all" {
  description = "everything"
  targets = ["back", "front", "back"]
}
group "back" { targets = ["api", "worker"] }
group "front" { targets = ["site", "api"] }
target "api" {}
target "worker" {}
target "site" {}
