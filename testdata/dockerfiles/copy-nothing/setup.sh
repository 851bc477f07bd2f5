mkdir empty dir
touch dir/x dir/y
