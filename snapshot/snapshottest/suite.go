// SPDX-License-Identifier: Apache-2.0

// Package snapshottest holds the tests that every snapshotter must pass.
package snapshottest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"builder/internal/sys"
	"builder/snapshot"

	"golang.org/x/sys/unix"
)

// Run runs the suite. open makes an empty snapshotter on a file system that
// also holds the directories of t.TempDir.
func Run(t *testing.T, open func(t *testing.T) snapshot.Snapshotter) {
	tests := []struct {
		name string
		run  func(t *testing.T, s *suite)
	}{
		{"commit and view", testCommit},
		{"whiteouts", testWhiteouts},
		{"opaque directories", testOpaque},
		{"renames", testRename},
		{"hard links", testHardLinks},
		{"attributes", testAttributes},
		{"root attributes", testRootAttributes},
		{"device nodes", testDevices},
		{"two hundred layers", testManyLayers},
		{"empty file system", testEmpty},
		{"taken ID", testExists},
		{"unknown ID", testNotFound},
		{"remove and walk", testRemove},
		{"discard", testDiscard},
		{"concurrent children", testSiblings},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, &suite{t, open(t)}) })
	}
}

type suite struct {
	t *testing.T
	s snapshot.Snapshotter
}

// copies says whether the snapshotter mounts nothing.
func (s *suite) copies() bool {
	o, ok := s.s.(interface{ Copies() bool })
	return ok && o.Copies()
}

func (s *suite) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// layer commits a snapshot on parent that f has written to.
func (s *suite) layer(parent snapshot.ID, f func(root string)) snapshot.ID {
	s.t.Helper()
	active, err := s.s.Prepare(s.t.Context(), parent, s.t.TempDir())
	s.must(err)
	m, err := active.Mount()
	s.must(err)
	f(sys.FDPath(m))
	s.must(m.Close())
	id, err := active.Commit(s.t.Context(), "")
	s.must(err)
	return id
}

// tree lists a snapshot: a line for each path, with what is of interest.
func (s *suite) tree(id snapshot.ID) string {
	s.t.Helper()
	m, err := s.s.View(s.t.Context(), id)
	s.must(err)
	defer m.Close()
	root := sys.FDPath(m) + "/"
	var lines []string
	s.must(filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(p, root)
		if rel == "" {
			return nil
		}
		line := rel
		switch {
		case d.IsDir():
			line += "/"
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + target
		case d.Type().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += "=" + string(data)
		}
		lines = append(lines, line)
		return nil
	}))
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

func (s *suite) wantTree(id snapshot.ID, want string) {
	s.t.Helper()
	if got := s.tree(id); got != want {
		s.t.Errorf("tree of %q:\n got %s\nwant %s", id, got, want)
	}
}

func (s *suite) write(root, name, data string) {
	s.t.Helper()
	s.must(os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
	s.must(os.WriteFile(filepath.Join(root, name), []byte(data), 0o644))
}

func testCommit(t *testing.T, s *suite) {
	a := s.layer("", func(root string) { s.write(root, "dir/f", "1") })
	b := s.layer(a, func(root string) {
		s.write(root, "dir/g", "2")
		s.write(root, "dir/f", "changed")
	})
	s.wantTree(a, "dir/ dir/f=1")
	s.wantTree(b, "dir/ dir/f=changed dir/g=2")
	info, err := s.s.Stat(t.Context(), b)
	s.must(err)
	if !slices.Equal(info.Parents, []snapshot.ID{a}) {
		t.Errorf("parents of the second snapshot are %q, want the first", info.Parents)
	}
	m, err := s.s.View(t.Context(), b)
	s.must(err)
	defer m.Close()
	if s.copies() {
		return // who reads a view doesn't write
	}
	if err := os.WriteFile(sys.FDPath(m)+"/x", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing to a view gives %v, want EROFS", err)
	}
}

func testWhiteouts(_ *testing.T, s *suite) {
	a := s.layer("", func(root string) {
		s.write(root, "gone", "1")
		s.write(root, "dir/gone", "1")
		s.write(root, "dir/kept", "1")
	})
	b := s.layer(a, func(root string) {
		s.must(os.Remove(root + "/gone"))
		s.must(os.Remove(root + "/dir/gone"))
	})
	c := s.layer(b, func(root string) { s.write(root, "gone", "again") })
	s.wantTree(b, "dir/ dir/kept=1")
	s.wantTree(c, "dir/ dir/kept=1 gone=again")
}

func testOpaque(_ *testing.T, s *suite) {
	a := s.layer("", func(root string) { s.write(root, "dir/old", "1") })
	b := s.layer(a, func(root string) {
		s.must(os.RemoveAll(root + "/dir"))
		s.write(root, "dir/new", "2")
	})
	c := s.layer(b, func(root string) { s.write(root, "dir/newer", "3") })
	s.wantTree(c, "dir/ dir/new=2 dir/newer=3")
}

func testRename(t *testing.T, s *suite) {
	a := s.layer("", func(root string) { s.write(root, "from/f", "1") })
	b := s.layer(a, func(root string) {
		// Without redirects a directory of the layer below can't be
		// renamed; programs copy it then.
		err := os.Rename(root+"/from", root+"/to")
		switch {
		case s.copies():
			s.must(err)
			s.must(os.Rename(root+"/to", root+"/from"))
		case !errors.Is(err, unix.EXDEV):
			t.Errorf("renaming a lower directory gives %v, want EXDEV", err)
		}
		s.must(os.Rename(root+"/from/f", root+"/g"))
	})
	s.wantTree(b, "from/ g=1")
}

func testHardLinks(t *testing.T, s *suite) {
	a := s.layer("", func(root string) {
		s.write(root, "f", "1")
		s.must(os.Link(root+"/f", root+"/g"))
	})
	m, err := s.s.View(t.Context(), a)
	s.must(err)
	defer m.Close()
	f, err := os.Stat(sys.FDPath(m) + "/f")
	s.must(err)
	g, err := os.Stat(sys.FDPath(m) + "/g")
	s.must(err)
	if !os.SameFile(f, g) {
		t.Error("two links to one file are two files after commit")
	}
}

func testAttributes(t *testing.T, s *suite) {
	const name = "user.test"
	a := s.layer("", func(root string) {
		s.write(root, "f", "1")
		s.must(os.Chown(root+"/f", 12, 34))
		s.must(os.Chmod(root+"/f", 0o640|fs.ModeSetuid))
		if err := unix.Setxattr(root+"/f", name, []byte("value"), 0); err != nil {
			t.Fatalf("setxattr: %v", err)
		}
	})
	b := s.layer(a, func(root string) { s.write(root, "other", "") })
	m, err := s.s.View(t.Context(), b)
	s.must(err)
	defer m.Close()
	var st unix.Stat_t
	s.must(unix.Stat(sys.FDPath(m)+"/f", &st))
	if got := fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid); got != "4640 12:34" {
		t.Errorf("attributes are %s, want 4640 12:34", got)
	}
	buf := make([]byte, 64)
	n, err := unix.Getxattr(sys.FDPath(m)+"/f", name, buf)
	if err != nil || string(buf[:n]) != "value" {
		t.Errorf("%s is %q (%v), want value", name, buf[:max(n, 0)], err)
	}
}

func testRootAttributes(t *testing.T, s *suite) {
	a := s.layer("", func(root string) {
		s.must(os.Chown(root, 5, 6))
		s.must(os.Chmod(root, 0o711))
	})
	b := s.layer(a, func(root string) { s.write(root, "f", "") })
	m, err := s.s.View(t.Context(), b)
	s.must(err)
	defer m.Close()
	var st unix.Stat_t
	s.must(unix.Stat(sys.FDPath(m), &st))
	if got := fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid); got != "711 5:6" {
		t.Errorf("the root has %s after another layer, want 711 5:6", got)
	}
}

func testDevices(t *testing.T, s *suite) {
	dev := unix.Mkdev(1, 3)
	a := s.layer("", func(root string) {
		s.must(unix.Mknod(root+"/null", unix.S_IFCHR|0o666, int(dev)))
		s.must(unix.Mkfifo(root+"/fifo", 0o600))
	})
	m, err := s.s.View(t.Context(), a)
	s.must(err)
	defer m.Close()
	var st unix.Stat_t
	s.must(unix.Stat(sys.FDPath(m)+"/null", &st))
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != dev {
		t.Errorf("null is mode %o device %d", st.Mode, st.Rdev)
	}
	s.must(unix.Stat(sys.FDPath(m)+"/fifo", &st))
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		t.Errorf("fifo has mode %o", st.Mode)
	}
}

func testManyLayers(_ *testing.T, s *suite) {
	const layers = 200
	var id snapshot.ID
	var want []string
	for i := range layers {
		name := fmt.Sprintf("f%03d", i)
		id = s.layer(id, func(root string) { s.write(root, name, "") })
		want = append(want, name+"=")
	}
	s.wantTree(id, strings.Join(want, " "))
}

func testEmpty(_ *testing.T, s *suite) {
	s.wantTree("", "")
	a := s.layer("", func(string) {})
	s.wantTree(a, "")
	s.wantTree(s.layer(a, func(root string) { s.write(root, "f", "x") }), "f=x")
}

func testExists(t *testing.T, s *suite) {
	commit := func() error {
		active, err := s.s.Prepare(t.Context(), "", t.TempDir())
		s.must(err)
		_, err = active.Commit(t.Context(), "taken")
		return err
	}
	s.must(commit())
	if err := commit(); !errors.Is(err, snapshot.ErrExists) {
		t.Errorf("committing under a taken ID gives %v, want ErrExists", err)
	}
}

func testNotFound(t *testing.T, s *suite) {
	if _, err := s.s.Stat(t.Context(), "nothing"); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("Stat gives %v, want ErrNotFound", err)
	}
	if _, err := s.s.View(t.Context(), "nothing"); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("View gives %v, want ErrNotFound", err)
	}
	if _, err := s.s.Prepare(t.Context(), "nothing", t.TempDir()); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("Prepare gives %v, want ErrNotFound", err)
	}
	for _, id := range []snapshot.ID{"../x", ".empty", "a/b"} {
		if _, err := s.s.Stat(t.Context(), id); err == nil {
			t.Errorf("Stat(%q) succeeds", id)
		}
		if err := s.s.Remove(t.Context(), id); err == nil {
			t.Errorf("Remove(%q) succeeds", id)
		}
	}
}

func testRemove(t *testing.T, s *suite) {
	a := s.layer("", func(root string) { s.write(root, "f", "") })
	b := s.layer(a, func(root string) { s.write(root, "g", "") })
	s.must(s.s.Remove(t.Context(), b))
	s.must(s.s.Remove(t.Context(), b))
	var ids []snapshot.ID
	s.must(s.s.Walk(t.Context(), func(i snapshot.Info) error {
		ids = append(ids, i.ID)
		return nil
	}))
	if !slices.Equal(ids, []snapshot.ID{a}) {
		t.Errorf("left are %q, want %q", ids, a)
	}
}

func testDiscard(t *testing.T, s *suite) {
	dir := t.TempDir()
	active, err := s.s.Prepare(t.Context(), "", dir)
	s.must(err)
	m, err := active.Mount()
	s.must(err)
	s.write(sys.FDPath(m), "f", "")
	s.must(m.Close())
	s.must(os.RemoveAll(dir))
	if _, err := active.Commit(t.Context(), ""); err == nil {
		t.Error("a discarded snapshot can be committed")
	}
}

func testSiblings(t *testing.T, s *suite) {
	a := s.layer("", func(root string) { s.write(root, "base", "1") })
	errs := make(chan error)
	const n = 8
	for i := range n {
		dir := t.TempDir()
		go func() { errs <- s.sibling(a, dir, i) }()
	}
	for range n {
		s.must(<-errs)
	}
	s.wantTree(a, "base=1")
}

func (s *suite) sibling(parent snapshot.ID, dir string, i int) error {
	active, err := s.s.Prepare(s.t.Context(), parent, dir)
	if err != nil {
		return err
	}
	m, err := active.Mount()
	if err != nil {
		return err
	}
	defer m.Close()
	return os.WriteFile(sys.FDPath(m)+"/base", []byte{byte(i)}, 0o600)
}
