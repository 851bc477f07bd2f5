echo t > target
ln -s target link
mkdir dir
echo i > dir/inner
echo o > dir/outer
ln -s dir dirlink
