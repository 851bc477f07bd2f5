echo file > file
mkdir dir
echo new > dir/new
echo a > dir/a
