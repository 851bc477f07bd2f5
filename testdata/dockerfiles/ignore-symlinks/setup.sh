mkdir real target
touch real/f target/inner file
ln -s file link-file
ln -s target linkdir
ln -s real/f to-ignored
