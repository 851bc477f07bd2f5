mkdir -p .git/objects
echo 'ref: refs/heads/main' > .git/HEAD
echo x > .gitignore
