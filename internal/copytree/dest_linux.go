// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links the resolution of one path follows.
const maxLinks = 255

// dest is the root file system that is copied to.
type dest struct {
	root  int
	epoch *Time // of directories that are made
	made  []string
}

// place is where a path leads in the destination: path has no symbolic links
// but where it doesn't exist, and is relative to the root, "." for it.
type place struct {
	path   Name
	exists bool
	stat   Stat // if it exists
}

func (p place) isDir() bool { return p.exists && p.stat.Mode&modeType == modeDir }

// in returns the place of a name in the directory p, looking whether it exists.
func (d *dest) in(p place, name string) (place, error) {
	child := place{path: p.path.Join(MakeName(name))}
	if !p.exists {
		return child, nil
	}
	err := d.stat(&child)
	return child, err
}

// stat looks at p, the last element of which is not followed.
func (d *dest) stat(p *place) error {
	fd, err := openBeneath(d.root, p.path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		p.exists = false
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	p.exists = true
	return StatFD(fd, &p.stat)
}

// resolve follows name, symbolic links included, as a process whose root is d
// would, but for what doesn't exist: the rest of the path is then taken as it
// is written, so that a dangling link leads to where its target would be.
// continuity's fs.RootPath, which BuildKit uses, does so.
func (d *dest) resolve(name string) (place, error) {
	at := place{path: ".\x00"}
	if err := d.stat(&at); err != nil {
		return at, err
	}
	todo := strings.Split(name, "/")
	for links := 0; len(todo) > 0; {
		elem := todo[0]
		todo = todo[1:]
		if elem == "" || elem == "." {
			continue
		}
		next, err := d.step(at, elem)
		if err != nil {
			return at, &pathError{name, err}
		}
		if !next.exists || next.stat.Mode&modeType != modeSymlink {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return at, &pathError{name, errors.New("too many symbolic links")}
		}
		target, err := d.readLink(next.path)
		if err != nil {
			return at, &pathError{name, err}
		}
		if path.IsAbs(target) {
			at = place{path: ".\x00"}
			if err := d.stat(&at); err != nil {
				return at, err
			}
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return at, nil
}

// step goes from at to its element elem, which may be "..".
func (d *dest) step(at place, elem string) (place, error) {
	if elem == ".." {
		up := place{path: MakeName(path.Dir(at.path.String()))}
		err := d.stat(&up)
		return up, err
	}
	if at.exists && !at.isDir() {
		return at, unix.ENOTDIR
	}
	return d.in(at, elem)
}

func (d *dest) readLink(p Name) (string, error) {
	fd, err := openBeneath(d.root, p, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return ReadLink(fd, "\x00")
}

// mkdirAll makes the directory p, which resolve returned, and those above it
// that are missing, each with the mode and owner given. Without an owner they
// have what the kernel gives them, root and the group of a set-group-id parent
// (copy.MkdirAll in BuildKit).
func (d *dest) mkdirAll(p *place, mode uint32, owner *Owner) error {
	if p.exists {
		if !p.isDir() {
			return &pathError{"/" + p.path.String(), unix.ENOTDIR}
		}
		return nil
	}
	parent := place{path: MakeName(path.Dir(p.path.String()))}
	if err := d.stat(&parent); err != nil {
		return &pathError{"/" + parent.path.String(), err}
	}
	if err := d.mkdirAll(&parent, mode, owner); err != nil {
		return err
	}
	if err := d.mkdir(parent.path, MakeName(path.Base(p.path.String())), mode, owner); err != nil {
		return &pathError{"/" + p.path.String(), err}
	}
	d.made = append(d.made, "/"+p.path.String())
	return d.stat(p)
}

func (d *dest) mkdir(parent, name Name, mode uint32, owner *Owner) error {
	dir, err := OpenDir(d.root, parent, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := mkdirAt(dir, name, mode); err != nil {
		return err
	}
	fd, err := openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if owner != nil {
		if err := chownFD(fd, *owner); err != nil {
			return err
		}
	}
	// The umask took bits away. A set-group-id bit that the parent handed down
	// stays.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	return unix.Fchmod(fd, mode|st.Mode&unix.S_ISGID)
}

// settle gives the directories that were made their time.
func (d *dest) settle() error {
	if d.epoch == nil {
		return nil
	}
	for _, p := range d.made {
		if err := setTimesAt(d.root, MakeName(strings.TrimPrefix(p, "/")), *d.epoch); err != nil {
			return &pathError{p, err}
		}
	}
	return nil
}

// pathError says where in the destination something failed.
type pathError struct {
	path string // as the container sees it
	err  error
}

func (e *pathError) Error() string { return fmt.Sprintf("copy to %q: %v", e.path, e.err) }
func (e *pathError) Unwrap() error { return e.err }

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
