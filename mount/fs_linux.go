// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// FS describes a mount of a file system that needs no device: tmpfs, devpts,
// cgroup2 and the like.
type FS struct {
	Type    string
	Source  string // shown in mount tables; Type if empty
	Options []Option
	Attr    int // MOUNT_ATTR_* flags
}

// Option is an option of a file system; without a Value it is a flag.
type Option struct{ Key, Value string }

// Open makes a new file system and returns it mounted, detached. Closing the
// file unmounts it.
func (f FS) Open() (*os.File, error) {
	fs, err := unix.Fsopen(f.Type, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen %s: %w", f.Type, err)
	}
	defer unix.Close(fs)
	source := f.Source
	if source == "" {
		source = f.Type
	}
	for _, o := range append([]Option{{"source", source}}, f.Options...) {
		if o.Value == "" {
			err = unix.FsconfigSetFlag(fs, o.Key)
		} else {
			err = unix.FsconfigSetString(fs, o.Key, o.Value)
		}
		if err != nil {
			return nil, fmt.Errorf("%s option %s=%s: %w%s", f.Type, o.Key, o.Value, err, fsLog(fs))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("mount %s: %w%s", f.Type, err, fsLog(fs))
	}
	m, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, f.Attr)
	if err != nil {
		return nil, fmt.Errorf("fsmount %s: %w", f.Type, err)
	}
	return os.NewFile(uintptr(m), f.Type), nil
}

// propagations are the values of Mount.Propagation.
var propagations = map[string]struct {
	flag      uint64
	recursive bool
}{
	"":            {unix.MS_PRIVATE, true},
	"private":     {unix.MS_PRIVATE, false},
	"rprivate":    {unix.MS_PRIVATE, true},
	"slave":       {unix.MS_SLAVE, false},
	"rslave":      {unix.MS_SLAVE, true},
	"shared":      {unix.MS_SHARED, false},
	"rshared":     {unix.MS_SHARED, true},
	"unbindable":  {unix.MS_UNBINDABLE, false},
	"runbindable": {unix.MS_UNBINDABLE, true},
}

// IsPropagation says whether a word is a value of Mount.Propagation, and not the empty one.
func IsPropagation(word string) bool {
	_, is := propagations[word]
	return is && word != ""
}

// Open makes the mount and returns it detached, ready to be moved to its
// target. What m has as source is not changed by it, with one exception: Linux
// before 6.15 can't copy a detached mount, so a Tree that is one is returned
// itself, duplicated, and serves only once.
func (m Mount) Open() (*os.File, error) {
	switch m.Type {
	case Bind:
		return m.openBind()
	case Tmpfs:
		return m.openTmpfs()
	}
	return nil, fmt.Errorf("unknown mount type %q", m.Type)
}

func (m Mount) openTmpfs() (*os.File, error) {
	mode := m.Mode
	if mode == 0 {
		mode = 0o1777
	}
	opts := []Option{{"mode", fmt.Sprintf("%04o", mode)}}
	if m.Size > 0 {
		opts = append(opts, Option{"size", fmt.Sprint(m.Size)})
	}
	if m.UID != 0 || m.GID != 0 {
		opts = append(opts, Option{"uid", fmt.Sprint(m.UID)}, Option{"gid", fmt.Sprint(m.GID)})
	}
	if m.Inodes != "" {
		opts = append(opts, Option{"nr_inodes", m.Inodes})
	}
	f, err := FS{Type: "tmpfs", Options: opts, Attr: int(m.Attributes())}.Open()
	if err != nil || m.Propagation == "" {
		return f, err
	}
	return m.propagating(f, unix.AT_EMPTY_PATH)
}

// propagating gives a new mount its propagation.
func (m Mount) propagating(f *os.File, flags uint) (*os.File, error) {
	prop, ok := propagations[m.Propagation]
	if !ok {
		f.Close()
		return nil, fmt.Errorf("unknown mount propagation %q", m.Propagation)
	}
	if prop.recursive {
		flags |= unix.AT_RECURSIVE
	} else {
		flags &^= unix.AT_RECURSIVE
	}
	if err := unix.MountSetattr(int(f.Fd()), "", flags, &unix.MountAttr{Propagation: prop.flag}); err != nil {
		f.Close()
		return nil, os.NewSyscallError("mount_setattr propagation", err)
	}
	return f, nil
}

func (m Mount) openBind() (*os.File, error) {
	f, err := m.clone()
	if err != nil {
		return nil, err
	}
	all, top := m.Attributes(), uint64(0)
	if m.TopReadOnly {
		top = all & unix.MOUNT_ATTR_RDONLY
		all &^= top
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if m.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	for _, set := range []struct {
		attr  uint64
		flags uint
	}{{all, flags}, {top, unix.AT_EMPTY_PATH}} {
		if set.attr == 0 {
			continue
		}
		if err := unix.MountSetattr(int(f.Fd()), "", set.flags, &unix.MountAttr{Attr_set: set.attr}); err != nil {
			f.Close()
			return nil, os.NewSyscallError("mount_setattr", err)
		}
	}
	if m.UserNS != nil {
		if err := m.UserNS.show(int(f.Fd()), flags, f.Name()); err != nil {
			f.Close()
			return nil, err
		}
	}
	return m.propagating(f, flags)
}

// clone makes the bind mount of the source.
func (m Mount) clone() (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if m.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	if m.Tree == nil {
		fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, flags)
		if err != nil {
			return nil, &os.PathError{Op: "open_tree", Path: m.Source, Err: err}
		}
		return os.NewFile(uintptr(fd), m.Source), nil
	}
	fd, err := unix.OpenTree(int(m.Tree.Fd()), "", flags|unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.FcntlInt(m.Tree.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: m.Tree.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), m.Tree.Name()), nil
}

// Attributes are the MOUNT_ATTR_* flags of the mount.
func (m Mount) Attributes() uint64 {
	var attr uint64
	for flag, set := range map[uint64]bool{
		unix.MOUNT_ATTR_RDONLY:  m.ReadOnly,
		unix.MOUNT_ATTR_NOEXEC:  m.NoExec,
		unix.MOUNT_ATTR_NOSUID:  m.NoSuid,
		unix.MOUNT_ATTR_NODEV:   m.NoDev,
		unix.MOUNT_ATTR_NOATIME: m.NoAtime,
	} {
		if set {
			attr |= flag
		}
	}
	return attr
}
