mkdir -p a/b a/c x/y/z
echo file > a/b/file
echo t > a/b/t.txt
echo c > a/c/c.txt
echo cf > a/c/file
echo deep > x/y/z/deep.txt
chmod 700 a
chmod 2750 a/b
touch -d @1000000000 a/b
