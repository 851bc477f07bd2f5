// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"builder/internal/owner"
)

// Overlayfs keeps its marks in these attributes. Marks of either kind are
// never part of a layer, whichever of them a mount uses.
const (
	trustedOverlay = "trusted.overlay."
	userOverlay    = "user.overlay."

	attrCapability = "security.capability"
)

// overlayPrefix is the prefix of the marks that a mount uses.
func overlayPrefix(userXattr bool) string {
	if userXattr {
		return userOverlay
	}
	return trustedOverlay
}

// attrReader reads extended attributes of directory entries, without following
// links. One for each goroutine: it keeps a buffer.
type attrReader struct {
	buf []byte
	// old is set once the kernel turns out to lack listxattrat(2) and
	// getxattrat(2), which came with Linux 6.13.
	old *atomic.Bool
}

func newAttrReader(old *atomic.Bool) *attrReader {
	return &attrReader{buf: make([]byte, 1024), old: old}
}

// list returns the names of the attributes of name in the directory dirFD,
// none if the file system has no attributes.
func (r *attrReader) list(dirFD int, name string) ([]string, error) {
	n, err := r.grow(func(buf []byte) (int, error) { return r.listAt(dirFD, name, buf) })
	if err != nil || n == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(r.buf[:n]), "\x00"), "\x00"), nil
}

// get returns the value of an attribute and whether there is one.
func (r *attrReader) get(dirFD int, name, attr string) (string, bool, error) {
	n, err := r.grow(func(buf []byte) (int, error) { return r.getAt(dirFD, name, attr, buf) })
	if errors.Is(err, unix.ENODATA) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	return string(r.buf[:n]), n > 0, nil
}

// grow calls f with the buffer, and with larger ones while it is too small.
func (r *attrReader) grow(f func(buf []byte) (int, error)) (int, error) {
	for {
		n, err := f(r.buf)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ERANGE) && len(r.buf) < 1<<20:
			r.buf = make([]byte, 4*len(r.buf))
		case errors.Is(err, unix.ENOTSUP):
			return 0, nil
		default:
			return n, err
		}
	}
}

func (r *attrReader) listAt(dirFD int, name string, buf []byte) (int, error) {
	if !r.old.Load() {
		p, err := unix.BytePtrFromString(name)
		if err != nil {
			return 0, err
		}
		n, _, errno := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(dirFD), uintptr(unsafe.Pointer(p)),
			unix.AT_SYMLINK_NOFOLLOW, uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)), 0)
		if errno != unix.ENOSYS {
			return int(n), errnoErr(errno)
		}
		r.old.Store(true)
	}
	return unix.Llistxattr(entryPath(dirFD, name), buf)
}

func (r *attrReader) getAt(dirFD int, name, attr string, buf []byte) (int, error) {
	if !r.old.Load() {
		p, err := unix.BytePtrFromString(name)
		if err != nil {
			return 0, err
		}
		a, err := unix.BytePtrFromString(attr)
		if err != nil {
			return 0, err
		}
		// struct xattr_args of linux/xattr.h, where value is always 64 bits.
		args := struct {
			value uint64
			size  uint32
			flags uint32
		}{value: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(buf)))), size: uint32(len(buf))}
		n, _, errno := unix.Syscall6(unix.SYS_GETXATTRAT, uintptr(dirFD), uintptr(unsafe.Pointer(p)),
			unix.AT_SYMLINK_NOFOLLOW, uintptr(unsafe.Pointer(a)), uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args))
		if errno != unix.ENOSYS {
			return int(n), errnoErr(errno)
		}
		r.old.Store(true)
	}
	return unix.Lgetxattr(entryPath(dirFD, name), attr, buf)
}

// errnoErr makes an error of what a system call returned.
func errnoErr(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// entryPath names an entry of an open directory for calls that take only
// paths. The last element is not followed by the l* calls.
func entryPath(dirFD int, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(dirFD) + "/" + name
}

// attrs is what an entry's attributes say.
type attrs struct {
	keep     []xattr // what the layer carries, sorted
	owner    string  // owner.Attr, "" if it has none
	opaque   bool    // a directory that hides what is below it
	whiteout bool    // a regular file that is a whiteout
}

// errRedirect stands for overlay marks that make an entry mean something that
// only overlayfs can see: data or children that are elsewhere in lower layers.
var errRedirect = errors.New("overlayfs redirect_dir or metacopy is in use, which a layer can't express: the mount must have them off")

// read reads the attributes of name. prefix is that of the overlay marks that
// count, "" for none; users keeps user.* as well as security.capability.
func (r *attrReader) read(dirFD int, name, prefix string, users bool) (attrs, error) {
	var a attrs
	names, err := r.list(dirFD, name)
	if err != nil {
		return a, os.NewSyscallError("listxattr", err)
	}
	for _, attr := range names {
		mark, isMark := strings.CutPrefix(attr, prefix)
		switch {
		case prefix != "" && isMark:
			if err := r.mark(dirFD, name, mark, prefix, &a); err != nil {
				return a, err
			}
		case strings.HasPrefix(attr, userOverlay):
		case attr == owner.Attr:
			if a.owner, _, err = r.get(dirFD, name, attr); err != nil {
				return a, os.NewSyscallError("getxattr "+attr, err)
			}
		case attr == attrCapability, users && strings.HasPrefix(attr, "user."):
			value, ok, err := r.get(dirFD, name, attr)
			if err != nil {
				return a, os.NewSyscallError("getxattr "+attr, err)
			}
			// An empty capability is none; others may be empty.
			if ok || attr != attrCapability {
				a.keep = append(a.keep, xattr{attr, value})
			}
		}
	}
	slices.SortFunc(a.keep, func(x, y xattr) int { return strings.Compare(x.name, y.name) })
	return a, nil
}

// mark notes one of overlay's own attributes (Documentation/filesystems/overlayfs.rst).
func (r *attrReader) mark(dirFD int, name, mark, prefix string, a *attrs) error {
	switch mark {
	case "opaque":
		// "y" hides all of the lower directory; "x" only says that there
		// may be whiteouts that are attributes.
		value, _, err := r.get(dirFD, name, prefix+mark)
		if err != nil {
			return os.NewSyscallError("getxattr "+prefix+mark, err)
		}
		a.opaque = value == "y"
	case "whiteout":
		a.whiteout = true
	case "redirect", "metacopy":
		return errRedirect
	}
	return nil // origin, impure, nlink and the like say nothing about the contents
}

// capabilitiesIn turns a capability of a user namespace's root, as a container in one
// has set it (capabilities(7), "Namespaced file capabilities"), into one of root.
func capabilitiesIn(o Owners, list []xattr) []xattr {
	const (
		sizeV3    = 24 // the last four bytes are whose root is meant
		revisions = 0xff000000
		revision2 = 0x02000000
		revision3 = 0x03000000
	)
	out := slices.Clone(list)
	for i, x := range out {
		value := []byte(x.value)
		if x.name != attrCapability || len(value) != sizeV3 {
			continue
		}
		magic := binary.LittleEndian.Uint32(value)
		root, ok := o.UID(binary.LittleEndian.Uint32(value[sizeV3-4:]))
		if magic&revisions != revision3 || !ok || root != 0 {
			continue
		}
		binary.LittleEndian.PutUint32(value, magic&^revisions|revision2)
		out[i].value = string(value[:sizeV3-4])
	}
	return out
}
