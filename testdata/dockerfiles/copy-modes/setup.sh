mkdir tree
for m in 000 400 4755 2755 1644 777 666 6711; do touch tree/f$m; chmod $m tree/f$m; done
for m in 000 1777 2775 4755 711; do mkdir tree/d$m; chmod $m tree/d$m; done
chown 1234:5678 tree/f777 tree/d711
chmod 777 tree/f777
