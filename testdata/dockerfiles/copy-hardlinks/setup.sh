mkdir -p tree/sub
echo linked > tree/a
ln tree/a tree/b
ln tree/a tree/sub/c
