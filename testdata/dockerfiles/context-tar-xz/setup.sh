cp ../Dockerfile .
mkdir ../http
echo f > f
tar --sort=name --mtime=@1200000000 --owner=0 --group=0 -cJf ../http/context.tar .
