echo local > local
mkdir dir
echo in > dir/in
mkdir ../http
echo file > ../http/file
git init -q -b main ../git/repo.git
cd ../git/repo.git
echo a > a
mkdir sub
echo b > sub/b
git add .
git commit -qm first
cd ../../ctx
