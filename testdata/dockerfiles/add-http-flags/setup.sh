mkdir ../http
echo content > ../http/f
