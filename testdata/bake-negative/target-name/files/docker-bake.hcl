target "we b" {}
