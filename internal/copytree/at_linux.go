// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"builder/internal/owner"
)

const (
	modeType    = unix.S_IFMT
	modeDir     = unix.S_IFDIR
	modeRegular = unix.S_IFREG
	modeSymlink = unix.S_IFLNK
)

// The calls below exist in package unix too, but there they copy the name to
// add the NUL byte, and some have other types on each architecture.

// Pointers become uintptr in the calls themselves and nowhere else, as package
// unsafe demands.

func (n Name) ptr() *byte { return unsafe.StringData(string(n)) }

// StatAt looks at name in the open directory dir, not following a link.
func StatAt(dir int, name Name, st *Stat) error {
	return statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, st)
}

// StatFD looks at an open file.
func StatFD(fd int, st *Stat) error {
	return statx(fd, "\x00", unix.AT_EMPTY_PATH, st)
}

func statx(dir int, name Name, flags uintptr, st *Stat) error {
	var x unix.Statx_t
	for {
		_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(name.ptr())), flags,
			unix.STATX_BASIC_STATS, uintptr(unsafe.Pointer(&x)), 0)
		switch errno {
		case 0:
		case unix.EINTR:
			continue
		default:
			return errno
		}
		break
	}
	*st = Stat{
		Dev:    unix.Mkdev(x.Dev_major, x.Dev_minor),
		Ino:    x.Ino,
		Rdev:   unix.Mkdev(x.Rdev_major, x.Rdev_minor),
		Size:   int64(x.Size),
		Mtime:  Time{x.Mtime.Sec, x.Mtime.Nsec},
		Ctime:  Time{x.Ctime.Sec, x.Ctime.Nsec},
		Mode:   uint32(x.Mode),
		UID:    x.Uid,
		GID:    x.Gid,
		Nlinks: x.Nlink,
	}
	return nil
}

// OpenDir opens the directory path of the tree whose root is open as root. No
// link is followed, so that a directory that was replaced by a link is an
// error (ELOOP). The caller closes the descriptor.
func OpenDir(root int, path Name, flags int) (int, error) {
	return openBeneath(root, path, flags|unix.O_DIRECTORY, 0)
}

func openBeneath(root int, path Name, flags int, mode uint32) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Mode:    uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	for {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT2, uintptr(root), uintptr(unsafe.Pointer(path.ptr())),
			uintptr(unsafe.Pointer(&how)), unix.SizeofOpenHow, 0, 0)
		switch errno {
		case 0:
			return int(fd), nil
		case unix.EINTR, unix.EAGAIN: // EAGAIN: a rename raced with ".."
		default:
			return -1, errno
		}
	}
}

// OpenFileAt opens the regular file name in dir for reading, following no
// link. What isn't a regular file any more may be opened too, without waiting:
// the caller looks at it.
func OpenFileAt(dir int, name Name) (int, error) {
	return openAt(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
}

func openAt(dir int, name Name, flags int, mode uint32) (int, error) {
	for {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(name.ptr())),
			uintptr(flags|unix.O_CLOEXEC|unix.O_LARGEFILE), uintptr(mode), 0, 0)
		switch errno {
		case 0:
			return int(fd), nil
		case unix.EINTR:
		default:
			return -1, errno
		}
	}
}

// Gone tells whether an error of opening something that was there says that it
// is not there any more, or is a link or something else now.
func Gone(err error) bool {
	for _, errno := range []unix.Errno{unix.ENOENT, unix.ELOOP, unix.ENOTDIR, unix.ENXIO, unix.ESTALE} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// ReadNames calls fn for every name in the open directory but "." and "..",
// in no order. name has its NUL byte and is only good during the call. buf is
// scratch, at least 4 KiB.
func ReadNames(dir int, buf []byte, fn func(name []byte)) error {
	for {
		n, err := unix.Getdents(dir, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		// struct linux_dirent64: inode 8, offset 8, length 2, type 1, name.
		for b := buf[:n]; len(b) >= 20; {
			size := int(binary.NativeEndian.Uint16(b[16:]))
			name := b[19:size]
			b = b[size:]
			end := slices.Index(name, 0)
			if s := name[:end]; string(s) == "." || string(s) == ".." {
				continue
			}
			fn(name[:end+1])
		}
	}
}

// ReadLink returns the target of the symbolic link name in dir.
func ReadLink(dir int, name Name) (string, error) {
	var buf [unix.PathMax]byte
	n, _, errno := unix.Syscall6(unix.SYS_READLINKAT, uintptr(dir), uintptr(unsafe.Pointer(name.ptr())),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0)
	if errno != 0 {
		return "", errno
	}
	return string(buf[:n]), nil
}

func mkdirAt(dir int, name Name, mode uint32) error {
	_, _, errno := unix.Syscall(unix.SYS_MKDIRAT, uintptr(dir), uintptr(unsafe.Pointer(name.ptr())), uintptr(mode))
	return errnoErr(errno)
}

func symlinkAt(target string, dir int, name Name) error {
	to := MakeName(target)
	_, _, errno := unix.Syscall(unix.SYS_SYMLINKAT, uintptr(unsafe.Pointer(to.ptr())), uintptr(dir), uintptr(unsafe.Pointer(name.ptr())))
	return errnoErr(errno)
}

// chownFD changes the owner of an open file or directory.
func chownFD(fd int, o Owner) error { return owner.ChownFD(fd, owner.ID(o)) }

// chownAt changes the owner of a name, which isn't followed. The call is made here
// where it can be, for a [Name] needs no copy.
func chownAt(dir int, name Name, o Owner) error {
	if owner.Kept() {
		return owner.ChownAt(dir, name.String(), owner.ID(o))
	}
	_, _, errno := unix.Syscall6(unix.SYS_FCHOWNAT, uintptr(dir), uintptr(unsafe.Pointer(name.ptr())), uintptr(o.UID), uintptr(o.GID),
		unix.AT_SYMLINK_NOFOLLOW, 0)
	return errnoErr(errno)
}

// setTimesAt sets both times of name in dir, or with an empty name those of
// the open file dir. Access times are not part of an image; leaving the time
// of copying there would tell a machine's clock.
func setTimesAt(dir int, name Name, t Time) error {
	ts := [2]unix.Timespec{timespec(t), timespec(t)}
	var p *byte
	flags := 0
	if name != "" {
		p, flags = name.ptr(), unix.AT_SYMLINK_NOFOLLOW
	}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(dir), uintptr(unsafe.Pointer(p)),
		uintptr(unsafe.Pointer(&ts[0])), uintptr(flags), 0, 0)
	return errnoErr(errno)
}

func timespec(t Time) unix.Timespec {
	ts := unix.NsecToTimespec(int64(t.Nsec))
	// The field is 32 bits wide on 32-bit machines.
	setSec(&ts.Sec, t.Sec)
	return ts
}

func setSec[T int32 | int64](p *T, sec int64) { *p = T(sec) }

func errnoErr(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// CopiedXattr tells whether an extended attribute is copied. Others are the
// host's own affair (labels, access lists with host users, trusted.*), and
// overlay's, and owners that are kept, must never be set by content.
func CopiedXattr(name string) bool {
	if name == "security.capability" {
		return true
	}
	return strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.") && name != owner.Attr
}

// FileXattrs returns the attributes of an open file that are copied.
func FileXattrs(fd int) ([]Xattr, error) {
	return readXattrs(
		func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) },
		func(name string, buf []byte) (int, error) { return unix.Fgetxattr(fd, name, buf) })
}

// XattrsAt is [FileXattrs] of name in dir, of whatever type it is.
func XattrsAt(dir int, name Name) ([]Xattr, error) {
	path := fdPath(dir) + "/" + name.String()
	return readXattrs(
		func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) },
		func(name string, buf []byte) (int, error) { return unix.Lgetxattr(path, name, buf) })
}

func readXattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) ([]Xattr, error) {
	var small [512]byte
	names, err := readSized(small[:], list)
	if errors.Is(err, unix.ENOTSUP) || len(names) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var xs []Xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if !CopiedXattr(name) {
			continue
		}
		value, err := readSized(nil, func(buf []byte) (int, error) { return get(name, buf) })
		if errors.Is(err, unix.ENODATA) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		xs = append(xs, Xattr{name, string(value)})
	}
	slices.SortFunc(xs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return xs, nil
}

// readSized calls read with buf, or a larger buffer if that is too small.
func readSized(buf []byte, read func([]byte) (int, error)) ([]byte, error) {
	for {
		if len(buf) == 0 {
			n, err := read(nil)
			if err != nil || n == 0 {
				return nil, err
			}
			buf = make([]byte, n)
		}
		n, err := read(buf)
		switch {
		case err == nil:
			return buf[:n], nil
		case errors.Is(err, unix.ERANGE), errors.Is(err, unix.EINTR):
			buf = nil
		default:
			return nil, err
		}
	}
}
