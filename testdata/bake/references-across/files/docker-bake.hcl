target "a" {
  args = { x = target.b.args.y }
  tags = ["a"]
}
target "b" {
  args = { y = "1" }
  tags = ["${target.a.tags[0]}b"]
}
group "default" { targets = ["a", "b"] }
