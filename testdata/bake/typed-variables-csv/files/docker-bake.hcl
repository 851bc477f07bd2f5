variable "L" {
  type = list(number)
  default = [1]
}
variable "SET" { type = set(string) }
variable "M" { type = map(bool) }
variable "T" { type = tuple([string, number]) }
variable "B" { type = bool }
target "default" {
  args = {
    sum = L[0] + L[1]
    set = join(",", SET)
    m = M.a ? "yes" : "no"
    t = "${T[0]}${T[1] + 1}"
    b = B
  }
}
