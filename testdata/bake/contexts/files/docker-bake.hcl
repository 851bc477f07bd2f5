target "lib" {
  output = ["type=docker"]
  entitlements = ["security.insecure"]
}
target "mid" {
  contexts = { lib = "target:lib" }
}
target "app" {
  contexts = {
    mid = "target:mid"
    src = "./src/"
    img = "docker-image://alpine:3"
    gone = ""
  }
}
