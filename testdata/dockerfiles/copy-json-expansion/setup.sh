echo 1 > 'with space'
mkdir -p d
echo 2 > 'd/x y'
echo f > f
