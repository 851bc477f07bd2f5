echo file > file
mkdir -p dir/sub dir/app
echo in > dir/sub/in
echo exec > dir/exec
chmod 755 dir/exec
chmod 600 dir/sub/in
chmod 700 dir/sub
ln -s in dir/sub/link
