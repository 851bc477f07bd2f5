variable "TAG" {
  default = "v1.2"
  validation {
    condition = TAG != ""
    error_message = "TAG is needed"
  }
  validation {
    condition = can(regex("^v", TAG))
    error_message = "TAG begins with v"
  }
}
variable "N" {
  type = number
  default = 5
  validation {
    condition = N > 1 && N < 10
    error_message = "N is out of range"
  }
}
target "default" { tags = ["a:${TAG}"] }
