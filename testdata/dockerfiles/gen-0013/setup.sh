echo 300 > ./'b!ng'
ln -s -- '/b!ng' ./'c'
mkfifo ./'ünï'
echo 43 > ./'dir'
mkdir ./'with space'
mkdir ./'{brace}'
mkdir ./'$dollar'
[ -L ./'{brace}' ] || chmod 700 ./'{brace}'
[ -L ./'$dollar' ] || [ -p ./'$dollar' ] || setfattr -n user.k -v v ./'$dollar'
tar --sort=name --mtime=@1200000000 --format=gnu --exclude=t.tar -cf ../t.tar .
mv ../t.tar .
