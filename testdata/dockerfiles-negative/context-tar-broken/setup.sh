mkdir ../http
echo x > f
tar -czf ../http/context.tar f
head -c 40 ../http/context.tar > ../http/c
mv ../http/c ../http/context.tar
