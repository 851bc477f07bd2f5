echo target > target
mkdir dir tree
echo inner > dir/inner
ln -s target link-to-file
ln -s dir link-to-dir
ln -s /link-to-file chain
ln -s ../target tree/up
ln -s /etc/passwd tree/abs
ln -s nowhere tree/dangling
ln -s ../dir tree/dir
ln -s ../../../../target tree/out
touch -hd @1000000000 tree/up
