echo 573 > ./'a'
mkdir ./'#hash'
ln ./'a' ./'a:b'
ln -s -- 'plus+' ./'#hash/plus+'
ln -s -- 'a:b' ./'plus+'
echo 920 > ./'per%cent'
mkfifo ./'x=y'
mkdir ./'dir'
mkdir ./'dir/dir'
[ -L ./'a' ] || chmod 2711 ./'a'
touch -hd @1000658746 ./'#hash'
chown -h 5:6 ./'dir'
tar --sort=name --mtime=@1200000000 --format=gnu --exclude=t.tar -cf ../t.tar .
mv ../t.tar .
