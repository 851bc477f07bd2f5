variable "TAG" {
  default = ""
  validation {
    condition = "x"
    error_message = "m"
  }
}
target "default" {}
