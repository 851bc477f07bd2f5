git init -q -b main ../git/repo.git
cd ../git/repo.git
mkdir sub
echo x > sub/x
git add .
git commit -qm first
cd ../../ctx
