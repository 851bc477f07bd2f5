echo evil > x
tar --mtime=@1200000000 -P --transform='s,^x,../../escaped,' -cf evil.tar x
rm x
