mkdir dir
echo '#!' > dir/script
chmod 4711 dir/script
chmod 1770 dir
touch -d @1000000000 file
chown 5:6 file
ln -s dir/script link
