mkdir -p dir/a dir/b
echo k > dir/a/keep
echo d > dir/a/drop
echo d > dir/b/keep
chmod 700 dir
chmod 711 dir/a
