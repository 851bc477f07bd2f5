target "default" {
  args = {
    absolute = absolute(-3)
    add = add(1, 2)
    and = and(true, false)
    ceil = ceil(1.2)
    divide = divide(7, 2)
    equal = equal("a", "a")
    floor = floor(1.8)
    gt = greaterthan(2, 1)
    gte = greaterthanorequalto(2, 2)
    int = int(3.9)
    lt = lessthan(2, 1)
    lte = lessthanorequalto(1, 1)
    log = log(100, 10)
    max = max(1, 5, 3)
    min = min(4, 2, 8)
    modulo = modulo(7, 4)
    multiply = multiply(3, 4)
    negate = negate(5)
    not = not(true)
    notequal = notequal(1, 2)
    or = or(true, false)
    pow = pow(2, 10)
    signum = signum(-7)
    subtract = subtract(9, 4)
    big = 123456789012345678901234567890
    third = 1 / 3
  }
}
