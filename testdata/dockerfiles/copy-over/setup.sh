echo file > file
mkdir linkdir
ln -s bin/busybox linkdir/d2
chmod 600 file
