variable "V" { default = "c" }
