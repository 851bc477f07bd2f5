mkdir -p t/d
echo x > t/d/x
chmod 755 t/d/x
tar --format=ustar --sort=name --mtime=@1200000000 --numeric-owner --owner=1 --group=2 -cf a.tar -C t d
cp a.tar a2.tar
echo file > file
rm -r t
