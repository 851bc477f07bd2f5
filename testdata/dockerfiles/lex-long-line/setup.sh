seq 1 20000 | tr -d '\n' > long
