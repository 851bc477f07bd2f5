mkdir -p a/b c/d/e
echo 1 > a/drop
echo 2 > a/b/drop
echo 3 > c/keep
