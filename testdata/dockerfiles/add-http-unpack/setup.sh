mkdir ../http
echo f > ../http/f
mkdir t
echo in > t/in
mkdir t/sub
ln -s in t/sub/link
chmod 640 t/in
tar -C t --owner=7 --group=8 --mtime=@1111111111 -cf x.tar in sub
cp x.tar ../http
gzip -nk ../http/x.tar
rm -r t
