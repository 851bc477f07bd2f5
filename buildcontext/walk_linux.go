// SPDX-License-Identifier: Apache-2.0

package buildcontext

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unsafe"

	"builder/internal/copytree"

	"golang.org/x/sys/unix"
)

// node is a directory of the tree.
type node struct {
	copytree.Dir // what is in it and not ignored, once it is listed

	entry *copytree.Entry // the directory itself
	subs  []*node         // for each of Entries, if that is a directory

	info   matchInfo       // which ignore patterns match it
	weak   bool            // it is ignored, and there only if something in it is not
	listed bool            // Entries is filled
	whole  bool            // Entries and hidden are all the names
	hidden []copytree.Name // what is ignored
	looked map[string]looked

	old   uint64 // its record in the index
	known bool   // it is unchanged since that record
}

// looked is an entry of a directory that was looked at, but not listed.
type looked struct {
	entry *copytree.Entry
	sub   *node // if it is a directory
}

// fineStep is more than the steps in which local file systems count time:
// that of the kernel's clock is 10 ms at most.
const fineStep = 20 * time.Millisecond

// coarseStep is for file systems that count whole seconds or more, or whose
// time stamps are from another machine's clock.
const coarseStep = 60 * time.Second

// start begins to look at the tree anew.
func (t *Tree) start() error {
	// The clock that stamps files, in the steps in which it does.
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	sec, nsec := now.Unix()
	t.taken = copytree.Time{Sec: sec, Nsec: uint32(nsec)}
	top := &copytree.Entry{Name: ".\x00"}
	if err := copytree.StatFD(int(t.root.Fd()), &top.Stat); err != nil {
		return fmt.Errorf("look at %q: %w", t.root.Name(), err)
	}
	t.top = &node{Dir: copytree.Dir{Path: ".\x00"}, entry: top}
	top.Dir = &t.top.Dir
	t.adopt(t.top)
	return nil
}

// adopt takes what the index knows about the top directory.
func (t *Tree) adopt(top *node) {
	d := t.old.dir(t.old.top())
	var e indexEntry
	// The record at the top has one entry: the top directory.
	if d.next(&e) {
		// What is in it is known entry by entry, even if its own times were
		// too young to be trusted.
		top.old = e.dir
		top.known = e.flags&entryKnown != 0 && e.stat == top.entry.Stat
	}
	if !top.known {
		t.dirty = true
	}
}

// trusted tells whether what was learnt about a file is still right when the
// file looks the same again: anything done to it since it was looked at has
// moved its change time. That holds only if that time is earlier than the look
// by more than the steps that time is counted in (git's "racy" rule). Writes
// through a mapping are the exception: the kernel counts the first one only,
// until it has written the page to disk.
func (t *Tree) trusted(st *copytree.Stat) bool {
	step := fineStep
	if st.Ctime.Nsec == 0 || t.remote[st.Dev] {
		step = coarseStep
	}
	return st.Ctime.Add(step).Before(t.taken)
}

// isFine tells of a type of file system whether its time stamps are from this
// machine's clock and finer than a second.
func isFine(kind uint32) bool {
	switch kind {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC,
		unix.OVERLAYFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, bcachefsMagic, zfsMagic:
		return true
	}
	return false
}

const (
	bcachefsMagic = 0xca451a4e
	zfsMagic      = 0x2fc12fc1
)

// walker is what one goroutine needs to list directories.
type walker struct {
	tree    *Tree
	dents   []byte
	path    []byte
	names   []copytree.Name
	olds    []indexEntry
	entries []copytree.Entry // to be given out
	nodes   []node
	arena   []byte // for names
	self    matchInfo
	found   []*copytree.Entry
	subs    []*node
	stats   Stats
	dirty   bool
	devs    map[uint64]bool // devices seen, to whether they are remote
}

func (t *Tree) walkers() []*walker {
	for len(t.idle) < copytree.Workers() {
		t.idle = append(t.idle, &walker{tree: t, self: t.ignore.info(), devs: map[uint64]bool{}})
	}
	return t.idle
}

// gather adds what the walkers counted.
func (t *Tree) gather() {
	for _, w := range t.idle {
		t.stats.Statted += w.stats.Statted
		t.stats.Listed += w.stats.Listed
		t.stats.Remembered += w.stats.Remembered
		t.dirty = t.dirty || w.dirty
		for dev, remote := range w.devs {
			t.remote[dev] = remote
		}
		w.stats, w.dirty = Stats{}, false
	}
}

// walk lists the directory n and those below it that descend, which is given
// their paths, says; nil means all.
func (t *Tree) walk(ctx context.Context, n *node, descend func(path string) bool) error {
	ws := t.walkers()
	err := copytree.Each(ctx, len(ws), []*node{n}, func(i int, n *node, push func(*node)) error {
		if err := ws[i].list(n); err != nil {
			return fmt.Errorf("read directory %q of %q: %w", n.Path, t.root.Name(), err)
		}
		for _, sub := range n.subs {
			if sub != nil && (sub.weak || descend == nil || descend(sub.Path.String())) {
				push(sub)
			}
		}
		return nil
	})
	t.gather()
	if err != nil {
		return err
	}
	if t.ignore.negated {
		t.settle(n)
	}
	return nil
}

// settle drops ignored directories in which nothing was found that is not. All
// of those have been walked. What was settled before is only read: it may be
// part of a selection that is being copied.
func (t *Tree) settle(n *node) {
	empty := false
	for _, sub := range n.subs {
		if sub != nil && sub.listed {
			t.settle(sub)
			empty = empty || sub.weak && len(sub.Entries) == 0
		}
	}
	if !empty {
		return
	}
	var entries []*copytree.Entry
	var subs []*node
	for i, sub := range n.subs {
		if sub != nil && sub.weak && len(sub.Entries) == 0 {
			n.hidden = append(n.hidden, n.Entries[i].Name)
			continue
		}
		entries, subs = append(entries, n.Entries[i]), append(subs, sub)
	}
	n.Entries, n.subs = entries, subs
	slices.Sort(n.hidden)
}

// list fills a directory, unless it is.
func (w *walker) list(n *node) error {
	if n.listed {
		return nil
	}
	w.readOld(n)
	flags := unix.O_PATH
	if !n.known {
		flags = unix.O_RDONLY
	}
	fd, err := copytree.OpenDir(int(w.tree.root.Fd()), n.Path, flags)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	w.noteDevice(fd, n.entry.Stat.Dev)
	if !n.known {
		if err := w.readNames(fd); err != nil {
			return err
		}
	}
	n.whole = true
	w.found, w.subs = w.found[:0], w.subs[:0]
	w.path = append(w.path[:0], n.Path.String()...)
	w.path = append(w.path, '/')
	if n.Path == ".\x00" {
		w.path = w.path[:0]
	}
	olds := w.olds
	for _, name := range w.names {
		for len(olds) > 0 && olds[0].name < name {
			olds = olds[1:]
			w.dirty = true // a name is gone
		}
		var old *indexEntry
		if len(olds) > 0 && olds[0].name == name {
			old, olds = &olds[0], olds[1:]
		}
		if err := w.add(n, fd, name, old); err != nil {
			return err
		}
	}
	w.dirty = w.dirty || len(olds) > 0
	n.Entries = slices.Clone(w.found)
	for _, sub := range w.subs {
		if sub != nil {
			n.subs = slices.Clone(w.subs)
			break
		}
	}
	n.looked, n.listed = nil, true
	return nil
}

// readOld reads the record of n, and takes the names from it if they are all
// there.
func (w *walker) readOld(n *node) {
	d := w.tree.old.dir(n.old)
	w.olds, w.names = w.olds[:0], w.names[:0]
	for {
		w.olds = append(w.olds, indexEntry{})
		if !d.next(&w.olds[len(w.olds)-1]) {
			break
		}
	}
	w.olds = w.olds[:len(w.olds)-1]
	n.known = n.known && d.complete && !d.damaged
	if !n.known {
		w.dirty = true
		return
	}
	for i := range w.olds {
		w.names = append(w.names, w.olds[i].name)
	}
}

// readNames reads the names of an open directory, sorted.
func (w *walker) readNames(fd int) error {
	if w.dents == nil {
		w.dents = make([]byte, 64<<10)
	}
	w.stats.Listed++
	w.names = w.names[:0]
	err := copytree.ReadNames(fd, w.dents, func(name []byte) {
		w.names = append(w.names, w.keep(name))
	})
	slices.Sort(w.names)
	return err
}

// keep copies a name to memory that stays.
func (w *walker) keep(name []byte) copytree.Name {
	if len(w.arena) < len(name) {
		w.arena = make([]byte, 64<<10)
	}
	n := copy(w.arena, name)
	kept := unsafe.String(&w.arena[0], n) // never written again
	w.arena = w.arena[n:]
	return copytree.Name(kept)
}

// add looks at one name of the directory n, open as fd.
func (w *walker) add(n *node, fd int, name copytree.Name, old *indexEntry) error {
	if l, ok := n.looked[name.String()]; ok {
		w.found, w.subs = append(w.found, l.entry), append(w.subs, l.sub)
		return nil
	}
	prefix := len(w.path)
	w.path = append(w.path, name[:len(name)-1]...)
	defer func() { w.path = w.path[:prefix] }()
	// The path is only looked at.
	weak, gone := w.ignored(n, unsafe.String(&w.path[0], len(w.path)))
	if gone {
		n.hidden = append(n.hidden, name)
		return nil
	}
	e, sub, err := w.look(n, fd, name, old)
	switch {
	case errors.Is(err, unix.ENOENT):
		n.whole = false // it was removed just now
		return nil
	case err != nil:
		return fmt.Errorf("look at %q: %w", name, err)
	case weak && sub == nil:
		n.hidden = append(n.hidden, name)
		return nil
	case sub != nil:
		sub.weak, sub.info = weak, slices.Clone(w.self)
	}
	w.found, w.subs = append(w.found, e), append(w.subs, sub)
	return nil
}

// ignored tells whether a path is ignored: gone for good, or weakly so if it
// may be a directory with something in it that is not. The information about
// the path is in w.self then.
func (w *walker) ignored(n *node, path string) (weak, gone bool) {
	m := w.tree.ignore
	if m.empty() {
		return false, false
	}
	for i := range w.self {
		w.self[i] = false
	}
	matched, _ := m.match(path, n.info, w.self)
	if !matched {
		return false, false
	}
	if m.negated && m.mayRescue(path) {
		return true, false
	}
	return false, true
}

// look looks at one name of a directory and takes over what is known about it.
func (w *walker) look(n *node, fd int, name copytree.Name, old *indexEntry) (*copytree.Entry, *node, error) {
	if len(w.entries) == 0 {
		w.entries = make([]copytree.Entry, 256)
	}
	e := &w.entries[0]
	if err := copytree.StatAt(fd, name, &e.Stat); err != nil {
		return nil, nil, err
	}
	w.entries = w.entries[1:]
	w.stats.Statted++
	e.Name = name
	same := old != nil && old.flags&entryKnown != 0 && old.stat == e.Stat
	if same && (old.flags&entryXattrs != 0 || !w.tree.opts.KeepOwner || e.IsRegular()) {
		e.Link, e.Digest = old.link, old.digest
		e.Xattrs, e.XattrsKnown = old.xattrs, old.flags&entryXattrs != 0
		if !w.tree.opts.KeepOwner {
			e.Xattrs = nil
		} else if !e.XattrsKnown {
			e.Digest = nil // read with the bytes
		}
		if e.Digest != nil {
			w.stats.Remembered++
		}
	} else if err := w.learn(fd, e); err != nil {
		return nil, nil, err
	}
	if !e.IsDir() {
		return e, nil, nil
	}
	if len(w.nodes) == 0 {
		w.nodes = make([]node, 64)
	}
	sub := &w.nodes[0]
	w.nodes = w.nodes[1:]
	sub.Path, sub.entry = n.Path.Join(name), e
	if old != nil {
		sub.old, sub.known = old.dir, same
	}
	e.Dir = &sub.Dir
	return e, sub, nil
}

// learn reads what is not in the inode of an entry: all but the bytes and the
// attributes of regular files, which are read only if a digest is asked for.
// Other types than files and directories have no attributes that are copied.
func (w *walker) learn(fd int, e *copytree.Entry) (err error) {
	w.dirty = true
	switch {
	case e.IsSymlink():
		e.Link, err = copytree.ReadLink(fd, e.Name)
	case e.IsDir():
		if w.tree.opts.KeepOwner {
			e.Xattrs, err = copytree.XattrsAt(fd, e.Name)
		}
	}
	e.XattrsKnown = w.tree.opts.KeepOwner && !e.IsRegular()
	return err
}

// noteDevice finds out how exact the times on a device are.
func (w *walker) noteDevice(fd int, dev uint64) {
	if _, ok := w.devs[dev]; ok {
		return
	}
	var fs unix.Statfs_t
	err := unix.Fstatfs(fd, &fs)
	w.devs[dev] = err != nil || !isFine(uint32(fs.Type))
}

// lookup finds a name in the directory n, which is not listed for it. The
// entry is nil if it is not there or ignored; by is then the number of the
// ignore pattern that is the cause, or -1.
func (t *Tree) lookup(n *node, name string) (e *copytree.Entry, sub *node, by int, err error) {
	if l, ok := n.looked[name]; ok {
		return l.entry, l.sub, -1, nil
	}
	w := t.walkers()[0]
	defer t.gather()
	kept := copytree.MakeName(name)
	path := n.Path.Join(kept).String()
	for i := range w.self {
		w.self[i] = false
	}
	matched, by := t.ignore.match(path, n.info, w.self)
	if n.listed {
		i, ok := slices.BinarySearchFunc(n.Entries, kept, func(e *copytree.Entry, name copytree.Name) int {
			return strings.Compare(string(e.Name), string(name))
		})
		if !ok {
			return nil, nil, by, nil
		}
		if n.subs != nil {
			sub = n.subs[i]
		}
		return n.Entries[i], sub, -1, nil
	}
	if matched && !(t.ignore.negated && t.ignore.mayRescue(path)) {
		return nil, nil, by, nil
	}
	fd, err := copytree.OpenDir(int(t.root.Fd()), n.Path, unix.O_PATH)
	if err != nil {
		return nil, nil, -1, fmt.Errorf("open directory %q of %q: %w", n.Path, t.root.Name(), err)
	}
	defer unix.Close(fd)
	w.noteDevice(fd, n.entry.Stat.Dev)
	e, sub, err = w.look(n, fd, kept, t.oldEntry(n, kept))
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENAMETOOLONG):
		return nil, nil, -1, nil
	case err != nil:
		return nil, nil, -1, fmt.Errorf("look at %q in %q: %w", path, t.root.Name(), err)
	case matched && sub == nil:
		return nil, nil, by, nil
	case sub != nil:
		sub.weak, sub.info = matched, slices.Clone(w.self)
	}
	if n.looked == nil {
		n.looked = map[string]looked{}
	}
	n.looked[name] = looked{e, sub}
	return e, sub, by, nil
}

// oldEntry finds the record of a name in that of its directory.
func (t *Tree) oldEntry(n *node, name copytree.Name) *indexEntry {
	d := t.old.dir(n.old)
	var e indexEntry
	for d.next(&e) {
		if e.name == name {
			return &e
		}
	}
	return nil
}

// keepIndex makes what is known now the index, for the rest of this build.
func (t *Tree) keepIndex() error {
	if t.dirty {
		t.old = parseIndex(t.encodeIndex().finish())
	}
	return nil
}

// saveIndex writes the index file if it would differ.
func (t *Tree) saveIndex() error {
	if t.opts.Index == "" || !t.dirty {
		return nil
	}
	if err := t.encodeIndex().save(t.opts.Index); err != nil {
		return fmt.Errorf("save the context index: %w", err)
	}
	return nil
}

func (t *Tree) encodeIndex() *indexWriter {
	hint := 0
	if t.old != nil {
		hint = len(t.old.data)
	}
	w := newIndexWriter(hint + 64<<10)
	pos := w.beginDir(true)
	e := t.indexEntry(t.top.entry)
	slot := w.entry(pos, &e)
	w.setDir(slot, t.encodeNode(w, t.top))
	return w
}

// indexEntry is what may be written about an entry.
func (t *Tree) indexEntry(e *copytree.Entry) indexEntry {
	rec := indexEntry{name: e.Name}
	if !t.trusted(&e.Stat) || t.unstable[e] {
		return rec
	}
	rec.flags, rec.stat, rec.link = entryKnown, e.Stat, e.Link
	if e.Digest != nil {
		rec.flags |= entryDigest
		rec.digest = e.Digest
	}
	if e.XattrsKnown {
		rec.flags |= entryXattrs
		rec.xattrs = e.Xattrs
	}
	return rec
}

// encodeNode appends the record of a directory and those below it.
func (t *Tree) encodeNode(w *indexWriter, n *node) uint64 {
	if !n.listed && len(n.looked) == 0 {
		if n.old == 0 {
			return 0
		}
		return w.copyDir(t.old, n.old, n.known)
	}
	if !n.listed {
		return t.encodePartly(w, n)
	}
	// Another machine may change a directory long before this one hears of
	// it: there the names are read each time.
	st := &n.entry.Stat
	pos := w.beginDir(n.whole && t.trusted(st) && !t.remote[st.Dev])
	var children []child
	olds := t.old.dir(n.old)
	hidden := n.hidden
	hide := func(name copytree.Name) {
		rec := olds.find(name)
		old := rec.dir
		slot := w.entry(pos, &rec)
		if old != 0 {
			children = append(children, child{slot: slot, old: old})
		}
		hidden = hidden[1:]
	}
	for i, e := range n.Entries {
		for len(hidden) > 0 && hidden[0] < e.Name {
			hide(hidden[0])
		}
		rec := t.indexEntry(e)
		slot := w.entry(pos, &rec)
		if n.subs != nil && n.subs[i] != nil {
			children = append(children, child{slot: slot, node: n.subs[i]})
		}
	}
	for len(hidden) > 0 {
		hide(hidden[0])
	}
	t.encodeChildren(w, children)
	return pos
}

// child is a directory whose record is to follow: a node, or what the earlier
// index had.
type child struct {
	slot uint64
	node *node
	old  uint64
}

func (t *Tree) encodeChildren(w *indexWriter, children []child) {
	for _, c := range children {
		if c.node != nil {
			w.setDir(c.slot, t.encodeNode(w, c.node))
		} else {
			w.setDir(c.slot, w.copyDir(t.old, c.old, true))
		}
	}
}

// encodePartly writes the record of a directory of which only some names were
// looked at: those, and what was known of the others.
func (t *Tree) encodePartly(w *indexWriter, n *node) uint64 {
	recs, nodes := map[copytree.Name]indexEntry{}, map[copytree.Name]*node{}
	d := t.old.dir(n.old)
	var e indexEntry
	for d.next(&e) {
		recs[e.name] = e
	}
	for _, l := range n.looked {
		recs[l.entry.Name] = t.indexEntry(l.entry)
		nodes[l.entry.Name] = l.sub
	}
	pos := w.beginDir(d.complete && n.known && !d.damaged)
	var children []child
	for _, name := range slices.Sorted(maps.Keys(recs)) {
		rec := recs[name]
		old := rec.dir
		slot := w.entry(pos, &rec)
		if sub := nodes[name]; sub != nil || old != 0 {
			children = append(children, child{slot, sub, old})
		}
	}
	t.encodeChildren(w, children)
	return pos
}
