// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Limits on what a tar's names may ask for. The kernel takes no longer ones.
const (
	maxName  = 4095
	maxLinks = 40  // symbolic links on the way to one directory
	maxOpen  = 512 // directories kept open
)

// Errors of names.
var (
	errEscapes   = errors.New(`the name leads out of the root with ".."`)
	errNameLong  = fmt.Errorf("the name is longer than %d bytes", maxName)
	errNameNUL   = errors.New("the name holds a NUL byte")
	errNoParent  = errors.New("no such directory")
	errNotDir    = errors.New("a parent is not a directory")
	errWhiteout  = errors.New("not a valid name of a whiteout")
	errRootEntry = errors.New("the root is not a directory")
)

// cleanName makes of a tar's name a path from the root, without a leading
// slash and "" for the root itself. Absolute names are taken from the root.
func cleanName(name string) (string, error) {
	switch {
	case len(name) > maxName:
		return "", errNameLong
	case strings.Contains(name, "\x00"):
		return "", errNameNUL
	}
	name = path.Clean(name)
	if name == ".." || strings.HasPrefix(name, "../") {
		return "", errEscapes
	}
	if name = strings.TrimPrefix(name, "/"); name == "." {
		name = ""
	}
	return name, nil
}

// splitLast splits a clean path into the directory and the last name.
func splitLast(p string) (dir, base string) {
	i := strings.LastIndexByte(p, '/')
	if i < 0 {
		return "", p
	}
	return p[:i], p[i+1:]
}

// node is an open directory of the tree that is unpacked into. It is closed
// when everyone who holds it has dropped it.
type node struct {
	fd   int
	path string // from the root, with no symbolic link in it; "" is the root
	uses atomic.Int32
}

func newNode(fd int, path string) *node {
	n := &node{fd: fd, path: path}
	n.uses.Store(1)
	return n
}

func (n *node) hold() *node {
	n.uses.Add(1)
	return n
}

func (n *node) drop() {
	if n.uses.Add(-1) == 0 {
		unix.Close(n.fd)
	}
}

// join is the path of a name in the directory.
func (n *node) join(name string) string {
	if n.path == "" {
		return name
	}
	return n.path + "/" + name
}

// resolver finds directories below a root, as if the root were "/": absolute
// symbolic links start there and ".." stops there. It goes one name at a time,
// each looked up in an open directory and never followed by the kernel, so
// nothing outside can be reached. The tree must be its own; what is changed
// beside it must be told with forget.
type resolver struct {
	root  *node
	known map[string]*node // by path as asked for
	// before waits until nothing is being made at a path.
	before func(path string) error
	// missing makes a directory where there is nothing, or an overlay
	// whiteout, and returns it.
	missing func(parent *node, name string) (*node, error)
	// whiteouts are the paths of overlay whiteouts that are no devices.
	whiteouts map[string]bool
}

// forget closes what is known, after a directory or a link was removed or
// replaced.
func (r *resolver) forget() {
	for _, n := range r.known {
		n.drop()
	}
	clear(r.known)
}

// remember keeps n for the path name.
func (r *resolver) remember(name string, n *node) {
	if len(r.known) >= maxOpen {
		r.forget()
	}
	if old := r.known[name]; old != nil {
		old.drop()
	}
	r.known[name] = n.hold()
}

// resolve returns the directory that the clean path name leads to; the caller
// drops it. With create, directories that are missing are made, where a
// dangling symbolic link leads to as well; without, they are errNoParent.
func (r *resolver) resolve(name string, create bool) (*node, error) {
	if name == "" {
		return r.root.hold(), nil
	}
	if n := r.known[name]; n != nil {
		return n.hold(), nil
	}
	dir, base := splitLast(name)
	parent, err := r.resolve(dir, create)
	if err != nil {
		return nil, err
	}
	defer parent.drop()
	links := 0
	n, err := r.step(parent, base, create, &links)
	if err != nil {
		return nil, err
	}
	r.remember(name, n)
	return n, nil
}

// step returns the directory that name in parent is or leads to.
func (r *resolver) step(parent *node, name string, create bool, links *int) (*node, error) {
	switch name {
	case "", ".":
		return parent.hold(), nil
	case "..":
		// The path has no links in it, so its parent is what it looks like.
		dir, _ := splitLast(parent.path)
		return r.resolve(dir, false)
	}
	full := parent.join(name)
	if len(full) > maxName {
		return nil, errNameLong
	}
	if err := r.before(full); err != nil {
		return nil, err
	}
	fd, err := openDir(parent.fd, name)
	switch {
	case err == nil:
		return newNode(fd, full), nil
	case errors.Is(err, unix.ENOENT) && create:
		return r.missing(parent, name)
	case errors.Is(err, unix.ENOENT):
		return nil, errNoParent
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return r.through(parent, name, create, links)
	}
	return nil, os.NewSyscallError("open", err)
}

// through follows the symbolic link name in parent.
func (r *resolver) through(parent *node, name string, create bool, links *int) (*node, error) {
	target, err := readlink(parent.fd, name, make([]byte, maxName+2))
	if errors.Is(err, unix.EINVAL) {
		return r.notLink(parent, name, create)
	}
	if err != nil {
		return nil, os.NewSyscallError("readlink", err)
	}
	if *links++; *links > maxLinks {
		return nil, unix.ELOOP
	}
	at := parent.hold()
	if strings.HasPrefix(target, "/") {
		at.drop()
		at = r.root.hold()
	}
	for name := range strings.SplitSeq(target, "/") {
		next, err := r.step(at, name, create, links)
		at.drop()
		if err != nil {
			return nil, err
		}
		at = next
	}
	return at, nil
}

// notLink is where a path goes through something that is no directory: an
// error, unless it is a whiteout, which has nothing below it yet.
func (r *resolver) notLink(parent *node, name string, create bool) (*node, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(parent.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, os.NewSyscallError("stat", err)
	}
	if !isWhiteoutDevice(&st) && !r.whiteouts[parent.join(name)] {
		return nil, errNotDir
	}
	if !create {
		return nil, errNoParent
	}
	return r.missing(parent, name)
}

// openDir opens the directory name, which must not be a link.
func openDir(dirFD int, name string) (int, error) {
	for {
		fd, err := unix.Openat(dirFD, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// removeAll removes name and everything below it.
func removeAll(dirFD int, name string) error {
	err := unix.Unlinkat(dirFD, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) {
		return os.NewSyscallError("unlink", err)
	}
	fd, err := openDir(dirFD, name)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	names, err := readNames(fd, make([]byte, 8<<10))
	if err != nil {
		return os.NewSyscallError("getdents", err)
	}
	for _, child := range names {
		if err := removeAll(fd, child); err != nil {
			return err
		}
	}
	return os.NewSyscallError("rmdir", unix.Unlinkat(dirFD, name, unix.AT_REMOVEDIR))
}
