target "a" {}
target "b" { output = ["type=image"] }
target "c" { output = ["type=docker"] }
target "d" { output = ["type=local,dest=o"] }
target "e" { output = ["type=registry"] }
