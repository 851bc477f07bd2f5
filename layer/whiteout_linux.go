// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// What a name in a layer stands for.
const (
	kindFile     = iota
	kindWhiteout // ".wh.NAME": NAME is removed
	kindOpaque   // ".wh..wh..opq": everything in its directory is
	kindMeta     // other ".wh..wh." names, AUFS's own records in old images
	kindReserved // something below a whiteout
)

// kindOf tells what the clean path name stands for.
func kindOf(name string) int {
	if !strings.Contains(name, whiteoutPrefix) {
		return kindFile
	}
	dir, base := splitLast(name)
	for part := range strings.SplitSeq(dir, "/") {
		if strings.HasPrefix(part, whiteoutPrefix+whiteoutPrefix) {
			return kindMeta
		}
		if strings.HasPrefix(part, whiteoutPrefix) {
			return kindReserved
		}
	}
	switch {
	case base == opaqueName:
		return kindOpaque
	case strings.HasPrefix(base, whiteoutPrefix+whiteoutPrefix):
		return kindMeta
	case strings.HasPrefix(base, whiteoutPrefix):
		return kindWhiteout
	}
	return kindFile
}

// whiteout removes name from the layers below. What this layer itself has
// under the name stays (layer.md: whiteouts apply to lower layers only).
func (a *applier) whiteout(dir *node, name string) error {
	if name == "" || name == "." || name == ".." {
		return errWhiteout
	}
	kind, err := a.exists(dir, name)
	if err != nil {
		return err
	}
	if a.opts.Plain {
		return a.hide(dir, name, kind)
	}
	switch kind {
	case 0:
		attr, err := sys.MakeWhiteout(dir.fd, name, overlayPrefix(a.opts.UserXattr))
		if attr {
			a.resolver.whiteouts[dir.join(name)] = true
		}
		return err
	case unix.S_IFDIR:
		// The directory is new as a whole.
		fd, err := openDir(dir.fd, name)
		if err != nil {
			return os.NewSyscallError("open", err)
		}
		n := newNode(fd, dir.join(name))
		defer n.drop()
		return a.setOpaque(n)
	}
	return nil
}

// opaque removes everything in dir from the layers below.
func (a *applier) opaque(dir *node) error {
	if a.opts.Plain {
		return a.hideAll(dir)
	}
	if dir.path == "" {
		a.result.OpaqueRoot = true
		return nil
	}
	return a.setOpaque(dir)
}

// setOpaque marks a directory for overlayfs. A plain directory is what it
// looks like.
func (a *applier) setOpaque(dir *node) error {
	if a.opts.Plain {
		return nil
	}
	name := overlayPrefix(a.opts.UserXattr) + "opaque"
	return os.NewSyscallError("setxattr "+name, unix.Fsetxattr(dir.fd, name, []byte("y"), 0))
}

// belongs notes that something of this layer is at a place, so that marks
// which come later spare it and the directories that lead to it.
func (a *applier) belongs(dir *node, name string) error {
	if !a.opts.Plain {
		return nil
	}
	for path := dir.join(name); path != "" && !a.unpacked[path]; path, _ = splitLast(path) {
		a.unpacked[path] = true
	}
	return nil
}

// hide removes from a plain directory what was there before this layer.
func (a *applier) hide(dir *node, name string, kind uint32) error {
	if kind == 0 {
		return nil
	}
	if !a.unpacked[dir.join(name)] {
		return a.remove(dir, name, kind)
	}
	if kind != unix.S_IFDIR {
		return nil
	}
	fd, err := openDir(dir.fd, name)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	n := newNode(fd, dir.join(name))
	defer n.drop()
	return a.hideAll(n)
}

// hideAll does so with everything in a directory.
func (a *applier) hideAll(dir *node) error {
	if err := a.placers.wait(); err != nil {
		return err
	}
	// Opened anew: an overlay's directory that was copied up since it was
	// opened still lists what it had.
	fd, err := openDir(dir.fd, ".")
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	names, err := readNames(fd, make([]byte, 8<<10))
	unix.Close(fd)
	if err != nil {
		return os.NewSyscallError("getdents", err)
	}
	for _, name := range names {
		kind, err := a.exists(dir, name)
		if err != nil {
			return err
		}
		if err := a.hide(dir, name, kind); err != nil {
			return err
		}
	}
	return nil
}
