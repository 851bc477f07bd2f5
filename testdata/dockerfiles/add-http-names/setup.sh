mkdir -p ../http/d
echo f > ../http/f
echo df > ../http/d/f
echo g > ../http/g
touch -d @1100000000 ../http/g
