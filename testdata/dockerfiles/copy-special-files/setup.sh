mkdir tree
mkfifo tree/fifo
mknod tree/null c 1 3
mknod tree/block b 7 9
chmod 640 tree/block
echo f > tree/file
