mkdir t
ln -s ../../.. t/out
echo evil > t/x
opts='--format=ustar --mtime=@1200000000 --numeric-owner --owner=0 --group=0 -C t'
tar $opts -cf evil.tar out
tar $opts --transform='s,^x,out/escaped,' -rf evil.tar x
rm -r t
