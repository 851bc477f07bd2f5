mkdir d
seq 1 100000 > d/numbers
tar -czf whole.tar.gz d
head -c 100000 whole.tar.gz > broken.tar.gz
rm -r d whole.tar.gz
