cp ../Dockerfile .
mkdir -p s ../http
echo f > f
ln f h
mkfifo p
chmod 4711 f
chmod 1777 s
touch -d @1000000000 Dockerfile f p s
setfattr -n user.k -v v f
tar --sort=name --format=pax --pax-option=delete=atime,delete=ctime --xattrs --xattrs-include='*' --owner=5 --group=6 --numeric-owner -cf ../http/context.tar Dockerfile f h p s
