mkdir -p tree/empty tree
echo e > tree/empty/e
ln -s other tree/file
echo l > tree/link
ln -s p tree/fifo
