echo text > text.tar.gz
echo compressed | gzip -nc > single.gz
: > empty.tar
head -c 10240 /dev/zero > zeros.tar
head -c 100 /dev/zero > short.tar
