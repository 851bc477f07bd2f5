n=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
echo 1 > b$n
echo 2 > $n$n
mkdir -p $n/$n/$n
echo 3 > $n/$n/$n/f
ln -s $n/$n/$n/f link
ln $n/$n/$n/f hard
ln -s $n/$n/$n$n/$n$n far
