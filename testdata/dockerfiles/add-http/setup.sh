mkdir -p ../http/dir
echo content > ../http/dir/file
echo odd > '../http/dir/a b*c'
printf '#!/bin/sh\n' > ../http/run.sh
chmod 755 ../http/run.sh
