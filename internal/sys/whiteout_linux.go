// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// MakeWhiteout makes overlayfs's whiteout called name in a directory: a device 0/0
// or, on a file system that refuses that, which overlayfs is one of, the empty file
// with an attribute that stands for it (Documentation/filesystems/overlayfs.rst,
// "Whiteouts and opaque directories"), which attr tells. Nothing is mounted from such
// a place. prefix is that of overlayfs's attributes.
func MakeWhiteout(dirFD int, name, prefix string) (attr bool, err error) {
	err = unix.Mknodat(dirFD, name, unix.S_IFCHR, 0)
	if !errors.Is(err, unix.EPERM) {
		return false, os.NewSyscallError("mknod whiteout", err)
	}
	if err := unix.Mknodat(dirFD, name, unix.S_IFREG, 0); err != nil {
		return true, os.NewSyscallError("mknod whiteout", err)
	}
	path := "/proc/self/fd/" + strconv.Itoa(dirFD) + "/" + name
	return true, os.NewSyscallError("setxattr whiteout", unix.Lsetxattr(path, prefix+"whiteout", []byte("y"), 0))
}
