git init -q -b main ../git/repo.git
git -C ../git/repo.git commit -q --allow-empty -m first
