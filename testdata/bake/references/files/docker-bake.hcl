target "base" {
  context = "base-dir"
  args = { A = "1", B = "two" }
  tags = ["base:1", "base:2"]
  output = ["type=local,dest=out"]
}
target "app" {
  context = target.base.context
  args = {
    A = target.base.args.A
    B = "${target.base.args["B"]}!"
    TAG = target.base.tags[1]
    OUT = target.base.output[0].dest
    NAME = target.base.name
    SELF = target.app.dockerfile
  }
  dockerfile = "app.Dockerfile"
  tags = [for t in target.base.tags : "${t}-app"]
}
group "default" { targets = group.some.targets }
group "some" { targets = ["app"] }
