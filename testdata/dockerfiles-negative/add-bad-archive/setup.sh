mkdir d
head -c 300000 /dev/urandom > d/random
tar -czf whole.tar.gz d
head -c 100000 whole.tar.gz > broken.tar.gz
rm -r d whole.tar.gz
