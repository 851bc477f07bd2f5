variable "S" {
  type = string
  description = "a string"
  default = 12
}
variable "L" {
  type = list(string)
  default = ["a", "b"]
}
variable "SET" {
  type = set(string)
  default = ["b", "a", "b"]
}
variable "M" {
  type = map(string)
  default = { k = "v" }
}
variable "T" {
  type = tuple([string, number, bool])
  default = ["x", 1, true]
}
variable "O" {
  type = object({ name = string, n = number })
  default = { name = "o", n = "7" }
}
variable "NULL" { type = string }
variable "ANY" {
  type = any
  default = [1, "two"]
}
target "default" {
  tags = concat(L, tolist)
  args = {
    s = S
    set = join(",", SET)
    m = M.k
    t = "${T[0]}${T[1] + 1}${T[2]}"
    o = "${O.name}${O.n + 1}"
    null = NULL
    any = jsonencode(ANY)
  }
}
tolist = ["global"]
