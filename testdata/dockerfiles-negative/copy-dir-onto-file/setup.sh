mkdir dir
touch dir/x
