mkdir -p d/s
echo f > d/f
touch -d '2001-02-03 04:05:06.123456789' d/f
touch -d @1000000001 d/s
touch -d @1000000002 d
