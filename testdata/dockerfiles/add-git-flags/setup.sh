git init -q -b main ../git/repo.git
cd ../git/repo.git
mkdir -p sub/deep
echo x > sub/x
echo l > sub/x.log
echo y > sub/deep/y
echo run > run
chmod 755 run
git add .
git commit -qm first
for i in 1 2 3 4 5 6 7 8; do git tag t$i; done
cd ../../ctx
