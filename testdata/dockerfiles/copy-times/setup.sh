mkdir -p dir/sub
echo x > dir/old
touch -d '1999-12-31 23:59:59.123456789 UTC' dir/old
echo x > dir/epoch
touch -d @0 dir/epoch
echo x > dir/before
touch -d '1960-01-01 00:00:00 UTC' dir/before
touch -d @999999999 dir/sub
touch -d @1000000001 dir
