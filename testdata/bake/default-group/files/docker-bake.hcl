group "default" {
  targets = ["web", "db"]
}
target "web" {
  context = "./web"
  dockerfile = "web.Dockerfile"
}
target "db" {
  context = "db/"
  target = "prod"
}
