// SPDX-License-Identifier: Apache-2.0

package buildcontext

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"builder/internal/copytree"
	"builder/internal/testutil"

	"golang.org/x/sys/unix"
)

// everything selects the whole tree.
var everything = Request{Sources: []string{"."}, Dest: "/x/"}

// indexed is a tree with an index, in which builds follow each other.
type indexed struct {
	t     *testing.T
	dir   string
	opts  Options
	req   Request
	digst string
}

func newIndexed(t *testing.T, lines ...string) *indexed {
	x := &indexed{t: t, dir: t.TempDir(), opts: Options{Index: filepath.Join(t.TempDir(), "index")}, req: everything}
	build(t, x.dir, lines...)
	age(t)
	return x
}

// build computes the digest as one build does, and returns what it cost.
func (x *indexed) build() Stats {
	x.t.Helper()
	tree, err := Open(x.dir, x.opts)
	must(x.t, err)
	x.digst = key(x.t, tree, x.req)
	must(x.t, tree.Close())
	return tree.Stats()
}

// expect is build, and checks the files hashed and directories listed, and the
// digest against one computed without an index.
func (x *indexed) expect(what string, hashed, listed int64) {
	x.t.Helper()
	s := x.build()
	if s.Hashed != hashed || s.Listed != listed {
		x.t.Errorf("%s: hashed %d files and listed %d directories, want %d and %d", what, s.Hashed, s.Listed, hashed, listed)
	}
	fresh, err := Open(x.dir, Options{Ignore: x.opts.Ignore})
	must(x.t, err)
	defer fresh.Close()
	if want := key(x.t, fresh, x.req); x.digst != want {
		x.t.Errorf("%s: digest is %s, want %s", what, x.digst, want)
	}
}

func (x *indexed) path(name string) string { return filepath.Join(x.dir, name) }

var indexSrc = []string{"f a 644 0:0 AAAA", "f d/b 644 0:0 BBBB", "f d/e/c 600 0:0 C", "l d/l b", "d empty 755", "x d/b user.k=1"}

func TestIndex(t *testing.T) {
	x := newIndexed(t, indexSrc...)
	x.expect("first", 3, 4)
	info, err := os.Stat(x.opts.Index)
	must(t, err)
	x.expect("unchanged", 0, 0)
	again, err := os.Stat(x.opts.Index)
	must(t, err)
	if !os.SameFile(info, again) {
		t.Error("the index was written though nothing changed")
	}
	before := x.digst

	step := func(what string, hashed, listed int64, change func()) {
		t.Helper()
		change()
		age(t)
		x.expect(what, hashed, listed)
		x.expect("after "+what, 0, 0)
	}
	step("touch", 1, 0, func() { setTime(t, x.path("d/b"), time.Unix(old, 5)) })
	if x.digst != before {
		t.Error("the time of a file is in the digest")
	}
	step("same size and time", 1, 0, func() {
		must(t, os.WriteFile(x.path("a"), []byte("aaaa"), 0o644))
		setTime(t, x.path("a"), time.Unix(old+3600, 0))
	})
	if x.digst == before {
		t.Error("an edit that restores the time was missed")
	}
	step("mode", 1, 0, func() { must(t, os.Chmod(x.path("a"), 0o755)) })
	step("attribute", 1, 0, func() { must(t, unix.Setxattr(x.path("d/b"), "user.k", []byte("2"), 0)) })
	step("new file", 1, 1, func() { must(t, os.WriteFile(x.path("d/new"), nil, 0o644)) })
	step("rename", 1, 1, func() { must(t, os.Rename(x.path("d/new"), x.path("d/newer"))) })
	step("removal", 0, 1, func() { must(t, os.Remove(x.path("d/newer"))) })
	step("link", 0, 1, func() {
		must(t, os.Remove(x.path("d/l")))
		must(t, os.Symlink("e", x.path("d/l")))
	})
	step("directory replaced", 1, 2, func() {
		must(t, os.RemoveAll(x.path("d/e")))
		must(t, os.Mkdir(x.path("d/e"), 0o755))
		must(t, os.WriteFile(x.path("d/e/c"), []byte("C"), 0o644))
	})
	step("file becomes directory", 1, 2, func() {
		must(t, os.Remove(x.path("a")))
		must(t, os.Mkdir(x.path("a"), 0o755))
		must(t, os.WriteFile(x.path("a/b"), nil, 0o644))
	})
	// Any change of the inode of a directory makes it be listed again.
	step("directory attribute", 0, 1, func() {
		must(t, unix.Setxattr(x.path("empty"), "user.k", []byte("2"), 0))
	})
}

// TestIndexDirectoryTouch: a directory that was changed is listed again, though
// its names are the same.
func TestIndexDirectoryTouch(t *testing.T) {
	x := newIndexed(t, indexSrc...)
	x.build()
	setTime(t, x.path("d"), time.Unix(old, 1))
	age(t)
	x.expect("touched", 0, 1)
	x.expect("after it", 0, 0)
}

// TestIndexRacy: what was changed within a time step of the look is not
// remembered, as it may be changed again without a trace.
func TestIndexRacy(t *testing.T) {
	x := newIndexed(t, indexSrc...)
	racy := func(ctime copytree.Time) Stats {
		tree, err := Open(x.dir, x.opts)
		must(t, err)
		tree.taken = ctime
		key(t, tree, x.req)
		tree.dirty = true
		must(t, tree.Close())
		return tree.Stats()
	}
	var st copytree.Stat
	fd, err := unix.Open(x.path("a"), unix.O_RDONLY, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, copytree.StatFD(fd, &st))
	// All files were made before "a" but within the step.
	racy(st.Ctime.Add(fineStep))
	if s := racy(st.Ctime.Add(10 * time.Second)); s.Hashed == 0 {
		t.Error("a racy file was remembered")
	}
	if s := racy(st.Ctime.Add(10 * time.Second)); s.Hashed != 0 || s.Listed != 0 {
		t.Errorf("old files were not remembered: %+v", s)
	}
	// A file whose change time has no fraction may be of a file system
	// that counts seconds.
	tree := &Tree{taken: copytree.Time{Sec: 100, Nsec: 5e8}}
	for ctime, want := range map[copytree.Time]bool{
		{Sec: 100, Nsec: 4e8}:   true,
		{Sec: 100, Nsec: 4.9e8}: false,
		{Sec: 99}:               false,
		{Sec: 30}:               true,
		{Sec: 101, Nsec: 1}:     false,
	} {
		if got := tree.trusted(&copytree.Stat{Ctime: ctime}); got != want {
			t.Errorf("a change time of %v is trusted: %v", ctime, got)
		}
	}
	tree.remote = map[uint64]bool{7: true}
	if tree.trusted(&copytree.Stat{Dev: 7, Ctime: copytree.Time{Sec: 90, Nsec: 1}}) {
		t.Error("another machine's clock is trusted")
	}
}

// TestIndexDamaged: whatever is in the file, the digest is right.
func TestIndexDamaged(t *testing.T) {
	x := newIndexed(t, indexSrc...)
	x.build()
	good, err := os.ReadFile(x.opts.Index)
	must(t, err)
	for what, data := range map[string][]byte{
		"empty":     {},
		"truncated": good[:len(good)-1],
		"longer":    append(bytes.Clone(good), 0),
		"flipped":   func() []byte { b := bytes.Clone(good); b[len(b)/2] ^= 1; return b }(),
		"version":   append([]byte("builder context0"), good[16:]...),
		"text":      []byte("hello, this is some other file"),
		"zeros":     make([]byte, len(good)),
	} {
		must(t, os.WriteFile(x.opts.Index, data, 0o600))
		x.expect(what, 3, 4)
		x.expect("after "+what, 0, 0)
	}
	must(t, os.Remove(x.opts.Index))
	must(t, os.Mkdir(x.opts.Index, 0o700))
	tree, err := Open(x.dir, x.opts)
	must(t, err)
	key(t, tree, x.req)
	if err := tree.Close(); err == nil {
		t.Error("an index that can't be written is no error")
	}
}

// TestIndexForeign: the index of another tree, be it a copy of this one, tells
// nothing.
func TestIndexForeign(t *testing.T) {
	x, y := newIndexed(t, indexSrc...), newIndexed(t, indexSrc...)
	y.build()
	x.opts.Index = y.opts.Index
	x.expect("another's", 3, 4)
}

// TestIndexPartly: selections of parts of a tree keep what is known about the
// rest, and know what was not looked at.
func TestIndexPartly(t *testing.T) {
	x := newIndexed(t, indexSrc...)
	x.req.Sources = []string{"d/b"}
	x.expect("one file", 1, 0)
	x.expect("one file again", 0, 0)
	x.req.Sources = []string{"d/e"}
	x.expect("a directory", 1, 1)
	x.req.Sources = []string{"d/b", "d/e"}
	x.expect("both", 0, 0)
	x.req = everything
	x.expect("all", 1, 3)
	x.expect("all again", 0, 0)
	x.req.Sources = []string{"a"}
	x.expect("one", 0, 0)
	must(t, os.WriteFile(x.path("d/e/c"), []byte("changed"), 0o600))
	must(t, os.WriteFile(x.path("d/new"), nil, 0o600))
	age(t)
	x.expect("one beside a change", 0, 0)
	x.req = everything
	x.expect("all with the changes", 2, 1)
}

// TestIndexPattern: other ignore patterns use the same index.
func TestIndexPattern(t *testing.T) {
	x := newIndexed(t, indexSrc...)
	x.opts.Ignore = []string{"d/e", "empty"}
	x.expect("less", 2, 2)
	x.expect("less again", 0, 0)
	x.opts.Ignore = nil
	x.expect("all", 1, 2)
	x.opts.Ignore = []string{"d", "!d/b"}
	must(t, os.WriteFile(x.path("a"), nil, 0o644)) // so that it is written
	age(t)
	x.expect("with an exception", 1, 0)
	x.opts.Ignore = nil
	x.expect("all again", 0, 0)
	x.req.Exclude = []string{"d/e"}
	x.expect("excluded", 0, 0)
	x.req.Exclude = nil
	x.expect("not excluded", 0, 0)
}

// TestIndexScale: 2,000 files, then one of them changed.
func TestIndexScale(t *testing.T) {
	x := &indexed{t: t, dir: makeTree(t, 2000), opts: Options{Index: filepath.Join(t.TempDir(), "index")}, req: everything}
	age(t)
	x.expect("first", 2000, 205)
	x.expect("again", 0, 0)
	must(t, os.WriteFile(x.path("d1/sub3/file530.go"), []byte("new"), 0o644))
	age(t)
	x.expect("one changed", 1, 0)
	allocs := testing.AllocsPerRun(3, func() { x.build() })
	if allocs > 2000 {
		t.Errorf("an unchanged tree of 2000 files in 205 directories takes %v allocations", allocs)
	}
}

// TestIndexOwners: a tree that is opened with attributes after it was without
// learns them.
func TestIndexOwners(t *testing.T) {
	x := newIndexed(t, indexSrc...)
	x.build()
	plain := x.digst
	x.opts.KeepOwner = true
	if s := x.build(); s.Hashed != 3 || x.digst == plain {
		t.Errorf("attributes were not looked at: %+v", s)
	}
	if s := x.build(); s.Hashed != 0 {
		t.Errorf("they were not remembered: %+v", s)
	}
	x.opts.KeepOwner = false
	if s := x.build(); s.Hashed != 0 || x.digst != plain {
		t.Errorf("they are still there: %+v", s)
	}
}

// TestForget: within one build all selections see one state, until it is
// forgotten.
func TestForget(t *testing.T) {
	testutil.Require(t, "root")
	dir := t.TempDir()
	build(t, dir, indexSrc...)
	age(t)
	tree := open(t, dir, Options{})
	first := key(t, tree, everything)
	must(t, os.WriteFile(filepath.Join(dir, "d/new"), []byte("N"), 0o644))
	if again := key(t, tree, everything); again != first {
		t.Error("the tree changed within a build")
	}
	must(t, tree.Forget())
	if again := key(t, tree, everything); again == first {
		t.Error("nothing was forgotten")
	}
	if s := tree.Stats(); s.Hashed != 4 || s.Remembered != 3 {
		t.Errorf("%+v", s)
	}
}

// TestUnstable: a file that is written to while it is hashed is not remembered.
func TestUnstable(t *testing.T) {
	x := newIndexed(t, indexSrc...)
	tree, err := Open(x.dir, x.opts)
	must(t, err)
	s, err := tree.Select(t.Context(), everything)
	must(t, err)
	// The inode looks older than it is: as if it were written to now.
	s.plan.Sources[0].Entry.Dir.Entries[0].Stat.Ctime.Nsec++
	_, err = s.Digest(t.Context())
	must(t, err)
	must(t, tree.Close())
	x.expect("after a change while hashing", 1, 0)
}

// TestIndexFormat: an index is read as it was written.
func TestIndexFormat(t *testing.T) {
	sum := [32]byte{1, 2, 3}
	want := []indexEntry{
		{name: "a\x00", flags: entryKnown | entryDigest | entryXattrs, digest: &sum,
			stat:   copytree.Stat{Dev: 1, Ino: 2, Rdev: 3, Size: 1 << 40, Mtime: copytree.Time{Sec: -5, Nsec: 6}, Ctime: copytree.Time{Sec: 1 << 35, Nsec: 7}, Mode: 8, UID: 9, GID: 10, Nlinks: 11},
			xattrs: []copytree.Xattr{{Name: "user.a", Value: "1"}, {Name: "user.b"}}},
		{name: "b\x00"},
		{name: "c\x00", flags: entryKnown, link: "a/b"},
	}
	w := newIndexWriter(0)
	pos := w.beginDir(true)
	for i := range want {
		w.entry(pos, &want[i])
	}
	ix := parseIndex(w.finish())
	if ix == nil {
		t.Fatal("not an index")
	}
	d := ix.dir(ix.top())
	if !d.complete || d.left != 3 {
		t.Errorf("%+v", d)
	}
	for i := range want {
		var e indexEntry
		if !d.next(&e) {
			t.Fatalf("entry %d is missing", i)
		}
		if g, w := fmt.Sprintf("%+v", deref(e)), fmt.Sprintf("%+v", deref(want[i])); g != w {
			t.Errorf("got  %s\nwant %s", g, w)
		}
	}
}

func deref(e indexEntry) any {
	var sum [32]byte
	if e.digest != nil {
		sum = *e.digest
	}
	e.digest = nil
	return []any{e, sum}
}

// FuzzIndexDecode reads any bytes as an index, first as they are and then with
// a good header: it must not panic, loop or read beyond them, and what is
// written again reads the same.
func FuzzIndexDecode(f *testing.F) {
	dir := f.TempDir()
	build(f, dir, indexSrc...)
	age(f)
	index := filepath.Join(f.TempDir(), "index")
	digestAll(f, dir, Options{Index: index})
	good, err := os.ReadFile(index)
	must(f, err)
	f.Add(good)
	f.Add(good[:60])
	f.Add([]byte(indexMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		parseIndex(data)
		if len(data) < indexHeader+dirSize {
			return
		}
		w := newIndexWriter(len(data))
		w.Write(data[indexHeader:])
		ix := parseIndex(w.finish())
		if ix == nil {
			t.Fatal("a good header is refused")
		}
		n := 0
		readAll(ix, ix.top(), &n)
	})
}

// readAll reads directories until there are none or it has been enough.
func readAll(ix *index, pos uint64, n *int) {
	d := ix.dir(pos)
	var e indexEntry
	for d.next(&e) {
		if *n++; *n > 10_000 {
			return
		}
		if e.dir != 0 {
			readAll(ix, e.dir, n)
		}
	}
}
