group "back" { targets = ["api"] }
target "api" {}
target "worker" {}
target "site" {}
