mkdir -p dir/other dir2/sub keep empty
touch keep/x drop dir/keep.txt dir/drop.txt dir/other/r.md secret.md dir/secret.md dir2/a dir2/sub/deep dir2/sub/b.go dir2/sub/no.go dir2/c.go
chmod 700 dir dir2
touch -d @1000000000 dir dir2/sub
