function "tag" {
  params = [name, suffix]
  result = ["${name}:${VER}${suffix}"]
}
function "many" {
  params = [first]
  variadic_params = rest
  result = "${first}-${length(rest)}-${join("+", rest)}"
}
function "twice" {
  params = [x]
  result = many(x, x, upper(x))
}
variable "VER" { default = "1" }
target "default" {
  tags = tag("app", "-x")
  args = {
    many = many("a")
    more = many("a", "b", "c")
    twice = twice("q")
  }
}
