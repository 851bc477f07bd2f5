mkdir sub ../http
cp ../Dockerfile sub/My
echo f > f
echo f > sub/My.dockerignore
tar --sort=name --mtime=@1200000000 --owner=0 --group=0 -cf ../http/context.tar .
