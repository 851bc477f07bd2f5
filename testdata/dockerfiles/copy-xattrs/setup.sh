echo f > f
mkdir d
setfattr -n user.note -v hello f
setfattr -n user.dir -v yes d
setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 f
tar --format=posix --pax-option=delete=atime,delete=ctime --mtime=@1200000000 --xattrs --xattrs-include='*' -cf tar f
