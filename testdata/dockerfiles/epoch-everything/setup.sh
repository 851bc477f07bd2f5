mkdir d
echo f > d/f
echo g > g
tar --mtime=@1300000000 -cf a.tar g
rm g
