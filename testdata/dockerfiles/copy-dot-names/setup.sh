echo dot > .dot
echo file > file
mkdir dir .dir
echo in > .dir/.in
