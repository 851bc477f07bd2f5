git init -q -b main ../git/repo.git
cd ../git/repo.git
printf 'FROM test/base\nCOPY . /c/\nRUN --mount=target=/ctx ls -ln /ctx | awk "{print \\$1, \\$3, \\$4, \\$9}" > /ls\n' > Dockerfile
echo data > data
echo log > x.log
printf '*.log\ndata\n' > .dockerignore
mkdir sub
sed 's/FROM/# in the subdirectory\nFROM/' Dockerfile > sub/Dockerfile
echo sub > sub/s
echo run > sub/run
chmod 755 sub/run
ln -s ../data sub/link
git add .
git commit -qm first
cd ../../ctx
