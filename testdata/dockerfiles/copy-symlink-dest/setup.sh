echo file > file
mkdir dir
echo in > dir/in
