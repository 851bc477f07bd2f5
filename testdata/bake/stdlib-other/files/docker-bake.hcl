target "default" {
  args = {
    cidrhost = cidrhost("10.0.0.0/8", 5)
    cidrnetmask = cidrnetmask("172.16.0.0/12")
    cidrsubnet = cidrsubnet("172.16.0.0/12", 4, 2)
    cidrsubnets = join(",", cidrsubnets("10.1.0.0/16", 4, 4, 8))
    formatdate = formatdate("YYYY-MM-DD hh:mm", "2024-02-03T04:05:06Z")
    formattimestamp = formattimestamp("DD MMM YYYY", 1700000000)
    formattimestampx = formattimestamp("X", "2024-02-03T04:05:06Z")
    timeadd = timeadd("2024-02-03T04:05:06Z", "90m")
    unix = jsonencode(unixtimestampparse(1690328596))
    stamp = length(regexall("^[0-9]{4}-", timestamp()))
    uuid = strlen(uuidv4())
    bcrypt = strlen(bcrypt("x"))
  }
}
