echo x > x
tar --format=ustar --mtime=@1200000000 --numeric-owner --owner=3 --group=4 -cf a.tar x
rm x
