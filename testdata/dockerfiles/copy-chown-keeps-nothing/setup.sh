echo f > f5
chown 5:6 f5
