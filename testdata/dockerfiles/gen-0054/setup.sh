echo 664 > ./'~tilde'
echo 697 > ./'a,b'
echo 686 > ./'ünï'
ln -s -- '~tilde' ./'ab'
mkdir ./'.d'
ln -s -- '/.d' ./'.d/{brace}'
chown -h 5:6 ./'~tilde'
chown -h 5:6 ./'ünï'
tar --sort=name --mtime=@1200000000 --format=gnu --exclude=t.tar -cf ../t.tar .
mv ../t.tar .
