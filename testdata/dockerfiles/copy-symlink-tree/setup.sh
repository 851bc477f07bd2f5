mkdir -p d/e
echo f > d/e/f
ln -s e d/l
ln -s d/e dl
ln -s /d/e/f abs-in
ln -s d/e/f rel-in
ln -s ../../../d/e/f up-out
ln -s chain2 chain1
ln -s d/l/f chain2
ln -s nowhere dangling
ln -s self self
