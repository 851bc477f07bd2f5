mkdir -p dir/sub other
touch a.txt b.log keep.log dir/x.log dir/y.txt dir/sub/z.log dir/sub/keep.me other/dir
