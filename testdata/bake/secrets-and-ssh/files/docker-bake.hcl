target "default" {
  secret = [
    "id=one,src=./one",
    { id = "two", src = "two" },
    "type=env,id=three,env=THREE",
    { id = "four", env = "FOUR" },
    "id=one,src=uno",
    "type=env,id=five,src=FIVE",
  ]
}
