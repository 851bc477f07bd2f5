echo 393 > ./'a,b'
mkdir ./'~tilde'
mkdir ./'~tilde/~tilde'
ln ./'a,b' ./'~tilde/f.txt'
mkdir ./'~tilde/Z'
touch -hd @1000608426 ./'~tilde/~tilde'
chown -h 5:6 ./'~tilde/Z'
tar --sort=name --mtime=@1200000000 --format=gnu --exclude=t.tar -cf ../t.tar .
mv ../t.tar .
