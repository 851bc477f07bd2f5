echo f > file
mkdir -p dir/sub
echo x > dir/sub/x
ln -s file link
ln -s nowhere dir/dangling
