mkdir -p t/s
echo x > t/a
ln t/a t/b
ln t/a t/s/c
ln -s a t/l
