echo tool > tool
setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 tool
