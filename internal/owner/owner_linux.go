// SPDX-License-Identifier: Apache-2.0

// Package owner keeps the owners of files for which a user namespace has no ids.
//
// In a namespace with root alone, as an ordinary user without subordinate ids
// has it, every file is root's. What a file's owner is to be in an image then
// is kept beside its content, in an extended attribute, which overlayfs copies
// up with the file. Only regular files and directories can have one: the
// owners of symbolic links and other kinds are lost.
package owner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Attr is the attribute: "UID:GID" in decimal. It is never part of a layer.
const Attr = "user.builder.owner"

// Kept reports whether owners are kept in attributes: whether this process's
// user namespace has a single id.
var Kept = sync.OnceValue(func() bool {
	data, err := os.ReadFile("/proc/self/uid_map")
	words := strings.Fields(string(data))
	return err == nil && len(words) == 3 && words[2] == "1"
})

// ID is an owner.
type ID struct{ UID, GID uint32 }

// String is the attribute's form.
func (id ID) String() string { return fmt.Sprintf("%d:%d", id.UID, id.GID) }

// Parse reads the attribute's form.
func Parse(value string) (id ID, ok bool) {
	uid, gid, _ := strings.Cut(value, ":")
	u, err := strconv.ParseUint(uid, 10, 32)
	g, errG := strconv.ParseUint(gid, 10, 32)
	return ID{uint32(u), uint32(g)}, err == nil && errG == nil
}

// ChownFD changes the owner of an open regular file or directory, or keeps it. A
// file system without such attributes keeps nothing.
func ChownFD(fd int, id ID) error {
	if Kept() {
		return kept(unix.Fsetxattr(fd, Attr, []byte(id.String()), 0))
	}
	return unix.Fchown(fd, int(id.UID), int(id.GID))
}

// ChownAt changes the owner of name in the directory dirFD, which isn't followed,
// or keeps it if it is a regular file or a directory.
func ChownAt(dirFD int, name string, id ID) error {
	if Kept() {
		return Set(fdPath(dirFD)+"/"+name, id)
	}
	return unix.Fchownat(dirFD, name, int(id.UID), int(id.GID), unix.AT_SYMLINK_NOFOLLOW)
}

// Set keeps the owner of a path that is no symbolic link, if it is a regular
// file or a directory.
func Set(path string, id ID) error {
	return kept(unix.Lsetxattr(path, Attr, []byte(id.String()), 0))
}

// kept passes the errors but those that say that there is no place for it.
func kept(err error) error {
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
		return nil
	}
	return os.NewSyscallError("setxattr", err)
}

// Get returns the owner that is kept of a path, whose last element isn't
// followed; ok is false if none is.
func Get(path string) (id ID, ok bool) { return read(unix.Lgetxattr, path) }

// Of is Get of an open file, which may be open as a path only.
func Of(f *os.File) (id ID, ok bool) { return read(unix.Getxattr, fdPath(int(f.Fd()))) }

func read(getxattr func(path, attr string, dest []byte) (int, error), path string) (id ID, ok bool) {
	var buf [24]byte
	n, err := getxattr(path, Attr, buf[:])
	if err != nil {
		return id, false
	}
	return Parse(string(buf[:n]))
}

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// Chown changes the owner of an open file or directory, or keeps it. It may be
// open as a path only.
func Chown(f *os.File, uid, gid int) error {
	name := fdPath(int(f.Fd()))
	if Kept() {
		return kept(unix.Setxattr(name, Attr, []byte(ID{uint32(uid), uint32(gid)}.String()), 0))
	}
	return os.Chown(name, uid, gid)
}

// Adopt keeps an owner for everything in a directory that has none kept. What
// layers and earlier steps have made has one: so this is what is new.
func Adopt(dir string, id ID) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		if _, ok := Get(path); ok {
			return nil
		}
		return Set(path, id)
	})
}
