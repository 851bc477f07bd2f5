touch first second third kept
printf '\357\273\277first\r\nsecond\r\n# comment\r\nthird' > .dockerignore
