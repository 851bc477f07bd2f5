target "a" { output = ["out/dir"] }
target "b" { output = ["-"] }
target "c" { output = ["type=oci,dest=o.tar,compression=zstd", "type=docker", ""] }
target "d" {
  output = [
    { type = "image", name = "x", push = true },
    { type = "local", dest = "out" },
    "type=tar,dest=t.tar",
  ]
}
target "e" { output = [{ type = "image", push = "false" }, { type = "image", push = "false" }] }
