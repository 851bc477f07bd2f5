mkdir ../http
tar -cf ../http/f.tar -T /dev/null
git init -q -b main ../git/repo.git
cd ../git/repo.git
mkdir sub
echo x > sub/x
echo sub > .dockerignore
git add .
git commit -qm first
cd ../../ctx
