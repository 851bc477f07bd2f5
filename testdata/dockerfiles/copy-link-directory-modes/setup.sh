mkdir -p d/s
echo f > d/s/f
chmod 700 d d/s
