mkdir -p node_modules x/node_modules/y a/z a/1/z a/1/2/z b/sub c/1/d c/d c/1/2/d .git x/.github
touch node_modules/f x/node_modules/y/f top.tmp x/y.tmp a/z/f a/1/z/f a/1/2/z/f a/keep b/drop b/keep b/sub/x c/1/d/f c/d/f c/1/2/d/f .git/config .gitignore x/.github/w
