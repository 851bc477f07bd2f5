// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Names with a meaning in layers (image-spec, layer.md, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
)

var errReserved = errors.New(`names that begin with ".wh." can't be in an image: they mark deleted files in its layers`)

// Diff writes to w the layer that upper is: what it adds, changes and removes
// against its lower directories. Entries are in depth-first order, the names of
// each directory sorted by bytes, so the same tree gives the same bytes. What
// has an entry, and what is in it, is what BuildKit writes, so that the diffID
// is the same: files that were copied up without a change are left out, opaque
// directories become whiteouts of what they hide; whole seconds, no names of
// users and groups, of the extended attributes security.capability alone, no
// sockets, no entry for the root directory.
//
// Overlay's redirect and metacopy marks are refused: the mount must have been
// made without them. So are names that begin with ".wh.", which a layer can't
// hold.
//
// Nothing may change upper meanwhile; a file whose size or time is seen to
// change, or that is gone, fails with [ErrChanged]. See [Options.Live]. After an error what was
// written to w is worthless. Diff returns after its goroutines; when ctx ends
// it does so promptly, unless it hangs in w.
func Diff(ctx context.Context, w io.Writer, upper Upper, opts Options) (Layer, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY
	root, err := os.OpenFile(upper.Dir, flags, 0)
	if err != nil {
		return Layer{}, err
	}
	defer root.Close()
	tree := &walker{root: int(root.Fd()), prefix: overlayPrefix(upper.UserXattr), elsewhere: upper.Elsewhere}
	if opts.Whole {
		upper.Lower = nil
	}
	for _, dir := range upper.Lower {
		f, err := os.OpenFile(dir, flags, 0)
		if err != nil {
			return Layer{}, err
		}
		defer f.Close()
		tree.lower = append(tree.lower, int(f.Fd()))
	}
	return writeTrees(ctx, w, []*walker{tree}, opts)
}

// WriteTree writes to w the whole tree below root as one layer, in the form
// and under the rules of [Diff], but with all user.* attributes: nothing is
// taken for a whiteout or an opaque mark. root may be opened with O_PATH and
// may be a detached mount; it is not closed.
func WriteTree(ctx context.Context, w io.Writer, root *os.File, opts Options) (Layer, error) {
	return WriteTrees(ctx, w, []Tree{{Root: root}}, opts)
}

// Tree is a tree to be written.
type Tree struct {
	Root *os.File
	// Dir, if not "", is the directory of the layer's root that the tree is
	// put into: root's, with mode 0755 and, unless the options say another
	// time, of 1970.
	Dir string
}

// WriteTrees is [WriteTree] of several trees, which must have no path in
// common.
func WriteTrees(ctx context.Context, w io.Writer, trees []Tree, opts Options) (Layer, error) {
	defer runtime.KeepAlive(trees) // only the descriptors are used from here on
	var walkers []*walker
	for _, t := range trees {
		walkers = append(walkers, &walker{root: int(t.Root.Fd()), users: true, below: t.Dir})
	}
	return writeTrees(ctx, w, walkers, opts)
}

func writeTrees(ctx context.Context, w io.Writer, trees []*walker, opts Options) (Layer, error) {
	return writeLayer(ctx, w, opts, func(ctx context.Context, s *sink) (int, error) {
		p := &planner{sink: s, opts: opts}
		for _, tree := range trees {
			tree.live, tree.points = opts.Live, opts.Points
			root, wait := tree.start(ctx, min(runtime.GOMAXPROCS(0), maxWorkers))
			err := p.all(tree, root)
			if werr := wait(); err == nil {
				err = werr
			}
			if err != nil {
				return p.entries, err
			}
		}
		_, err := s.Write(make([]byte, trailerSize))
		return p.entries, err
	})
}

// planner puts a tree's entries into the tar, in order. It writes the headers
// and leaves the data to the workers of the pipeline.
type planner struct {
	tree    *walker
	below   string // "" or a directory with its slash, which all names begin with
	sink    *sink
	opts    Options
	links   map[inode]*linked
	pending []*entry // unchanged directories on the way down, not written yet
	entries int
	buf     []byte
}

// inode identifies a file. The number alone does not: what lies in a tree may
// be of several file systems.
type inode struct{ dev, ino uint64 }

// linked is a file with several names, the first of which is written.
type linked struct {
	name string
	left uint64 // names not seen yet
}

// all writes a tree and the directory that it is put into.
func (p *planner) all(tree *walker, root *dir) error {
	p.tree, p.links, p.below = tree, map[inode]*linked{}, ""
	if tree.below != "" {
		p.below = tree.below + "/"
		h := header{name: p.below, typeflag: typeDir, mode: 0o755, mtime: p.opts.clamp(0)}
		if err := p.header(&h, tree.below); err != nil {
			return err
		}
	}
	return p.dir(root)
}

// dir writes the entries of d and what is below them.
func (p *planner) dir(d *dir) error {
	entries, err := p.tree.take(d)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := p.entry(e); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) entry(e *entry) error {
	if e.dir == nil {
		return p.write(e)
	}
	if e.same {
		// A directory that didn't change is written only if something in
		// it did, so that an unpacker needn't guess its mode and owner.
		n := len(p.pending)
		p.pending = append(p.pending, e)
		if err := p.dir(e.dir); err != nil {
			return err
		}
		p.pending = p.pending[:min(n, len(p.pending))]
		return nil
	}
	if err := p.write(e); err != nil {
		return err
	}
	return p.dir(e.dir)
}

// write puts e into the tar, after the directories that lead to it.
func (p *planner) write(e *entry) error {
	parents := p.pending
	p.pending = p.pending[:0]
	for _, dir := range parents {
		if err := p.put(dir); err != nil {
			return err
		}
	}
	if e.whiteout {
		name := e.path[:len(e.path)-len(e.name)] + whiteoutPrefix + e.name
		return p.header(&header{name: name, typeflag: typeReg}, e.path)
	}
	return p.put(e)
}

// put writes the header of e and, for a regular file, its data.
func (p *planner) put(e *entry) error {
	if strings.HasPrefix(e.name, whiteoutPrefix) {
		return pathError("write", e.path, errReserved)
	}
	h := header{
		name: p.below + e.path, link: e.link, mode: e.stat.Mode & 0o7777,
		mtime: e.stat.Mtim.Sec, xattrs: e.xattrs,
	}
	var err error
	if h.uid, h.gid, err = ownerIn(p.opts.Owners, e.stat.Uid, e.stat.Gid); err != nil {
		return pathError("write", e.path, err)
	}
	if p.opts.Owners != nil {
		h.xattrs = capabilitiesIn(p.opts.Owners, h.xattrs)
	}
	h.mtime = p.opts.clamp(h.mtime)
	switch e.stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.typeflag, h.size = typeReg, e.stat.Size
	case unix.S_IFDIR:
		h.typeflag = typeDir
		h.name += "/"
	case unix.S_IFLNK:
		h.typeflag = typeSymlink
	case unix.S_IFIFO:
		h.typeflag = typeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.typeflag = typeChar
		if e.stat.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.typeflag = typeBlock
		}
		h.devMajor, h.devMinor = unix.Major(e.stat.Rdev), unix.Minor(e.stat.Rdev)
	}
	if first := p.link(e); first != "" {
		h.typeflag, h.link, h.size = typeLink, p.below+first, 0
	}
	if err := p.header(&h, e.path); err != nil {
		return err
	}
	if h.size == 0 {
		return nil
	}
	if err := p.sink.file(e, h.size); err != nil {
		return err
	}
	var zero [blockSize]byte
	_, err = p.sink.Write(zero[:padding(h.size)])
	return err
}

// link returns the name under which the file of e was written before, or "".
func (p *planner) link(e *entry) string {
	if e.dir != nil || e.stat.Nlink < 2 {
		return ""
	}
	id := inode{e.stat.Dev, e.stat.Ino}
	l := p.links[id]
	if l == nil {
		p.links[id] = &linked{name: e.path, left: uint64(e.stat.Nlink) - 1}
		return ""
	}
	// A file with all its names written needs no more memory.
	if l.left--; l.left == 0 {
		delete(p.links, id)
	}
	return l.name
}

func (p *planner) header(h *header, path string) error {
	var err error
	if p.buf, err = appendHeader(p.buf[:0], h); err != nil {
		return pathError("write header of", path, err)
	}
	p.entries++
	_, err = p.sink.Write(p.buf)
	return err
}
