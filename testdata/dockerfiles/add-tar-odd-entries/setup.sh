mkdir -p t/deep/dir
echo 1 > t/.file
echo 2 > t/abs
echo 3 > t/deep/dir/f
mkfifo t/fifo
mknod t/null c 1 3
now=delete=atime,delete=ctime
opts='--format=posix --mtime=@1200000000 --numeric-owner --owner=0 --group=0 -C t'
tar $opts --pax-option=$now -cf names.tar ./.file ./abs
tar $opts --pax-option=$now -P --transform='s,^abs,/leading/slash,' -rf names.tar abs
tar $opts --pax-option=$now -cf noparents.tar deep/dir/f
tar $opts --pax-option=$now -cf special.tar fifo null
tar $opts --pax-option=$now,SCHILY.xattr.user.note:=hello -cf xattr.tar abs
rm -r t
