mkdir ./'a,b'
mkdir ./'a,b/{brace}'
mkdir ./'a,b/{brace}/.d'
echo 338 > ./'a,b/b'
mkfifo ./'b'
echo 208 > ./'a,b/{brace}/.d/h.log'
[ -L ./'a,b' ] || chmod 711 ./'a,b'
[ -L ./'a,b/{brace}' ] || chmod 2755 ./'a,b/{brace}'
[ -L ./'b' ] || chmod 755 ./'b'
tar --sort=name --mtime=@1200000000 --format=gnu --exclude=t.tar -cf ../t.tar .
mv ../t.tar .
