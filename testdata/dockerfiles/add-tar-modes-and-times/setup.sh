mkdir -p t/s
echo 1 > t/suid
chmod 4755 t/suid
echo 2 > t/none
chmod 0 t/none
chmod 1777 t/s
touch -d '2001-02-03 04:05:06.789' t/suid
touch -d @1000000000 t/none t/s t
tar --sort=name --format=pax --pax-option=delete=atime,delete=ctime --owner=3 --group=4 --numeric-owner -cf a.tar t
rm -r t
