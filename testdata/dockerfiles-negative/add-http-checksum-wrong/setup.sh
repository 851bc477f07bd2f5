mkdir ../http
echo f > ../http/f
