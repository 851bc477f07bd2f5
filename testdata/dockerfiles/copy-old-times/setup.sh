touch -d @0 epoch
touch -d @1 one
touch -d '1969-12-31 23:59:59 UTC' before
touch -d '1950-01-01 UTC' long-before
touch -d '2001-01-01 UTC' ordinary
touch -d '1999-09-09 09:09:09.5 UTC' half
