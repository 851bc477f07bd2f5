mkdir -p d t/s
echo f > t/f
echo g > t/s/g
chmod 640 t/f
ln -s f t/l
ln t/f t/h
tar --sort=name --mtime=@1200000000 --owner=7 --group=8 -cf a.tar t
tar --sort=name --mtime=@1200000000 --owner=9:9 --group=10:10 -C t -cf d/b.tar s
gzip -nk a.tar
echo plain > plain
