// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"builder/internal/duplicate"
	"builder/internal/sys"
)

// Where nothing can be mounted, what overlayfs would show is put together as a
// plain tree, of copies or, to be read only, of hard links.

// Overlayfs's marks: a directory that hides what is below it, and a file that is a
// whiteout. Trusted attributes are for who may mount.
const (
	marks        = "user.overlay."
	opaqueAttr   = marks + "opaque"
	whiteoutAttr = marks + "whiteout"
)

// mergedTree is such a tree, and what is known of it.
type mergedTree struct {
	dir string
	// dirs are the inodes of its directories, by path: another one of that
	// name is a new directory, whatever is in it.
	dirs map[string]uint64
	// since is when it was as the snapshot is: what has changed has a later
	// change time, or that one.
	since unix.Timespec
	// booted is when the machine was started, by the clock of that time.
	booted time.Time
}

// merger makes a tree.
type merger struct {
	tree  *mergedTree
	link  bool
	files linkedFiles
}

type inode struct{ dev, ino uint64 }

// linkedFiles are files of several names that were copied, with the first copy.
type linkedFiles map[inode]string

// copy copies what is no directory; a further name of a file becomes one of its
// copy.
func (l linkedFiles) copy(from, to string, st *unix.Stat_t) error {
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, ok := l[id]; ok {
			return os.Link(first, to)
		}
		l[id] = to
	}
	return duplicate.File(from, to, st)
}

// merge puts layers together, the topmost first, in a directory that is made. A
// tree of links must not be written to.
func merge(layers []string, dir string, link bool) (*mergedTree, error) {
	m := &merger{tree: &mergedTree{dir: dir, dirs: map[string]uint64{}}, link: link, files: linkedFiles{}}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if err := m.merge("", layers); err != nil {
		return nil, fmt.Errorf("put layers together: %w", err)
	}
	return m.tree, m.tree.settle()
}

// settle notes that the tree is as the snapshot is.
func (t *mergedTree) settle() error {
	mark, err := os.CreateTemp(filepath.Dir(t.dir), ".mark-")
	if err != nil {
		return err
	}
	defer os.Remove(mark.Name())
	defer mark.Close()
	// The clock of change times goes in steps of some milliseconds.
	var first, now unix.Stat_t
	if err := unix.Fstat(int(mark.Fd()), &first); err != nil {
		return err
	}
	begun := time.Now()
	for now = first; !after(now.Ctim, first.Ctim); time.Sleep(time.Millisecond) {
		if time.Since(begun) > mostTick {
			return errors.New("the file system of the state directory doesn't note when files change")
		}
		if err := mark.Chmod(0o600); err != nil {
			return err
		}
		if err := unix.Fstat(int(mark.Fd()), &now); err != nil {
			return err
		}
	}
	t.since, t.booted = now.Ctim, booted()
	return nil
}

// mostTick is longer than any file system's clock takes for a step.
const mostTick = 5 * time.Second

// booted is when the machine was started, by its clock now.
func booted() time.Time { return time.Now().Add(-sys.Uptime()).Round(0) }

// clockWentBack says whether the machine's clock was set back since the tree settled,
// so that what has changed may bear an earlier time.
func (t *mergedTree) clockWentBack() bool {
	return booted().Before(t.booted.Add(-5 * time.Millisecond))
}

// after says whether a is later than b.
func after(a, b unix.Timespec) bool { return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec }

// changed says whether a file has changed since the tree settled.
func (t *mergedTree) changed(st *unix.Stat_t) bool { return !after(t.since, st.Ctim) }

func isDir(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

// isWhiteout says whether a file of a layer is a whiteout, in either form.
func isWhiteout(path string, st *unix.Stat_t) bool {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		return st.Rdev == 0
	case unix.S_IFREG:
		if st.Size == 0 {
			_, err := unix.Lgetxattr(path, whiteoutAttr, nil)
			return err == nil
		}
	}
	return false
}

func isOpaque(dir string) bool {
	var value [1]byte
	n, err := unix.Lgetxattr(dir, opaqueAttr, value[:])
	return err == nil && n == 1 && value[0] == 'y'
}

// below are the directories of a name in layers that overlayfs merges.
func below(layers []string, name string) (out []string, err error) {
	for _, l := range layers {
		var st unix.Stat_t
		path := filepath.Join(l, name)
		err := unix.Lstat(path, &st)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
		}
		if !isDir(&st) {
			break
		}
		out = append(out, path)
		if isOpaque(path) {
			break
		}
	}
	return out, nil
}

// visible are the entries of the directory that layers make, with where each is.
func visible(layers []string) (map[string]string, error) {
	out, seen := map[string]string{}, map[string]bool{}
	for _, l := range layers {
		entries, err := os.ReadDir(l)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if seen[e.Name()] {
				continue
			}
			seen[e.Name()] = true
			path := filepath.Join(l, e.Name())
			if e.Type()&fs.ModeCharDevice != 0 || e.Type().IsRegular() {
				var st unix.Stat_t
				if err := unix.Lstat(path, &st); err != nil {
					return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
				}
				if isWhiteout(path, &st) {
					continue
				}
			}
			out[e.Name()] = path
		}
	}
	return out, nil
}

// merge fills the directory of a path from the directories that are merged there.
func (m *merger) merge(path string, layers []string) error {
	entries, err := visible(layers)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		from := entries[name]
		var st unix.Stat_t
		if err := unix.Lstat(from, &st); err != nil {
			return &fs.PathError{Op: "stat", Path: from, Err: err}
		}
		at := filepath.Join(path, name)
		if !isDir(&st) {
			if err := m.file(from, filepath.Join(m.tree.dir, at), &st); err != nil {
				return err
			}
			continue
		}
		dirs, err := below(layers, name)
		if err != nil {
			return err
		}
		if err := os.Mkdir(filepath.Join(m.tree.dir, at), 0o700); err != nil {
			return err
		}
		if err := m.merge(at, dirs); err != nil {
			return err
		}
	}
	return m.finish(path, layers)
}

// finish gives a directory its attributes when all is in it.
func (m *merger) finish(path string, layers []string) error {
	dir := filepath.Join(m.tree.dir, path)
	if len(layers) > 0 {
		if err := duplicate.Attributes(layers[0], dir); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	m.tree.dirs[path] = st.Ino
	return nil
}

// file copies what is no directory.
func (m *merger) file(from, to string, st *unix.Stat_t) error {
	if m.link {
		err := os.Link(from, to)
		if err == nil || !errors.Is(err, unix.EMLINK) && !errors.Is(err, unix.EXDEV) {
			return err
		}
	}
	return m.files.copy(from, to, st)
}
