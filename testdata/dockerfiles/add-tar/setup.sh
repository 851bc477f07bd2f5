mkdir -p t/dir
echo content > t/dir/file
chmod 4711 t/dir/file
ln -s file t/dir/link
ln t/dir/file t/dir/hard
chmod 2750 t/dir
touch -hd @1200000000 t/dir/file t/dir/link t/dir
tar --format=posix --pax-option=delete=atime,delete=ctime --sort=name --numeric-owner --owner=1000 --group=100 -cf plain.tar -C t dir
gzip -nc plain.tar > a.tar.gz
cp a.tar.gz a.tgz
bzip2 -c plain.tar > a.tar.bz2
xz -c plain.tar > a.tar.xz
zstd -qc plain.tar > a.tar.zst
cp a.tar.gz oddly-named
rm -r t
