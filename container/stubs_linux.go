// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// stubs are the mount points that were missing in a root and were made, and a link
// besides. They are no part of what the container's process did, so they are removed again
// when it is gone, as BuildKit does: all but /proc, /dev and /sys, which stay
// in its layers too.
//
// A stub is removed only if it is still the very file or directory that was
// made, and empty. Everything is addressed by its opened parent directory, so
// whatever the container has put in the place of some parent is not followed.
type stubs struct {
	made    []stub
	parents []*stubParent
}

type stub struct {
	parent *stubParent
	name   string
	file   *os.File // opened with O_PATH; holds the inode, so that its number isn't used again
	dir    bool
	link   string // what a link leads to
}

// stubParent is a directory that got a stub, with its times before and after.
type stubParent struct {
	dir           *os.File
	dev, ino      uint64
	before, after unix.Stat_t
	kept          bool // has an entry that is not removed again
}

// ensure opens name in root with O_PATH; what is missing of it is made, the
// last part as a directory or an empty file. Unless keep is set, all of that
// becomes stubs.
func (s *stubs) ensure(root *os.File, name string, dir, keep bool) (*os.File, error) {
	return sys.EnsureInRoot(root, name, func(parent *os.File, base, _ string, last bool) error {
		p, err := s.parent(parent)
		if err != nil {
			return err
		}
		st := stub{parent: p, name: base, dir: dir || !last}
		err = st.create()
		if errors.Is(err, unix.EEXIST) {
			return nil // another container that shares the directory was faster
		}
		if err != nil {
			return err
		}
		if keep {
			p.kept = true
			return st.file.Close()
		}
		s.made = append(s.made, st)
		return unix.Fstat(int(p.dir.Fd()), &p.after)
	})
}

// ensureLink makes a symbolic link in a directory of root where it is missing, unless
// the directory is.
func (s *stubs) ensureLink(root *os.File, dir, name, target string) error {
	d, err := sys.OpenInRoot(root, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); !errors.Is(err, unix.ENOENT) {
		return err
	}
	p, err := s.parent(d)
	if err != nil {
		return err
	}
	link := stub{parent: p, name: name, link: target}
	if err := link.create(); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return err
	}
	s.made = append(s.made, link)
	return unix.Fstat(int(p.dir.Fd()), &p.after)
}

// parent finds or makes the record of a directory that is about to get a stub.
func (s *stubs) parent(dir *os.File) (*stubParent, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, err
	}
	for _, p := range s.parents {
		if p.dev == st.Dev && p.ino == st.Ino {
			return p, nil
		}
	}
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	p := &stubParent{dir: os.NewFile(uintptr(fd), dir.Name()), dev: st.Dev, ino: st.Ino, before: st}
	s.parents = append(s.parents, p)
	return p, nil
}

// create makes the file or directory and opens it.
func (st *stub) create() error {
	at := int(st.parent.dir.Fd())
	var err error
	mode := uint32(0o644)
	switch {
	case st.link != "":
		err = unix.Symlinkat(st.link, at, st.name)
	case st.dir:
		mode = 0o755
		err = unix.Mkdirat(at, st.name, mode)
	default:
		err = unix.Mknodat(at, st.name, unix.S_IFREG|mode, 0)
	}
	if err != nil {
		return err
	}
	fd, err := unix.Openat(at, st.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	st.file = os.NewFile(uintptr(fd), st.name)
	if st.link != "" {
		return nil
	}
	// The umask has taken from the mode.
	return unix.Chmod(sys.FDPath(st.file), mode)
}

// clean removes the stubs and gives their parents the times back that they
// would have without them. It is called once.
func (s *stubs) clean() error {
	defer s.close()
	now := make([]unix.Stat_t, len(s.parents))
	for i, p := range s.parents {
		if err := unix.Fstat(int(p.dir.Fd()), &now[i]); err != nil {
			return fmt.Errorf("clean mount points: %w", err)
		}
	}
	var errs []error
	removed := false
	for i := len(s.made) - 1; i >= 0; i-- {
		ok, err := s.made[i].remove()
		removed = removed || ok
		if err != nil {
			errs = append(errs, fmt.Errorf("remove mount point %q: %w", s.made[i].name, err))
		}
	}
	if !removed {
		return errors.Join(errs...)
	}
	for i, p := range s.parents {
		times := []unix.Timespec{now[i].Atim, now[i].Mtim}
		if !p.kept && now[i].Mtim == p.after.Mtim {
			times = []unix.Timespec{p.before.Atim, p.before.Mtim} // nothing else has changed it
		}
		// Another container on the same directory may have removed it.
		err := unix.UtimesNanoAt(unix.AT_FDCWD, sys.FDPath(p.dir), times, 0)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, os.NewSyscallError("utimensat", err))
		}
	}
	return errors.Join(errs...)
}

// remove removes the stub if it still is one.
func (st *stub) remove() (bool, error) {
	at := int(st.parent.dir.Fd())
	var made, found unix.Stat_t
	if err := unix.Fstat(int(st.file.Fd()), &made); err != nil {
		return false, err
	}
	err := unix.Fstatat(at, st.name, &found, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || found.Dev != made.Dev || found.Ino != made.Ino || !st.dir && st.link == "" && found.Size != 0 {
		return false, nil
	}
	flags := 0
	if st.dir {
		flags = unix.AT_REMOVEDIR
	}
	switch err := unix.Unlinkat(at, st.name, flags); {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EROFS):
		return false, nil // used, gone, or made read-only for the container
	default:
		return false, err
	}
}

func (s *stubs) close() {
	for _, st := range s.made {
		st.file.Close()
	}
	for _, p := range s.parents {
		p.dir.Close()
	}
}
