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

	"golang.org/x/sys/unix"

	"builder/internal/duplicate"
	"builder/internal/sys"
)

const mergedDir = "merged"

// mostKept is how many trees of snapshots are kept to be gone on with.
const mostKept = 4

// keptTree is the tree of a committed snapshot.
type keptTree struct {
	id   ID
	tree *mergedTree
}

// openCopied opens the tree of an active snapshot, and makes it before.
func (a *activeOverlay) openCopied() (*os.File, error) {
	if a.merged == nil {
		if err := a.merge(); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(a.merged.dir, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// merge makes the tree, or goes on with that of its parent.
func (a *activeOverlay) merge() (err error) {
	to := filepath.Join(a.dir, mergedDir)
	own, err := os.ReadDir(a.Upper())
	if err != nil {
		return err
	}
	if len(own) == 0 && len(a.parents) > 0 {
		if t := a.o.takeTree(a.parents[0]); t != nil {
			if err := os.Rename(t.dir, to); err != nil {
				return err
			}
			t.dir, a.merged = to, t
			return t.settle() // the renaming has changed it
		}
	}
	layers := []string{a.Upper()}
	for _, id := range a.parents {
		layers = append(layers, a.o.fs(id))
	}
	a.merged, err = merge(layers, to, false)
	return err
}

// takeTree takes the tree of a snapshot out of those that are kept.
func (o *Overlay) takeTree(id ID) *mergedTree {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := slices.IndexFunc(o.kept, func(k keptTree) bool { return k.id == id })
	if i < 0 {
		return nil
	}
	t := o.kept[i].tree
	o.kept = slices.Delete(o.kept, i, i+1)
	return t
}

// keepTree keeps the tree of what is about to be committed, beside its
// directory, for as long as this process lives.
func (a *activeOverlay) keepTree(id ID) error {
	t := a.merged
	if t == nil {
		return nil
	}
	a.merged = nil
	to, err := a.o.temporary(a.dir)
	if err != nil {
		return err
	}
	if err := os.Rename(t.dir, filepath.Join(to, mergedDir)); err != nil {
		return err
	}
	t.dir = filepath.Join(to, mergedDir)
	a.o.mu.Lock()
	defer a.o.mu.Unlock()
	a.o.kept = append(a.o.kept, keptTree{id, t})
	if len(a.o.kept) <= mostKept {
		return nil
	}
	old := a.o.kept[0].tree.dir
	a.o.kept = a.o.kept[1:]
	return os.RemoveAll(filepath.Dir(old))
}

// temporary makes a directory that is gone when the process is, in a test beside
// another one.
func (o *Overlay) temporary(beside string) (string, error) {
	if o.temp != nil {
		return o.temp()
	}
	return os.MkdirTemp(filepath.Dir(beside), "tree-")
}

// viewCopied makes a tree of links to committed snapshots, in a directory of
// this process, once.
func (o *Overlay) viewCopied(id ID, layers []string) (*os.File, error) {
	o.viewMu.Lock()
	defer o.viewMu.Unlock()
	if o.views[id] == "" {
		dir, err := o.temporary(o.root)
		if err != nil {
			return nil, err
		}
		t, err := merge(layers, filepath.Join(dir, mergedDir), true)
		if err != nil {
			return nil, err
		}
		if o.views == nil {
			o.views = map[ID]string{}
		}
		o.views[id] = t.dir
	}
	return os.OpenFile(o.views[id], unix.O_PATH|unix.O_DIRECTORY, 0)
}

// Settle implements [Active].
func (a *activeOverlay) Settle() error {
	if a.merged == nil {
		return nil
	}
	var lower []string
	for _, id := range a.parents {
		lower = append(lower, a.o.fs(id))
	}
	s := &settler{tree: a.merged, upper: a.Upper(), dirs: map[string]uint64{}, files: linkedFiles{}, made: map[string]bool{}, all: a.merged.clockWentBack()}
	var st unix.Stat_t
	err := unix.Lstat(a.merged.dir, &st)
	if err == nil {
		err = s.dir("", &st, lower)
	}
	if err == nil {
		err = s.finish()
	}
	if err != nil {
		return fmt.Errorf("find what has changed: %w", err)
	}
	a.merged.dirs = s.dirs
	return a.merged.settle()
}

// settler brings an upper directory up to date with a tree.
type settler struct {
	tree  *mergedTree
	upper string
	dirs  map[string]uint64 // what tree.dirs will be
	all   bool              // change times say nothing
	files linkedFiles
	made  map[string]bool // directories of upper that have got something
}

// dir looks for changes in a directory that was there before, whose status is
// given. lower are the directories that are merged there, below upper.
func (s *settler) dir(path string, st *unix.Stat_t, lower []string) error {
	s.dirs[path] = st.Ino
	entries, err := os.ReadDir(filepath.Join(s.tree.dir, path))
	if err != nil {
		return err
	}
	if isOpaque(filepath.Join(s.upper, path)) {
		lower = nil
	}
	there := map[string]bool{}
	for _, e := range entries {
		there[e.Name()] = true
		if err := s.entry(filepath.Join(path, e.Name()), lower); err != nil {
			return err
		}
	}
	if !s.changed(st) {
		return nil
	}
	// Only here can something be gone.
	if err := s.parents(path); err != nil {
		return err
	}
	return s.hide(path, there, lower)
}

// changed says whether a file may have changed since the tree settled.
func (s *settler) changed(st *unix.Stat_t) bool { return s.all || s.tree.changed(st) }

// entry looks at one entry of a directory that was there before.
func (s *settler) entry(path string, lower []string) error {
	var st unix.Stat_t
	at := filepath.Join(s.tree.dir, path)
	if err := unix.Lstat(at, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: at, Err: err}
	}
	switch {
	case isDir(&st) && s.tree.dirs[path] == st.Ino:
		dirs, err := below(lower, filepath.Base(path))
		if err != nil {
			return err
		}
		return s.dir(path, &st, dirs)
	case isDir(&st):
		return s.fresh(path, lower)
	case !s.changed(&st):
		return nil
	}
	if err := s.parents(filepath.Dir(path)); err != nil {
		return err
	}
	to := filepath.Join(s.upper, path)
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return s.files.copy(at, to, &st)
}

// fresh copies a directory that is new, or another one than before.
func (s *settler) fresh(path string, lower []string) error {
	if err := s.parents(filepath.Dir(path)); err != nil {
		return err
	}
	to := filepath.Join(s.upper, path)
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := s.copyDir(path); err != nil {
		return err
	}
	// It is not merged with what was there.
	hidden, err := below(lower, filepath.Base(path))
	if err == nil && len(hidden) > 0 {
		if err = unix.Lsetxattr(to, opaqueAttr, []byte("y"), 0); err != nil {
			err = &fs.PathError{Op: "set attribute " + opaqueAttr + " of", Path: to, Err: err}
		}
	}
	return err
}

// copyDir copies a directory with all that is in it.
func (s *settler) copyDir(path string) error {
	from, to := filepath.Join(s.tree.dir, path), filepath.Join(s.upper, path)
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	var st unix.Stat_t
	for _, e := range entries {
		at := filepath.Join(path, e.Name())
		if e.IsDir() {
			err = s.copyDir(at)
		} else {
			name := filepath.Join(s.tree.dir, at)
			if err = unix.Lstat(name, &st); err == nil {
				err = s.files.copy(name, filepath.Join(s.upper, at), &st)
			}
		}
		if err != nil {
			return err
		}
	}
	if err := unix.Lstat(from, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: from, Err: err}
	}
	s.dirs[path] = st.Ino
	return duplicate.Attributes(from, to)
}

// hide makes whiteouts for what is below a directory and no longer there, and
// takes from the upper directory what else is gone.
func (s *settler) hide(path string, there map[string]bool, lower []string) error {
	names, err := visible(lower)
	if err != nil {
		return err
	}
	own, err := os.ReadDir(filepath.Join(s.upper, path))
	if err != nil {
		return err
	}
	for _, e := range own {
		if there[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.upper, path, e.Name())); err != nil {
			return err
		}
	}
	dir, err := os.Open(filepath.Join(s.upper, path))
	if err != nil {
		return err
	}
	defer dir.Close()
	for name := range names {
		if there[name] {
			continue
		}
		if _, err := sys.MakeWhiteout(int(dir.Fd()), name, marks); err != nil {
			return &fs.PathError{Op: "make whiteout", Path: filepath.Join(dir.Name(), name), Err: err}
		}
	}
	return nil
}

// parents makes a directory of the upper one, and those that lead to it.
func (s *settler) parents(path string) error {
	if path == "." {
		path = ""
	}
	if s.made[path] {
		return nil
	}
	if path != "" {
		if err := s.parents(filepath.Dir(path)); err != nil {
			return err
		}
	}
	to := filepath.Join(s.upper, path)
	var st unix.Stat_t
	err := unix.Lstat(to, &st)
	if err == nil && !isDir(&st) {
		if err = os.Remove(to); err == nil {
			err = unix.ENOENT
		}
	}
	if errors.Is(err, unix.ENOENT) {
		err = os.Mkdir(to, 0o700)
	}
	s.made[path] = true
	return err
}

// finish gives the directories their attributes, those inside others first.
func (s *settler) finish() error {
	for _, path := range slices.Backward(slices.Sorted(maps.Keys(s.made))) {
		to := filepath.Join(s.upper, path)
		opaque := isOpaque(to)
		if err := duplicate.Attributes(filepath.Join(s.tree.dir, path), to); err != nil {
			return err
		}
		if opaque != isOpaque(to) {
			return fmt.Errorf("%s has lost its mark", to)
		}
	}
	return nil
}
