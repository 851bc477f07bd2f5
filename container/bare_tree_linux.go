// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"builder/internal/duplicate"
	"builder/internal/sys"
	"builder/mount"
)

// bareTree is what was put into a root, in order, and where what was there is
// meanwhile.
type bareTree struct {
	root  *os.File
	aside string // a directory beside the root
	puts  []barePut
	stubs stubs
}

// barePut is an entry of a directory that took the place of another one, or of
// none.
type barePut struct {
	parent        *os.File
	name          string
	had           string       // where the other one is, "" if there was none
	back          func() error // nil to remove what was put
	before, after unix.Stat_t  // of parent
}

func (t *bareTree) open(root *os.File) error {
	at, err := os.Readlink(sys.FDPath(root))
	if err != nil {
		return err
	}
	t.root = root
	t.aside, err = os.MkdirTemp(filepath.Dir(at), "aside-")
	return err
}

// put has make make an entry at a path of the root, and moves away what is
// there.
func (t *bareTree) put(name string, make func(at string) error) error {
	dir, base := path.Dir(name), path.Base(name)
	// Missing directories are no part of what the step does.
	parent, err := t.stubs.ensure(t.root, dir, true, false)
	if err != nil {
		return err
	}
	p := barePut{parent: parent, name: base}
	if err := unix.Fstat(int(parent.Fd()), &p.before); err != nil {
		parent.Close()
		return err
	}
	at := sys.FDPath(parent) + "/" + base
	if _, err := os.Lstat(at); err == nil {
		p.had = filepath.Join(t.aside, strconv.Itoa(len(t.puts)))
		if err := os.Rename(at, p.had); err != nil {
			parent.Close()
			return err
		}
	}
	t.puts = append(t.puts, p)
	if err := make(at); err != nil {
		return err
	}
	return unix.Fstat(int(parent.Fd()), &t.puts[len(t.puts)-1].after)
}

// undo puts everything back as it was, the last first.
func (t *bareTree) undo() error {
	var errs []error
	for i := len(t.puts) - 1; i >= 0; i-- {
		if err := t.puts[i].undo(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", t.puts[i].name, err))
		}
	}
	errs = append(errs, t.stubs.clean())
	if t.aside != "" {
		errs = append(errs, os.RemoveAll(t.aside)) // what is left in it nobody wants
	}
	return errors.Join(errs...)
}

func (p *barePut) undo() error {
	defer p.parent.Close()
	var now unix.Stat_t
	if err := unix.Fstat(int(p.parent.Fd()), &now); err != nil {
		return err
	}
	at := sys.FDPath(p.parent) + "/" + p.name
	if p.back != nil {
		if err := p.back(); err != nil {
			return err // so it stays
		}
	}
	err := os.RemoveAll(at)
	if p.had != "" && err == nil {
		if err = unix.Rename(p.had, at); errors.Is(err, unix.ENOENT) {
			err = os.RemoveAll(p.had) // the step has removed where it was
		}
	}
	times := []unix.Timespec{now.Atim, now.Mtim}
	if now.Mtim == p.after.Mtim {
		times = []unix.Timespec{p.before.Atim, p.before.Mtim} // nothing else has changed it
	}
	return errors.Join(err, os.NewSyscallError("utimensat", unix.UtimesNanoAt(unix.AT_FDCWD, sys.FDPath(p.parent), times, 0)))
}

// mount puts a mount of a step into the root: a cache is moved there and back,
// of everything else there is a copy for as long.
func (t *bareTree) mount(m mount.Mount) error {
	target := path.Clean("/" + m.Target)
	switch {
	case m.Type == mount.Tmpfs:
		mode := m.Mode
		if mode == 0 {
			mode = 0o1777
		}
		return t.put(target, func(at string) error {
			return errors.Join(os.Mkdir(at, 0o700), unix.Chmod(at, mode), os.Chown(at, m.UID, m.GID))
		})
	case m.Type == mount.Bind && m.Tree != nil && m.Inside == nil:
		return t.move(target, m.Tree)
	case m.Type == mount.Bind && m.Tree != nil:
		from, err := os.Readlink(sys.FDPath(m.Tree))
		if err != nil {
			return err
		}
		return t.put(target, func(at string) error { return duplicate.Tree(from, at) })
	case m.Type == mount.Bind && !m.Recursive:
		return t.put(target, func(at string) error { return duplicate.Tree(m.Source, at) })
	}
	return errors.New("a directory of the machine can't be mounted here")
}

// move moves a directory of the machine to a path of the root, and back.
func (t *bareTree) move(target string, dir *os.File) error {
	from, err := os.Readlink(sys.FDPath(dir))
	if err != nil {
		return err
	}
	err = t.put(target, func(at string) error { return os.NewSyscallError("rename "+from, unix.Rename(from, at)) })
	if err != nil {
		return err
	}
	p := &t.puts[len(t.puts)-1]
	p.back = func() error {
		at := sys.FDPath(p.parent) + "/" + p.name
		now, err := os.OpenFile(at, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err == nil {
			same := sameInode(now, dir)
			now.Close()
			if same {
				return os.NewSyscallError("rename "+from, unix.Rename(at, from))
			}
		}
		// The step has removed it, which it can't where it is mounted.
		return os.Mkdir(from, 0o755)
	}
	return nil
}

func sameInode(a, b *os.File) bool {
	one, err1 := a.Stat()
	two, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(one, two)
}
