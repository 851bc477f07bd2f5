echo file > file
echo dollar > '$SRC'
echo space > 'with space'
