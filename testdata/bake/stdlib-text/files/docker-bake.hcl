target "default" {
  args = {
    basename = basename("/a/b.c")
    dirname = dirname("/a/b.c")
    chomp = chomp("x\n\n")
    format = format("%03d-%s-%v", 7, "x", true)
    formatlist = join(",", formatlist("%s!", ["a", "b"]))
    indent = indent(2, "a\nb")
    lower = lower("ABC")
    upper = upper("abc")
    title = title("hello world")
    regex = regex("[0-9]+", "ab12cd34")
    regexall = join("|", regexall("[0-9]+", "ab12cd34"))
    regex_replace = regex_replace("a1b22", "[0-9]+", "<$0>")
    replace = replace("a.b.c", ".", "-")
    reverse = reverse("abc")
    sanitize = sanitize("a.b/c:d é")
    split = join("+", split(",", "a,b,c"))
    strlen = strlen("héllo")
    substr = substr("hello", 1, 3)
    trim = trim("?!hi?!", "!?")
    trimprefix = trimprefix("v1.2", "v")
    trimsuffix = trimsuffix("a.tar", ".tar")
    trimspace = trimspace("  x ")
    bytesslice = base64encode("x")
    base64decode = base64decode("aGVsbG8=")
    base64encode = base64encode("hello")
    urlencode = urlencode("a b&c/d")
    md5 = md5("x")
    sha1 = sha1("x")
    sha256 = sha256("x")
    sha512 = sha512("x")
    uuidv5 = uuidv5("dns", "example.org")
    jsonencode = jsonencode({ a = [1, "x", null] })
    jsondecode = jsondecode("{\"a\": [1, 2]}").a[1]
    csvdecode = csvdecode("a,b\n1,2\n3,4")[1].b
    semver1 = semvercmp("1.2.3", ">= 1.2, < 2") ? "in" : "out"
    semver2 = semvercmp("v2.0.0-rc1", "^2") ? "in" : "out"
    parseint = parseint("ff", 16)
  }
}
