mkdir -p a/b
echo f > a/b/f
ln -s a/b link
ln -s b a/link2
