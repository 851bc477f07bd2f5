target "default" {
  args = {
    chunklist = jsonencode(chunklist(["a", "b", "c"], 2))
    coalesce = coalesce(null, "", "x")
    coalescelist = join(",", coalescelist([], ["a"]))
    compact = join(",", compact(["a", "", "b"]))
    concat = join(",", concat(["a"], ["b", "c"]))
    contains = contains(["a", "b"], "b")
    distinct = join(",", distinct(["a", "b", "a"]))
    element = element(["a", "b"], 3)
    flatten = join(",", flatten([["a"], ["b", ["c"]]]))
    hasindex = hasindex(["a"], 1)
    index = index(["x", "v"], 1)
    indexof = indexof(["a", "b"], "b")
    keys = join(",", keys({ b = 1, a = 2 }))
    length = length([1, 2, 3])
    lookup = lookup({ a = "1" }, "z", "none")
    merge = jsonencode(merge({ a = "1" }, { b = "2" }, { a = "3" }))
    range = join(",", range(1, 6, 2))
    reverselist = join(",", reverselist(["a", "b"]))
    setintersection = join(",", setintersection(["a", "b"], ["b", "c"]))
    setproduct = jsonencode(setproduct(["a", "b"], ["c"]))
    setsubtract = join(",", setsubtract(["a", "b"], ["b"]))
    setsymmetricdifference = join(",", setsymmetricdifference(["a", "b"], ["b", "c"]))
    setunion = join(",", setunion(["a"], ["b", "a"]))
    slice = join(",", slice(["a", "b", "c"], 1, 3))
    sort = join(",", sort(["c", "a", "b"]))
    values = join(",", values({ b = "1", a = "2" }))
    zipmap = jsonencode(zipmap(["a", "b"], [1, 2]))
    sethaselement = sethaselement(convert(["a"], set(string)), "a")
    convert = jsonencode(convert(["1", "2"], list(number)))
    try = try(nothing.here, "fallback")
    can = can(nada.here)
    splat = join(",", [{ n = "1" }, { n = "2" }][*].n)
    forobj = jsonencode({ for k, v in { a = 1, b = 2 } : upper(k) => v if v > 1 })
    heredoc = <<-EOT
      one
        two
      EOT
    directive = "%{ for x in ["a", "b"] ~}${x};%{ endfor ~}"
    cond = "%{ if true }y%{ else }n%{ endif }"
  }
}
