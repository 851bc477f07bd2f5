mkdir -p tree
echo f > tree/f
echo n > tree/n
