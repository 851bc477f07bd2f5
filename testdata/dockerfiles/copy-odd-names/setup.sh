echo 1 > "$(printf 'tab\tname')"
echo 2 > "$(printf 'new\nline')"
echo 3 > ./-dash
echo 4 > ./--
echo 5 > '#hash'
echo 6 > ü
echo 7 > "$(printf 'bad\377')"
echo 8 > "$(printf 'u\314\210')"
echo 9 > ' lead'
echo 10 > 'trail '
