target "base" {
  context = "base"
  args = { A = "1", B = "2" }
  labels = { l = "base" }
  tags = ["base:1"]
  platforms = ["linux/amd64"]
  cache-from = ["type=registry,ref=base"]
  output = ["type=docker"]
  secret = ["id=s,src=./s"]
  annotations = ["a=1"]
  no-cache-filter = ["x"]
  ulimits = ["nofile=1:2"]
  entitlements = ["network.host"]
  extra-hosts = { h = "1.1.1.1" }
  description = "base"
}
target "mixin" {
  args = { B = "mixin", C = "3" }
  tags = ["mixin"]
  secret = ["id=t,env=T"]
  annotations = ["b=2"]
  pull = true
}
target "app" {
  inherits = ["base", "mixin"]
  args = { D = "4", A = null }
  labels = { m = "app" }
  cache-from = ["other"]
  output = ["type=oci,dest=out.tar"]
  no-cache-filter = ["y", "x"]
  ulimits = ["nproc=3"]
}
