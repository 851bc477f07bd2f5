// SPDX-License-Identifier: Apache-2.0

package buildcontext

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"unsafe"

	"builder/internal/atomicfile"
	"builder/internal/copytree"
)

// The index file remembers directories and what was learnt about the files in
// them:
//
//	magic, 16 bytes, with the version of the format
//	CRC-32C of the rest
//	size of the file
//	records of directories, each after the one of the directory that it is in
//
// The record of a directory is a flag word, the number of its entries and the
// entries in the order of their names:
//
//	fixed    96 bytes, see entrySize
//	digest   32 bytes, if flagged
//	name     with a NUL byte
//	link     target of a symbolic link
//	xattrs   name and value of each, with their lengths
//
// Numbers are little-endian and records aren't aligned. An entry has the
// position of the record of its directory, 0 for none, so that a walk finds
// what it needs without searching. Only what may be trusted is written: see
// [Tree.trusted]. A file that is damaged in any way counts as missing.
const indexMagic = "builder context1"

const (
	indexHeader = 16 + 4 + 8
	dirSize     = 4 + 4
	entrySize   = 96
)

// Flags of a directory's record.
const (
	dirComplete = 1 << iota // its entries are all the names that it has
)

// Flags of an entry's record.
const (
	entryKnown  = 1 << iota // there is more about it than the name
	entryDigest             // the digest of its bytes is there
	entryXattrs             // its extended attributes are known
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// index is an index file that was read.
type index struct {
	data []byte
	text string // the same bytes: names are pieces of it
}

// indexEntry is one entry of a directory's record.
type indexEntry struct {
	name   copytree.Name
	flags  uint16
	stat   copytree.Stat
	digest *[32]byte // nil if not known
	link   string
	xattrs []copytree.Xattr
	dir    uint64 // position of the record of what is in it
}

// readIndex reads the index file; nil if there is none that is good.
func readIndex(name string) *index {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	return parseIndex(data)
}

// parseIndex takes data as the contents of an index file, nil if it isn't one.
func parseIndex(data []byte) *index {
	if len(data) < indexHeader+dirSize || string(data[:16]) != indexMagic {
		return nil
	}
	if binary.LittleEndian.Uint64(data[20:]) != uint64(len(data)) ||
		binary.LittleEndian.Uint32(data[16:]) != crc32.Checksum(data[20:], castagnoli) {
		return nil
	}
	// Nobody writes to data any more.
	return &index{data: data, text: unsafe.String(&data[0], len(data))}
}

// top is the position of the record of the top directory.
func (ix *index) top() uint64 {
	if ix == nil {
		return 0
	}
	return indexHeader
}

// dir begins to read the record of a directory, which is empty if pos is 0 or
// none of one.
func (ix *index) dir(pos uint64) *indexDir {
	d := &indexDir{ix: ix}
	if ix == nil || pos < indexHeader || pos > uint64(len(ix.data)-dirSize) {
		return d
	}
	d.complete = binary.LittleEndian.Uint32(ix.data[pos:])&dirComplete != 0
	d.left = int(binary.LittleEndian.Uint32(ix.data[pos+4:]))
	d.start, d.pos = pos, pos+dirSize
	return d
}

// indexDir reads the record of one directory from its beginning to its end.
type indexDir struct {
	ix       *index
	complete bool
	left     int
	start    uint64
	pos      uint64
	damaged  bool
	seen     indexEntry // the last that find read
}

// next reads the next entry into e; false at the end, and where the record is
// damaged, which then says so.
func (d *indexDir) next(e *indexEntry) bool {
	if d.left <= 0 {
		return false
	}
	d.left--
	if !d.read(e) {
		d.left, d.damaged = 0, true
		return false
	}
	return true
}

// find reads on to the entry with a name, past those before it in order. One
// that is not there is returned with nothing but its name.
func (d *indexDir) find(name copytree.Name) indexEntry {
	for d.left > 0 && (d.seen.name < name) {
		d.next(&d.seen)
	}
	if d.seen.name == name {
		return d.seen
	}
	return indexEntry{name: name}
}

func (d *indexDir) read(e *indexEntry) bool {
	b := d.ix.data[d.pos:]
	if len(b) < entrySize {
		return false
	}
	le := binary.LittleEndian
	nameLen, linkLen, xattrLen := int(le.Uint16(b[2:])), int(le.Uint16(b[4:])), int(le.Uint32(b[88:]))
	*e = indexEntry{
		flags: le.Uint16(b),
		stat: copytree.Stat{
			Mode:   le.Uint32(b[8:]),
			UID:    le.Uint32(b[12:]),
			GID:    le.Uint32(b[16:]),
			Nlinks: le.Uint32(b[20:]),
			Dev:    le.Uint64(b[24:]),
			Ino:    le.Uint64(b[32:]),
			Rdev:   le.Uint64(b[40:]),
			Size:   int64(le.Uint64(b[48:])),
			Mtime:  copytree.Time{Sec: int64(le.Uint64(b[56:])), Nsec: le.Uint32(b[72:])},
			Ctime:  copytree.Time{Sec: int64(le.Uint64(b[64:])), Nsec: le.Uint32(b[76:])},
		},
		dir: le.Uint64(b[80:]),
	}
	pos := d.pos + entrySize
	if e.flags&entryDigest != 0 {
		if len(b) < entrySize+32 {
			return false
		}
		e.digest = (*[32]byte)(b[entrySize:])
		pos += 32
	}
	rest := d.ix.text[pos:]
	if nameLen < 2 || xattrLen > len(rest) || nameLen+linkLen+xattrLen > len(rest) || rest[nameLen-1] != 0 {
		return false
	}
	e.name = copytree.Name(rest[:nameLen])
	e.link = rest[nameLen : nameLen+linkLen]
	d.pos = pos + uint64(nameLen+linkLen+xattrLen)
	// Records come after those that they are named in: no endless descent.
	if e.dir != 0 && e.dir <= d.start {
		return false
	}
	var ok bool
	e.xattrs, ok = decodeXattrs(rest[nameLen+linkLen:][:xattrLen])
	return ok
}

func decodeXattrs(s string) (xs []copytree.Xattr, ok bool) {
	for s != "" {
		if len(s) < 6 {
			return nil, false
		}
		b := []byte(s[:6])
		nameLen, valueLen := int(binary.LittleEndian.Uint16(b)), int(binary.LittleEndian.Uint32(b[2:]))
		s = s[6:]
		if valueLen > len(s) || nameLen+valueLen > len(s) {
			return nil, false
		}
		xs = append(xs, copytree.Xattr{Name: s[:nameLen], Value: s[nameLen : nameLen+valueLen]})
		s = s[nameLen+valueLen:]
	}
	return xs, true
}

// indexWriter builds the contents of an index file.
type indexWriter struct {
	bytes.Buffer
}

func newIndexWriter(sizeHint int) *indexWriter {
	w := &indexWriter{}
	w.Grow(sizeHint)
	w.WriteString(indexMagic)
	w.Write(make([]byte, indexHeader-len(indexMagic)))
	return w
}

// beginDir begins the record of a directory and returns its position.
func (w *indexWriter) beginDir(complete bool) uint64 {
	pos := uint64(w.Len())
	var flags uint32
	if complete {
		flags = dirComplete
	}
	b := binary.LittleEndian.AppendUint32(w.AvailableBuffer(), flags)
	w.Write(binary.LittleEndian.AppendUint32(b, 0))
	return pos
}

// entry appends an entry to the record of the directory at dir, and returns
// where the position of its own record belongs, for setDir.
func (w *indexWriter) entry(dir uint64, e *indexEntry) (slot uint64) {
	count := w.Bytes()[dir+4:]
	binary.LittleEndian.PutUint32(count, binary.LittleEndian.Uint32(count)+1)
	xattrLen := 0
	for _, x := range e.xattrs {
		xattrLen += 6 + len(x.Name) + len(x.Value)
	}
	slot = uint64(w.Len()) + 80
	le := binary.LittleEndian
	b := w.AvailableBuffer()
	b = le.AppendUint16(b, e.flags)
	b = le.AppendUint16(b, uint16(len(e.name)))
	b = le.AppendUint16(b, uint16(len(e.link)))
	b = le.AppendUint16(b, 0)
	for _, v := range []uint32{e.stat.Mode, e.stat.UID, e.stat.GID, e.stat.Nlinks} {
		b = le.AppendUint32(b, v)
	}
	for _, v := range []uint64{e.stat.Dev, e.stat.Ino, e.stat.Rdev, uint64(e.stat.Size), uint64(e.stat.Mtime.Sec), uint64(e.stat.Ctime.Sec)} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, e.stat.Mtime.Nsec)
	b = le.AppendUint32(b, e.stat.Ctime.Nsec)
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, uint32(xattrLen))
	b = le.AppendUint32(b, 0)
	if e.flags&entryDigest != 0 {
		b = append(b, e.digest[:]...)
	}
	b = append(b, e.name...)
	b = append(b, e.link...)
	for _, x := range e.xattrs {
		b = le.AppendUint16(b, uint16(len(x.Name)))
		b = le.AppendUint32(b, uint32(len(x.Value)))
		b = append(append(b, x.Name...), x.Value...)
	}
	w.Write(b)
	return slot
}

// setDir says where the record of an entry's directory is.
func (w *indexWriter) setDir(slot, pos uint64) {
	binary.LittleEndian.PutUint64(w.Bytes()[slot:], pos)
}

// copyDir copies a record of an earlier index with all below it. Its list of
// names counts as complete only if it is known to be still so.
func (w *indexWriter) copyDir(old *index, pos uint64, complete bool) uint64 {
	d := old.dir(pos)
	at := w.beginDir(d.complete && complete)
	type sub struct{ slot, pos uint64 }
	var subs []sub
	var e indexEntry
	for d.next(&e) {
		slot := w.entry(at, &e)
		if e.dir != 0 {
			subs = append(subs, sub{slot, e.dir})
		}
	}
	for _, s := range subs {
		w.setDir(s.slot, w.copyDir(old, s.pos, true))
	}
	return at
}

// finish fills the header and returns the file's contents.
func (w *indexWriter) finish() []byte {
	data := w.Bytes()
	binary.LittleEndian.PutUint64(data[20:], uint64(len(data)))
	binary.LittleEndian.PutUint32(data[16:], crc32.Checksum(data[20:], castagnoli))
	return data
}

// save replaces the index file. The old one stays if that fails.
func (w *indexWriter) save(name string) error {
	if w.Len() > maxIndex {
		return errors.New("the index would be too large")
	}
	return atomicfile.Write(name, w.finish(), 0o600)
}

// maxIndex is the size from which on remembering is worth less than it costs.
const maxIndex = 1 << 31
