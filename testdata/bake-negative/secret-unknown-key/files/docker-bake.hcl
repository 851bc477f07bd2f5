target "default" {
  secret = ["id=x,path=y"]
}
