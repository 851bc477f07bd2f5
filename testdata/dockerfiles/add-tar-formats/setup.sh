n=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
mkdir -p t/$n
echo f > t/$n/f
mkdir -p long/$n/$n/$n
echo ü > long/$n/$n/$n/ü
o="--sort=name --mtime=@1200000000 --owner=1 --group=2 --numeric-owner"
tar $o --format=v7 -cf v7.tar t
tar $o --format=ustar -cf ustar.tar t
tar $o --format=gnu -cf gnu.tar long
tar $o --format=pax --pax-option=delete=atime,delete=ctime -cf pax.tar long
tar $o -cf concat.tar t
echo second > t/$n/f
tar $o -rf concat.tar t
tar $o -C t -cf dot.tar .
rm -r t long
