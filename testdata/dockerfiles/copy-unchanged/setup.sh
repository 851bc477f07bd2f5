echo same > file
mkdir dir
echo in > dir/in
