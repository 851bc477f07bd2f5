mkdir dir/empty
chmod 700 dir/sub
touch -d @1000000000 dir/file
touch -d @1100000000 dir/sub
