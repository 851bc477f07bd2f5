mkdir -p t/var/lib/tree/deep t/srv/rel t/etc t/home/app t/new/dir
echo new > t/var/lib/tree/a
echo through > t/srv/rel/through
echo replaced > t/etc/base-release
echo file > t/new/dir/file
chmod 700 t/home/app
tar --format=posix --pax-option=delete=atime,delete=ctime --sort=name --mtime=@1200000000 --numeric-owner --owner=5 --group=6 -cf a.tar -C t .
rm -r t
