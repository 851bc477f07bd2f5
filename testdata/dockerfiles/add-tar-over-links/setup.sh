mkdir -p t u
echo t > t/x
echo u > u/f
tar --sort=name --mtime=@1200000000 -cf a.tar t u
rm -r t u
