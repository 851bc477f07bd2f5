git init -q -b main ../git/repo.git
cd ../git/repo.git
echo one > file
mkdir -p sub/deep
echo x > sub/x
echo y > sub/deep/y
echo run > run
chmod 755 run
ln -s file link
ln -s /etc/passwd sub/out
echo private > private
chmod 600 private
git add .
git commit -qm first
git tag light
git tag -am annotated v1
git checkout -qb other
echo other > sub/deep/y
git commit -qam other
git checkout -q main
echo two > file
git commit -qam second
cd ../../ctx
