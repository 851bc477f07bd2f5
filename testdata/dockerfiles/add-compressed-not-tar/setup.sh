echo f > f
touch -d @1000000000 f
gzip -nk f
bzip2 -k f
xz -k f
zstd -q f
