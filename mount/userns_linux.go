// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// AsRoot runs f with the namespace's root as owner of what it makes. f makes
// nothing in other goroutines. A nil UserNS leaves it as it is.
func (u *UserNS) AsRoot(f func() error) error {
	if u == nil {
		return f()
	}
	return sys.AsFileUser(u.UID, u.GID, f)
}

// show has a detached mount, with what is below it if flags say so, show its
// owners by the namespace.
func (u *UserNS) show(fd int, flags uint, name string) error {
	err := unix.MountSetattr(fd, "", flags|unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(u.File.Fd())})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("show owners of %s by a user namespace: the file system can't do that (idmapped mounts): %w", name, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("show owners of %s by a user namespace: only the machine's root may do that, for mounts that aren't shown so yet: %w", name, err)
	}
	return fmt.Errorf("show owners of %s by a user namespace: %w", name, err)
}

// directories opens directories for an overlay.
type directories struct {
	ns    *UserNS
	trees []mappedTree
}

// mappedTree is an idmapped mount of a directory.
type mappedTree struct {
	dir string
	fd  int
}

func (d *directories) close() {
	for _, t := range d.trees {
		unix.Close(t.fd)
	}
}

// share makes one mount for all directories in dir: each costs some time to be
// undone.
func (d *directories) share(dir string) error {
	// Attached, since overlays of what is in no mount namespace are refused
	// before Linux 6.15. Where it hides what else is there nobody looks.
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: dir, Err: err}
	}
	d.trees = append(d.trees, mappedTree{dir, fd})
	if err := d.ns.show(fd, 0, dir); err != nil {
		return err
	}
	return os.NewSyscallError("move_mount", unix.MoveMount(fd, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH))
}

// open opens a directory as a mere place.
func (d *directories) open(dir string) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	fd, err := unix.Open(dir, flags, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	if d.ns == nil {
		return fd, nil
	}
	defer unix.Close(fd)
	for _, t := range d.trees {
		rest, ok := strings.CutPrefix(dir, t.dir+"/")
		if !ok && dir != t.dir {
			continue
		}
		mapped, err := unix.Openat(t.fd, filepath.Clean("./"+rest), flags, 0)
		if err != nil {
			continue
		}
		if sameFile(fd, mapped) {
			return mapped, nil
		}
		unix.Close(mapped) // another mount is there
	}
	if err := d.share(dir); err != nil {
		return -1, err
	}
	return unix.FcntlInt(uintptr(d.trees[len(d.trees)-1].fd), unix.F_DUPFD_CLOEXEC, 0)
}

func sameFile(a, b int) bool {
	var one, two unix.Stat_t
	return unix.Fstat(a, &one) == nil && unix.Fstat(b, &two) == nil && one.Dev == two.Dev && one.Ino == two.Ino
}
