target "a" {}
target "b" { output = ["type=image,push=true"] }
target "c" { output = ["type=oci,dest=o.tar"] }
target "d" { output = ["type=local,dest=o"] }
target "e" { output = ["type=registry", "type=docker"] }
