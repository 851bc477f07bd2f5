mkdir -p deep new dirs/home/app dirs/tmp dirs/srv
echo replaced > a
echo inner > deep/new
echo b > b
echo x > dirs/home/app/x
echo t > dirs/tmp/t
chmod 700 deep dirs/home/app dirs/tmp
touch -d @1111111111 b
