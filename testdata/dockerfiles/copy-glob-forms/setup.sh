mkdir -p d1/s d2/s e
for f in d1/f1 d1/f2 d1/x d2/f1 d1/s/g d2/s/g e/g; do echo $f > $f; done
ln -s d1 l1
ln -s d1/f1 l2
