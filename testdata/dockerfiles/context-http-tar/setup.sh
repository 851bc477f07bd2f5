mkdir ../http t
printf 'FROM test/base\nCOPY . /c/\nADD s /e/\n' > t/Dockerfile
printf '*.log\n' > t/.dockerignore
echo log > t/x.log
mkdir t/s
echo f > t/s/f
ln -s f t/s/l
ln t/s/f t/h
chmod 600 t/s/f
chmod 711 t/s
tar -C t --owner=7 --group=8 --mtime=@1111111111 --sort=name -cJf ../http/context.tar.xz .
rm -r t
