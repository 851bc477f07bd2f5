echo file > file
mkdir -p dir/sub dir/app
echo in > dir/sub/in
ln -s in dir/sub/link
chmod 4755 file
