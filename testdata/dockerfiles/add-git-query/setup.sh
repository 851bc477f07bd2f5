git init -q -b main ../git/repo.git
cd ../git/repo.git
mkdir d
echo 1 > f
echo d > d/g
git add .
git commit -qm first
git tag v1
git checkout -qb side
echo 2 > f
git commit -qam second
git checkout -q main
cd ../../ctx
