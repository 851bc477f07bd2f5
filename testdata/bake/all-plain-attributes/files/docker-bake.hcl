target "default" {
  annotations = ["index:org.x=1", "org.y=2", "org.y=2"]
  args = { "with.dot" = "1" }
  call = "check"
  context = "ctx"
  description = "all of it"
  dockerfile-inline = "FROM scratch\nCOPY a $${A}\n"
  extra-hosts = { h = "10.0.0.1" }
  labels = { "com.x" = "y", esc = "%%{x}$${y}" }
  network = "none"
  no-cache = true
  no-cache-filter = ["a", "b"]
  platforms = ["linux/amd64", "linux/arm64", "linux/amd64"]
  pull = false
  shm-size = "128m"
  tags = ["a:1", "", "b", "a:1"]
  target = "t"
  ulimits = ["nofile=1024:2048"]
}
