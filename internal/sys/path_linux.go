// SPDX-License-Identifier: Apache-2.0

// Package sys wraps the Linux system calls that the standard library lacks,
// each once, named and retried on EINTR, and probes what the running kernel
// offers. It holds no policy.
package sys

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenInRoot opens name with root as if root were "/": symbolic links are
// followed, absolute ones and ".." never lead above root, and magic links
// (those of /proc) are refused. It is openat2(2) with RESOLVE_IN_ROOT and
// RESOLVE_NO_MAGICLINKS; flags and mode are those of open(2), O_CLOEXEC is
// added. The error is an *fs.PathError. The caller closes the file.
func OpenInRoot(root *os.File, name string, flags int, mode uint32) (*os.File, error) {
	return openat2(root, name, flags, mode, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// OpenBeneath opens name below root and fails with EXDEV where a symbolic link
// or ".." would leave it (RESOLVE_BENEATH).
func OpenBeneath(root *os.File, name string, flags int, mode uint32) (*os.File, error) {
	return openat2(root, name, flags, mode, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS)
}

func openat2(root *os.File, name string, flags int, mode uint32, resolve uint64) (*os.File, error) {
	if name == "" {
		name = "."
	}
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Mode: uint64(mode), Resolve: resolve}
	for {
		fd, err := unix.Openat2(int(root.Fd()), name, &how)
		if err == nil {
			return os.NewFile(uintptr(fd), path.Join(root.Name(), name)), nil
		}
		// EAGAIN: a rename raced with "..", which the kernel can't prove safe.
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
}

// maxLinks is how many symbolic links a path may lead through, as the kernel
// has it.
const maxLinks = 40

// EnsureInRoot opens name below root with O_PATH, as [OpenInRoot] resolves it.
// For each part of the path that is missing create is called, outermost first,
// to make the entry base in parent, which stands at path in root with all links
// resolved; last says that it is what name itself leads to. Links that lead to
// something missing are followed, so a name behind them can be made. A part of
// the path that is not a directory fails with ENOTDIR.
func EnsureInRoot(root *os.File, name string, create func(parent *os.File, base, path string, last bool) error) (*os.File, error) {
	f, err := OpenInRoot(root, name, unix.O_PATH, 0)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	w := pathWalk{root: root, todo: splitPath(name), create: create}
	if w.dir, err = OpenInRoot(root, ".", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return nil, err
	}
	for len(w.todo) > 0 {
		if err := w.step(); err != nil {
			w.dir.Close()
			return nil, &fs.PathError{Op: "walk", Path: name, Err: err}
		}
	}
	return w.dir, nil
}

// pathWalk is the state of EnsureInRoot: dir is open and stands at the path at,
// which holds no links; todo is what remains to be walked from there.
type pathWalk struct {
	root   *os.File
	dir    *os.File
	at     []string
	todo   []string
	links  int
	create func(parent *os.File, base, path string, last bool) error
}

func (w *pathWalk) step() error {
	name := w.todo[0]
	w.todo = w.todo[1:]
	if name == ".." {
		return w.reopen(w.at[:max(0, len(w.at)-1)])
	}
	f, err := w.open(name)
	if errors.Is(err, unix.ENOENT) {
		at := "/" + path.Join(append(w.at[:len(w.at):len(w.at)], name)...)
		if err := w.create(w.dir, name, at, len(w.todo) == 0); err != nil {
			return err
		}
		f, err = w.open(name)
	}
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		defer f.Close()
		return w.follow(f)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR && len(w.todo) > 0:
		f.Close()
		return unix.ENOTDIR
	}
	w.dir.Close()
	w.dir, w.at = f, append(w.at[:len(w.at):len(w.at)], name)
	return nil
}

// open opens an entry of the current directory, without following it.
func (w *pathWalk) open(name string) (*os.File, error) {
	fd, err := unix.Openat(int(w.dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path.Join(w.dir.Name(), name)), nil
}

func (w *pathWalk) follow(link *os.File) error {
	if w.links++; w.links > maxLinks {
		return unix.ELOOP
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(link.Fd()), "", buf)
	if err != nil {
		return err
	}
	target := string(buf[:n])
	w.todo = append(splitPath(target), w.todo...)
	if strings.HasPrefix(target, "/") {
		return w.reopen(nil)
	}
	return nil
}

func (w *pathWalk) reopen(at []string) error {
	d, err := OpenInRoot(w.root, path.Join(at...), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	w.dir.Close()
	w.dir, w.at = d, at
	return nil
}

func splitPath(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(s string) bool { return s == "" || s == "." })
}

// MkdirAllInRoot makes the directory name below root, as [EnsureInRoot] resolves
// it, with every missing parent, and returns it opened with O_PATH. made is
// called for each directory made, outermost first, with its open descriptor
// and its path below root with all links resolved; it may be nil. Directories
// that exist are left as they are. A part of the path that is not a directory
// fails with ENOTDIR.
func MkdirAllInRoot(root *os.File, name string, mode uint32, made func(dir *os.File, name string) error) (*os.File, error) {
	d, err := EnsureInRoot(root, name, func(parent *os.File, base, at string, _ bool) error {
		return mkdirIn(parent, base, at, mode, made)
	})
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &st); err != nil {
		d.Close()
		return nil, &fs.PathError{Op: "fstat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		d.Close()
		return nil, &fs.PathError{Op: "mkdir", Path: name, Err: unix.ENOTDIR}
	}
	return d, nil
}

func mkdirIn(parent *os.File, base, at string, mode uint32, made func(dir *os.File, name string) error) error {
	if err := unix.Mkdirat(int(parent.Fd()), base, mode); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil // by someone else meanwhile
		}
		return err
	}
	// The new entry is reached from its parent, not by its path: a link put
	// in its place can't be followed.
	fd, err := unix.Openat(int(parent.Fd()), base, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), path.Join(parent.Name(), base))
	defer d.Close()
	// mkdirat applies the umask; the mode asked for is the mode wanted. The
	// set-group-ID bit that it has from its parent stays.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if want := mode | st.Mode&unix.S_ISGID; st.Mode&0o7777 != want {
		if err := unix.Chmod(FDPath(d), want); err != nil {
			return err
		}
	}
	if made == nil {
		return nil
	}
	return made(d, at)
}

// CopyDirAttributes gives the directory to the owner, mode and times of the
// directory from.
func CopyDirAttributes(from, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: from, Err: err}
	}
	var now unix.Stat_t
	if err := unix.Stat(to, &now); err != nil {
		return &fs.PathError{Op: "stat", Path: to, Err: err}
	}
	if st.Uid != now.Uid || st.Gid != now.Gid {
		if err := unix.Chown(to, int(st.Uid), int(st.Gid)); err != nil {
			return &fs.PathError{Op: "chown", Path: to, Err: err}
		}
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return &fs.PathError{Op: "chmod", Path: to, Err: err}
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, times, 0); err != nil {
		return &fs.PathError{Op: "utimensat", Path: to, Err: err}
	}
	return nil
}

// PathOnly opens a file as a mere place in the tree (O_PATH): nothing can be
// read of it, and opening it has no effect on it.
const PathOnly = unix.O_PATH

// ExistsAt says whether a directory has an entry of a name, whatever it is.
func ExistsAt(dir *os.File, name string) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	return err == nil, os.NewSyscallError("fstatat", err)
}

// NoFollow and Directory are flags of open(2).
const (
	NoFollow  = unix.O_NOFOLLOW
	Directory = unix.O_DIRECTORY
)

// ReadLinkOf is the target of a symbolic link that was opened with [PathOnly]
// and [NoFollow].
func ReadLinkOf(f *os.File) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if err != nil {
		return "", os.NewSyscallError("readlinkat", err)
	}
	return string(buf[:n]), nil
}

// ChmodAt sets the mode of an entry of a directory, which is not followed if it
// is a symbolic link: the error is ELOOP or EOPNOTSUPP then. See chmod(2).
func ChmodAt(dir int, name string, mode uint32) error {
	err := unix.Fchmodat(dir, name, mode, unix.AT_SYMLINK_NOFOLLOW)
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EPERM) {
		return os.NewSyscallError("fchmodat", err)
	}
	// Linux before 6.6, or a container's seccomp profile that doesn't know the call.
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return os.NewSyscallError("chmod", unix.ELOOP)
	}
	return os.NewSyscallError("chmod", unix.Chmod(FDPath(f), mode))
}
