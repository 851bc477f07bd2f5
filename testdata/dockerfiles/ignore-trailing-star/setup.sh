mkdir -p a/s b/keep/s c1 c2/s e/d
for f in a/x1 a/y a/s/x2 b/x b/keep/f b/keep/s/g c1/f c2/s/f e/d/f e/f; do echo $f > $f; done
