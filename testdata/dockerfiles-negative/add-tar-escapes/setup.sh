echo evil > x
tar -P --transform='s,^x,../../escaped,' -cf evil.tar x
rm x
