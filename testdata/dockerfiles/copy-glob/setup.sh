touch -d @1000000000 a.txt b.txt a.md b.md c.md 'arr[0].txt'
mkdir dir der dir/sub
echo dir > dir/inner.txt
echo der > der/inner.txt
echo deep > dir/sub/deep.txt
echo top > deep.txt
echo a > a.txt
