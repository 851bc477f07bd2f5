echo 817 > ./'a,b'
ln ./'a,b' ./'with space'
mkdir ./'dir'
mkdir ./'b!ng'
mkdir ./'.hidden'
mkdir ./'a'
mkdir ./'a/.hidden'
[ -L ./'dir' ] || chmod 711 ./'dir'
[ -L ./'.hidden' ] || chmod 500 ./'.hidden'
tar --sort=name --mtime=@1200000000 --format=gnu --exclude=t.tar -cf ../t.tar .
mv ../t.tar .
