echo f > f
mkdir -p dir/sub
echo x > dir/sub/x
echo l > dir/a.log
echo t > t
tar --mtime=@1200000000 -cf a.tar t
