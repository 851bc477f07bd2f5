mkdir ./'dir'
echo 892 > ./'dir/with space'
echo 814 > ./'dir/[br]'
echo 662 > ./'dir/very-long-name-0123456789-0123456789-0123456789'
echo 284 > ./'dir/.hidden'
ln -s -- '.hidden' ./'dir/h.log'
ln -s -- '/dir/with space' ./'dir/g.txt'
mkfifo ./'q?m'
echo 845 > ./'dir/plus+'
touch -hd @1000780438 ./'dir'
[ -L ./'dir/[br]' ] || [ -p ./'dir/[br]' ] || setfattr -n user.k -v v ./'dir/[br]'
touch -hd @1000189318 ./'dir/g.txt'
tar --sort=name --mtime=@1200000000 --format=gnu --exclude=t.tar -cf ../t.tar .
mv ../t.tar .
