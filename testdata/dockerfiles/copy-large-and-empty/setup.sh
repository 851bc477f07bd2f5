: > empty
mkdir empty.d
head -c 3000000 /dev/zero > zeros
seq 1 100000 > seq
dd if=/dev/zero of=sparse bs=1 count=1 seek=2000000 2> /dev/null
