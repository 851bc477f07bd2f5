echo file > file
mkdir dir
echo in > dir/in
echo s > 'with space'
