for m in 600 640 644 755 4755; do echo $m > f$m; chmod $m f$m; done
mkdir -p dir/sub
echo x > dir/sub/x
chmod 755 dir/sub/x
echo y > dir/y
chmod 700 dir/sub
