mkdir -p a/b a/c a/d/e
echo f > a/b/f
echo g > a/c/g
echo f > a/d/f
echo f > a/d/e/f
chmod 700 a/b
