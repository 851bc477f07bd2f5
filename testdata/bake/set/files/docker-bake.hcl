target "app" {
  args = { A = "1" }
  tags = ["app"]
  platforms = ["linux/amd64"]
  secret = ["id=s,src=./s"]
  output = ["type=docker"]
}
target "app2" {}
target "other" {}
group "default" { targets = ["app", "app2", "other"] }
