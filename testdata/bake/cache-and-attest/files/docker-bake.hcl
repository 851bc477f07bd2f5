target "default" {
  cache-from = ["user/app:cache", "a,b", { type = "registry", ref = "r" }, "type=local,src=./cache"]
  cache-to = ["type=inline", { type = "local", dest = "out", mode = "max" }]
  attest = ["type=provenance,mode=max", { type = "sbom", disabled = true }, "type=provenance,mode=min"]
}
