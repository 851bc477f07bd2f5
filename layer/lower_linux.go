// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"builder/internal/owner"
)

// openLower opens the lower directories that d is merged with.
func (l *lister) openLower(d *dir) error {
	l.lower = l.lower[:0]
	for _, i := range d.lower {
		fd, err := openTree(l.w.lower[i], d.path, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			l.closeLower()
			return pathError("open lower directory", d.path, err)
		}
		l.lower = append(l.lower, fd)
	}
	return nil
}

func (l *lister) closeLower() {
	for _, fd := range l.lower {
		unix.Close(fd)
	}
	l.lower = l.lower[:0]
}

// below is what the lower directories together show under a name.
type below struct {
	exists bool
	stat   unix.Stat_t
	at     int   // index in lister.lower of the directory that has it
	merged []int // indexes of all that have a directory which can be seen
}

// hides tells whether a whiteout hides anything.
func (l *lister) hides(e *entry) (bool, error) {
	b, err := l.lookup(e.name)
	if err != nil {
		return false, pathError("look up in lower directories", e.path, err)
	}
	return b.exists, nil
}

// compare sets in e what follows from the lower directories, and tells whether
// e belongs into the layer or leads to something that may.
func (l *lister) compare(e *entry, opaque bool) (bool, error) {
	b, err := l.lookup(e.name)
	if err != nil {
		return false, pathError("look up in lower directories", e.path, err)
	}
	if !b.exists {
		e.same = l.leadsToPoint(e)
		return true, nil
	}
	time := e.stat.Mtim
	if l.leadsToPoint(e) {
		e.stat.Mtim = b.stat.Mtim
	}
	same, err := l.same(e, &b)
	e.stat.Mtim = time
	if err != nil {
		return false, pathError("compare with lower directories", e.path, err)
	}
	if e.dir == nil {
		// Below an opaque directory nothing was copied up: a file with
		// several names was made with them, and keeps them.
		return !same || e.from.whole && e.stat.Nlink > 1 && !l.w.elsewhere, nil
	}
	e.same = same
	e.dir.whole = opaque || e.from.whole
	for _, i := range b.merged {
		e.dir.lower = append(e.dir.lower, e.from.lower[i])
	}
	return true, nil
}

// removed returns, sorted, what the lower directories show and d, which has
// names, hides without a whiteout. Layers can mark a directory as opaque as
// well; removing each name lets a directory that was deleted and made again
// cost no more than what is different.
func (l *lister) removed(d *dir, names []string) ([]string, error) {
	if !d.whole || len(l.lower) == 0 {
		return nil, nil
	}
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		seen[name] = true
	}
	var removed []string
	for _, dirFD := range l.lower {
		fd, err := openTree(dirFD, "", unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return nil, pathError("open lower directory", d.path, err)
		}
		names, err := readNames(fd, l.buf)
		unix.Close(fd)
		if err != nil {
			return nil, pathError("read lower directory", d.path, err)
		}
		for _, name := range names {
			if seen[name] {
				continue
			}
			seen[name] = true
			b, err := l.lookup(name)
			if err != nil {
				return nil, pathError("look up in lower directories", d.path+"/"+name, err)
			}
			if b.exists {
				removed = append(removed, name)
			}
		}
	}
	slices.Sort(removed)
	return removed, nil
}

// lookup finds out what overlayfs shows for name from the lower directories:
// the topmost file, or the topmost directory merged with those right below it,
// up to a whiteout, a file or an opaque directory.
func (l *lister) lookup(name string) (below, error) {
	var b below
	for i, fd := range l.lower {
		var st unix.Stat_t
		switch err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
		case errors.Is(err, unix.ENOENT):
			continue
		case err != nil:
			return b, err
		}
		gone, err := l.isWhiteout(fd, name, &st)
		if err != nil || gone {
			return b, err
		}
		isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if !b.exists {
			b.exists, b.stat, b.at = true, st, i
		}
		if !isDir {
			return b, nil
		}
		b.merged = append(b.merged, i)
		if i == len(l.lower)-1 {
			return b, nil
		}
		value, _, err := l.attrs.get(fd, name, l.w.prefix+"opaque")
		if err != nil || value == "y" {
			return b, err
		}
	}
	return b, nil
}

// isWhiteout tells whether a lower directory's entry removes what is below it.
func (l *lister) isWhiteout(dirFD int, name string, st *unix.Stat_t) (bool, error) {
	if isWhiteoutDevice(st) {
		return true, nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != 0 {
		return false, nil
	}
	// Overlayfs takes the attribute's presence, its value is nothing.
	names, err := l.attrs.list(dirFD, name)
	for _, attr := range names {
		if attr == l.w.prefix+"whiteout" {
			return true, err
		}
	}
	return false, err
}

// same tells whether e is no change: a file that was copied up and not
// modified, a directory that is only there for what is in it. It decides as
// BuildKit does, so that layers have the same entries: type, mode, owner,
// device and capabilities must agree, and but for directories size, time and,
// where both times are whole seconds as those from a tar are, the content.
func (l *lister) same(e *entry, b *below) (bool, error) {
	u, s := &e.stat, &b.stat
	if owner.Kept() {
		kept, _, err := l.attrs.get(l.lower[b.at], e.name, owner.Attr)
		if err != nil {
			return false, err
		}
		keptOwner(s, kept)
	}
	if u.Mode != s.Mode || u.Uid != s.Uid || u.Gid != s.Gid || u.Rdev != s.Rdev {
		return false, nil
	}
	capability, _, err := l.attrs.get(l.lower[b.at], e.name, attrCapability)
	if err != nil || capability != capabilityOf(e.xattrs) {
		return false, err
	}
	if e.dir != nil {
		return true, nil
	}
	if u.Size != s.Size || u.Mtim != s.Mtim {
		return false, nil
	}
	if u.Mtim.Nsec != 0 {
		return true, nil
	}
	switch u.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		link, err := readlink(l.lower[b.at], e.name, l.buf)
		return link == e.link, err
	case unix.S_IFREG:
		if u.Size == 0 {
			return true, nil
		}
		return l.w.sameData(l.fd, l.lower[b.at], e.name)
	default:
		return true, nil
	}
}

func capabilityOf(xattrs []xattr) string {
	for _, x := range xattrs {
		if x.name == attrCapability {
			return x.value
		}
	}
	return ""
}

// sameData compares the data of the regular file name in two directories.
func (w *walker) sameData(a, b int, name string) (bool, error) {
	fa, err := w.openData(a, name)
	if err != nil {
		return false, err
	}
	defer fa.Close()
	fb, err := w.openData(b, name)
	if err != nil {
		return false, err
	}
	defer fb.Close()
	bufA, bufB := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, errA := io.ReadFull(fa, bufA)
		m, errB := io.ReadFull(fb, bufB)
		if !bytes.Equal(bufA[:n], bufB[:m]) {
			return false, nil
		}
		for _, err := range []error{errA, errB} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return false, err
			}
		}
		if errA != nil || errB != nil {
			return (errA == nil) == (errB == nil), nil
		}
	}
}

func (w *walker) openData(dirFD int, name string) (*os.File, error) {
	fd, err := w.openFile(dirFD, name, 0)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
