// SPDX-License-Identifier: Apache-2.0

// Package duplicate copies files with everything that they have but overlayfs's
// own marks. Nobody else may change what it copies from and to.
package duplicate

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// overlayAttrs begin the names of overlayfs's marks.
var overlayAttrs = []string{"user.overlay.", "trusted.overlay."}

// Tree copies a file or a directory with all that is in it. to must not be there.
// Several names of one file become several files.
func Tree(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: from, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return File(from, to, &st)
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := Tree(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return Attributes(from, to)
}

// File copies a file of any kind but a directory, whose status is given, with its
// attributes. to must not be there.
func File(from, to string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if err := copyData(from, to); err != nil {
			return err
		}
	case unix.S_IFLNK:
		target, err := os.Readlink(from)
		if err == nil {
			err = os.Symlink(target, to)
		}
		if err != nil {
			return err
		}
	default:
		if err := unix.Mknod(to, st.Mode, int(st.Rdev)); err != nil {
			return &fs.PathError{Op: "mknod", Path: to, Err: err}
		}
	}
	return Attributes(from, to)
}

// copyData copies a regular file's content, without copying it where the file
// system can share it.
func copyData(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) != nil {
		_, err = io.Copy(out, in) // copy_file_range(2)
	}
	return errors.Join(err, out.Close())
}

// Attributes gives a file or directory owner, extended attributes, mode and times
// of another one. Of a symbolic link it leaves mode and extended attributes.
func Attributes(from, to string) error {
	var st, now unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: from, Err: err}
	}
	if err := unix.Lstat(to, &now); err != nil {
		return &fs.PathError{Op: "stat", Path: to, Err: err}
	}
	if st.Uid != now.Uid || st.Gid != now.Gid {
		if err := unix.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
			return &fs.PathError{Op: "chown", Path: to, Err: err}
		}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := copyXattrs(from, to); err != nil {
			return err
		}
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
			return &fs.PathError{Op: "chmod", Path: to, Err: err}
		}
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimensat", Path: to, Err: err}
	}
	return nil
}

// copyXattrs makes the extended attributes of a file those of another one, but
// for overlayfs's.
func copyXattrs(from, to string) error {
	want, err := xattrs(from)
	if err != nil {
		return err
	}
	have, err := xattrs(to)
	if err != nil {
		return err
	}
	for name, value := range want {
		if have[name] == value {
			continue
		}
		if err := unix.Lsetxattr(to, name, []byte(value), 0); err != nil {
			return &fs.PathError{Op: "set attribute " + name + " of", Path: to, Err: err}
		}
	}
	for name := range have {
		if _, ok := want[name]; ok {
			continue
		}
		if err := unix.Lremovexattr(to, name); err != nil {
			return &fs.PathError{Op: "remove attribute " + name + " of", Path: to, Err: err}
		}
	}
	return nil
}

func xattrs(path string) (map[string]string, error) {
	names, err := xattrValue(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "list attributes of", Path: path, Err: err}
	}
	out := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(names, "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, overlayAttrs[0]) || strings.HasPrefix(name, overlayAttrs[1]) {
			continue
		}
		value, err := xattrValue(func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
		if err != nil {
			return nil, &fs.PathError{Op: "read attribute " + name + " of", Path: path, Err: err}
		}
		out[name] = value
	}
	return out, nil
}

// xattrValue calls get with a buffer that is large enough.
func xattrValue(get func([]byte) (int, error)) (string, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := get(b)
		if !errors.Is(err, unix.ERANGE) || size > 1<<20 {
			return string(b[:max(n, 0)]), err
		}
	}
}
