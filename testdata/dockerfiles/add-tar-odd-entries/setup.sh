mkdir -p t/deep/dir
echo 1 > t/.file
echo 2 > t/abs
echo 3 > t/deep/dir/f
opts='--format=posix --mtime=@1200000000 --numeric-owner --owner=0 --group=0'
tar $opts -cf names.tar -C t ./.file ./abs
tar $opts -P --transform='s,^abs,/leading/slash,' -rf names.tar -C t abs
tar $opts -cf noparents.tar -C t deep/dir/f
mkfifo t/fifo
mknod t/null c 1 3
tar $opts -cf special.tar -C t fifo null
tar $opts --pax-option=SCHILY.xattr.user.note:=hello -cf xattr.tar -C t abs
rm -r t
