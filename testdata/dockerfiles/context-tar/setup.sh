cp ../Dockerfile .
mkdir -p s ../http
echo f > f
echo g > s/g
echo x > x.log
echo '*.log' > .dockerignore
ln -s f l
ln f h
chmod 600 s/g
tar --sort=name --mtime=@1200000000 --owner=5 --group=6 --numeric-owner -cf ../http/context.tar .
