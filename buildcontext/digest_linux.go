// SPDX-License-Identifier: Apache-2.0

package buildcontext

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"

	"builder/internal/copytree"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Digest returns the content key. It covers the whole request, with sources
// replaced by what they selected: of every entry the path, the type, the mode
// and owner as they will be, the target of a link, the extended attributes
// that are copied, the bytes, and which names are one file. Times are not in
// it, nor where in the tree a source was.
//
// Files whose digest is not remembered are read. A file that is written to at
// that moment gets the digest of what was read; Copy finds out.
func (s *Selection) Digest(ctx context.Context) (digest.Digest, error) {
	if s.sum != "" {
		return s.sum, nil
	}
	t := s.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.hashFiles(ctx, s.plan.Sources); err != nil {
		return "", err
	}
	w := &keyWriter{hash: sha256.New(), selection: s}
	w.selected()
	s.sum = digest.NewDigest(digest.SHA256, w.hash)
	return s.sum, nil
}

// Entries calls yield for everything that is selected, in the order of the
// digest, until it returns false: with the path below the destination (of a
// file that a source names, its name) and a digest of what counts about the
// entry itself. Comparing them with those of an earlier selection tells which
// files made the difference. Files are read as for Digest.
func (s *Selection) Entries(ctx context.Context, yield func(path string, sum [32]byte) bool) error {
	if _, err := s.Digest(ctx); err != nil {
		return err
	}
	w := &keyWriter{selection: s}
	sum := func(name string, e *copytree.Entry) [32]byte {
		w.buf = w.buf[:0]
		w.node(name, e)
		return sha256.Sum256(w.buf)
	}
	var dir func(path string, d *copytree.Dir) bool
	dir = func(path string, d *copytree.Dir) bool {
		for _, e := range d.Entries {
			p := path + e.Name.String()
			if !yield(p, sum("", e)) || e.IsDir() && !dir(p+"/", e.Dir) {
				return false
			}
		}
		return true
	}
	for i := range s.plan.Sources {
		src := &s.plan.Sources[i]
		w.begin(src)
		var more bool
		switch {
		case src.IsDir():
			more = dir("", src.Entry.Dir)
		case src.Data != nil:
			more = yield(src.Name, sha256.Sum256(src.Data))
		default:
			more = yield(src.Name, sum("", src.Entry))
		}
		if !more {
			break
		}
	}
	return nil
}

// keyVersion changes when the same selection is to get another digest.
const keyVersion = "builder copy 1"

// Kinds of what is in a key.
const (
	keySource  = 's' // a source that is a file follows
	keyTop     = 't' // the contents of a source that is a directory follow
	keyFile    = 'f'
	keyInline  = 'i'
	keyLink    = 'l'
	keyDir     = 'd' // the contents follow
	keyImplied = 'D' // the same, of a directory that is only on the way
	keyEnd     = 'e' // the end of a directory's contents
	keyChar    = 'c'
	keyBlock   = 'b'
	keyFIFO    = 'p'
)

// keyWriter feeds a selection to a hash. Every field has a fixed size or its
// length before it, so that no two selections feed the same bytes.
type keyWriter struct {
	hash      hash.Hash
	buf       []byte
	selection *Selection
	names     map[[2]uint64]int    // how many names of a file are selected
	links     map[[2]uint64]uint32 // those with several, in order
}

func (w *keyWriter) flush() {
	w.hash.Write(w.buf)
	w.buf = w.buf[:0]
}

func (w *keyWriter) byte(b byte)   { w.buf = append(w.buf, b) }
func (w *keyWriter) num(n uint32)  { w.buf = binary.LittleEndian.AppendUint32(w.buf, n) }
func (w *keyWriter) bool(b bool)   { w.byte(map[bool]byte{true: 1}[b]) }
func (w *keyWriter) text(s string) { w.num(uint32(len(s))); w.buf = append(w.buf, s...) }

func (w *keyWriter) selected() {
	p := &w.selection.plan
	w.buf = make([]byte, 0, 64<<10)
	w.text(keyVersion)
	w.text(p.Dest)
	w.text(w.selection.modeStr)
	w.bool(p.Unpack)
	w.bool(p.Owner != nil)
	if p.Owner != nil {
		w.num(p.Owner.UID)
		w.num(p.Owner.GID)
	}
	w.num(uint32(len(p.Sources)))
	for i := range p.Sources {
		s := &p.Sources[i]
		w.begin(s)
		switch {
		case s.IsDir():
			w.byte(keyTop)
			w.dir(s.Entry.Dir)
		case s.Data != nil:
			w.byte(keyInline)
			w.text(s.Name)
			sum := sha256.Sum256(s.Data)
			w.buf = append(w.buf, sum[:]...)
		default:
			w.byte(keySource)
			w.entry(s.Name, s.Entry)
		}
	}
	w.flush()
}

func (w *keyWriter) dir(d *copytree.Dir) {
	for _, e := range d.Entries {
		w.entry(e.Name.String(), e)
	}
	w.byte(keyEnd)
}

// begin prepares for the entries of a source.
func (w *keyWriter) begin(s *copytree.Source) {
	w.names, w.links = map[[2]uint64]int{}, map[[2]uint64]uint32{}
	if s.IsDir() {
		w.countNames(s.Entry.Dir)
	}
}

// countNames counts the names of files that have several.
func (w *keyWriter) countNames(d *copytree.Dir) {
	for _, e := range d.Entries {
		switch {
		case e.IsDir():
			w.countNames(e.Dir)
		case e.Stat.Nlinks > 1 && e.IsRegular():
			w.names[[2]uint64{e.Stat.Dev, e.Stat.Ino}]++
		}
	}
}

// entry writes an entry, and after a directory what is in it.
func (w *keyWriter) entry(name string, e *copytree.Entry) {
	if len(w.buf) > 60<<10 {
		w.flush()
	}
	w.node(name, e)
	if e.IsDir() {
		w.dir(e.Dir)
	}
}

// node writes all that counts about an entry itself.
func (w *keyWriter) node(name string, e *copytree.Entry) {
	kind := e.Stat.Mode & unix.S_IFMT
	switch kind {
	case unix.S_IFLNK:
		w.byte(keyLink)
	case unix.S_IFDIR:
		if e.Implied {
			w.byte(keyImplied)
		} else {
			w.byte(keyDir)
		}
	case unix.S_IFCHR:
		w.byte(keyChar)
	case unix.S_IFBLK:
		w.byte(keyBlock)
	case unix.S_IFIFO:
		w.byte(keyFIFO)
	default: // sockets become files
		w.byte(keyFile)
	}
	w.text(name)
	plan := &w.selection.plan
	owner := plan.OwnerOf(e)
	w.num(owner.UID)
	w.num(owner.GID)
	if kind != unix.S_IFLNK {
		w.num(plan.Mode.Apply(e.Stat.Mode))
	}
	w.num(uint32(len(e.Xattrs)))
	for _, x := range e.Xattrs {
		w.text(x.Name)
		w.text(x.Value)
	}
	switch kind {
	case unix.S_IFLNK:
		w.text(e.Link)
	case unix.S_IFCHR, unix.S_IFBLK:
		w.num(unix.Major(e.Stat.Rdev))
		w.num(unix.Minor(e.Stat.Rdev))
	case unix.S_IFREG:
		w.num(w.group(e))
		w.content(e)
	}
}

// content writes the digest of a file's bytes: of those that were copied, if
// they are others than the tree had.
func (w *keyWriter) content(e *copytree.Entry) {
	sum := *e.Digest
	if c, ok := w.selection.changed[e]; ok {
		sum = c
	}
	w.buf = append(w.buf, sum[:]...)
}

// group numbers the files of which several names are selected; others have 0,
// however many names they have elsewhere.
func (w *keyWriter) group(e *copytree.Entry) uint32 {
	inode := [2]uint64{e.Stat.Dev, e.Stat.Ino}
	if e.Stat.Nlinks < 2 || w.names[inode] < 2 {
		return 0
	}
	n, ok := w.links[inode]
	if !ok {
		n = uint32(len(w.links) + 1)
		w.links[inode] = n
	}
	return n
}

// batch is a number of files of one directory that are to be read.
type batch struct {
	dir     copytree.Name
	entries []*copytree.Entry
}

// batchFiles and batchBytes bound a batch, for the work to be divided well.
const (
	batchFiles = 128
	batchBytes = 4 << 20
)

// hashFiles reads the selected files whose digest is not known.
func (t *Tree) hashFiles(ctx context.Context, sources []copytree.Source) error {
	var todo []batch
	seen := map[*copytree.Entry]bool{} // by several sources
	for i := range sources {
		s := &sources[i]
		switch {
		case s.IsDir():
			todo = unhashed(todo, s.Entry.Dir, seen)
		case s.Data == nil && s.Entry.IsRegular() && s.Entry.Digest == nil && !seen[s.Entry]:
			seen[s.Entry] = true
			todo = append(todo, batch{s.Parent, []*copytree.Entry{s.Entry}})
		}
	}
	if len(todo) == 0 {
		return nil
	}
	workers := make([]hasher, copytree.Workers())
	for i := range workers {
		workers[i].xattrs = t.opts.KeepOwner
	}
	err := copytree.Each(ctx, len(workers), todo, func(i int, b batch, _ func(batch)) error {
		return workers[i].batch(ctx, t, b)
	})
	for i := range workers {
		w := &workers[i]
		t.stats.Hashed += w.files
		t.stats.HashedBytes += w.bytes
		for _, e := range w.unstable {
			if t.unstable == nil {
				t.unstable = map[*copytree.Entry]bool{}
			}
			t.unstable[e] = true
		}
		t.dirty = t.dirty || w.files > 0
	}
	return err
}

// unhashed appends batches of the files in d that have no digest.
func unhashed(todo []batch, d *copytree.Dir, seen map[*copytree.Entry]bool) []batch {
	b := batch{dir: d.Path}
	size := int64(0)
	for _, e := range d.Entries {
		switch {
		case e.IsDir():
			todo = unhashed(todo, e.Dir, seen)
		case e.IsRegular() && e.Digest == nil && !seen[e]:
			seen[e] = true
			b.entries = append(b.entries, e)
			size += e.Stat.Size
		}
		if len(b.entries) == batchFiles || size > batchBytes {
			todo = append(todo, b)
			b.entries, size = nil, 0
		}
	}
	if len(b.entries) > 0 {
		todo = append(todo, b)
	}
	return todo
}

// hasher is what one goroutine needs to hash files.
type hasher struct {
	xattrs   bool // extended attributes count
	hash     hash.Hash
	buf      []byte
	sums     [][32]byte
	files    int64
	bytes    int64
	unstable []*copytree.Entry
}

func (h *hasher) batch(ctx context.Context, t *Tree, b batch) error {
	dir, err := copytree.OpenDir(int(t.root.Fd()), b.dir, unix.O_PATH)
	if err != nil {
		return changed(b.dir, err)
	}
	defer unix.Close(dir)
	for _, e := range b.entries {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := h.file(dir, e); err != nil {
			return changed(b.dir.Join(e.Name), err)
		}
	}
	return nil
}

// changed makes the error for a file that was selected and can't be read.
func changed(name copytree.Name, err error) error {
	if copytree.Gone(err) {
		err = fmt.Errorf("%w: %w", ErrChanged, err)
	}
	return fmt.Errorf("read %q: %w", "/"+name.String(), err)
}

func (h *hasher) file(dir int, e *copytree.Entry) error {
	fd, err := copytree.OpenFileAt(dir, e.Name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if h.hash == nil {
		h.hash, h.buf = sha256.New(), make([]byte, 256<<10)
	}
	h.hash.Reset()
	if err := h.read(fd, e.Stat.Size); err != nil {
		return err
	}
	var xattrs []copytree.Xattr
	if h.xattrs {
		if xattrs, err = copytree.FileXattrs(fd); err != nil {
			return err
		}
	}
	var now copytree.Stat
	if err := copytree.StatFD(fd, &now); err != nil {
		return err
	}
	if now.Mode&unix.S_IFMT != unix.S_IFREG {
		return unix.ENOENT // something else took its place
	}
	if now != e.Stat {
		h.unstable = append(h.unstable, e)
	}
	if len(h.sums) == 0 {
		h.sums = make([][32]byte, 256)
	}
	h.hash.Sum(h.sums[0][:0])
	e.Digest, h.sums = &h.sums[0], h.sums[1:]
	e.Xattrs, e.XattrsKnown = xattrs, h.xattrs
	h.files++
	return nil
}

// read hashes the first size bytes of a file, which are all unless it grew.
func (h *hasher) read(fd int, size int64) error {
	for size > 0 {
		n, err := unix.Read(fd, h.buf[:min(size, int64(len(h.buf)))])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		h.hash.Write(h.buf[:n])
		h.bytes += int64(n)
		size -= int64(n)
	}
	return nil
}
