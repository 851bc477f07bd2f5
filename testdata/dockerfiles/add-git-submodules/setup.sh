git init -q -b main ../git/inner.git
git -C ../git/inner.git commit -q --allow-empty -m empty
echo inner > ../git/inner.git/i
git -C ../git/inner.git add i
git -C ../git/inner.git commit -qm inner
git init -q -b main ../git/outer.git
cd ../git/outer.git
echo outer > o
printf '[submodule "mid"]\n\tpath = mid\n\turl = ../inner.git\n' > .gitmodules
git update-index --add --cacheinfo 160000,$(git -C ../inner.git rev-parse HEAD),mid
git add o .gitmodules
git commit -qm outer
cd ../../ctx
