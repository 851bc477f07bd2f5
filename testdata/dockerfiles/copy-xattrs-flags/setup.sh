mkdir d
echo f > f
echo g > d/g
setfattr -n user.one -v 1 f
setfattr -n user.binary -v 0x00ff00 f
setfattr -n trusted.t -v t f
setfattr -n user.g -v g d/g
setfattr -n user.d -v d d
