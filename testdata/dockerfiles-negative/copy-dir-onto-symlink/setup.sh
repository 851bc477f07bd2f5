mkdir -p tree/rel tree/abs/deep
echo 1 > tree/rel/one
echo 2 > tree/abs/deep/two
