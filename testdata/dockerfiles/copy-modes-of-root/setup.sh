chmod 2751 .
mkdir sub
chmod 1700 sub
touch -d @1000000000 sub
