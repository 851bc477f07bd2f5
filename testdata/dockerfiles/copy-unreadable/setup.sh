echo s > secret
chmod 0 secret
mkdir dir
echo x > dir/x
chmod 0 dir/x
chmod 111 dir
