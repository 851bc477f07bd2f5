mkdir -p d empty
echo f > d/f
