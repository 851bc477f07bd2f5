seq 1 2000 > f
tar -cf all.tar f
head -c 3000 all.tar > a.tar
