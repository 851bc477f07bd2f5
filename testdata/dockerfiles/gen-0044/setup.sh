echo 705 > ./'[br]'
ln -s -- '/etc' ./'ünï'
echo 684 > ./'x=y'
echo 408 > ./'per%cent'
echo 169 > ./'a,b'
mkdir ./'...'
ln ./'per%cent' ./'.../{brace}'
chown -h 5:6 ./'[br]'
[ -L ./'per%cent' ] || chmod 2711 ./'per%cent'
tar --sort=name --mtime=@1200000000 --format=gnu --exclude=t.tar -cf ../t.tar .
mv ../t.tar .
