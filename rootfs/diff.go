// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"builder/image"
	"builder/layer"
	"builder/store"

	"github.com/opencontainers/go-digest"
)

// ChangeKind is the letter that docker has for a kind of change.
type ChangeKind byte

// Kinds of changes.
const (
	Added    ChangeKind = 'A'
	Modified ChangeKind = 'C'
	Deleted  ChangeKind = 'D'
)

// Change is a path at which two file systems differ.
type Change struct {
	Kind ChangeKind
	Path string // absolute
}

// Diff tells, in the order of paths, how the file system of an image differs
// from that of another, by reading the layers of both: nothing is unpacked.
//
// Files differ if their type, mode, owner, time of change to the second, link
// target, device number, extended attributes or contents do; the time of a
// directory doesn't count. A directory in which something changed is [Modified]
// itself. Below a directory that was added everything is listed, below one that
// was deleted nothing.
//
// The error wraps [store.ErrCorrupt] if a layer isn't what its image says, and
// [store.ErrNotFound] if it isn't in the store.
func Diff(ctx context.Context, s *store.Store, from, to image.Image) ([]Change, error) {
	a, b := from.Config.RootFS.DiffIDs, to.Config.RootFS.DiffIDs
	common := 0
	for common < min(len(a), len(b)) && a[common] == b[common] {
		common++
	}
	before := &listing{store: s, root: &node{children: map[string]*node{}, dir: true}}
	if err := before.add(ctx, to, 0, common); err != nil {
		return nil, err
	}
	after := &listing{store: s, root: before.root.clone()}
	if err := before.add(ctx, from, common, len(a)); err != nil {
		return nil, err
	}
	if err := after.add(ctx, to, common, len(b)); err != nil {
		return nil, err
	}
	changes := compare(nil, "", before.root, after.root)
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return changes, nil
}

// compare appends how what is below two directories differs.
func compare(changes []Change, dir string, from, to *node) []Change {
	for name := range from.children {
		if to.dir && to.children[name] == nil {
			changes = append(changes, Change{Deleted, dir + "/" + name})
		}
	}
	for name, now := range to.children {
		at := len(changes)
		old, kind := from.children[name], Modified
		if old == nil {
			old, kind = &node{}, Added
		}
		changes = compare(append(changes, Change{kind, dir + "/" + name}), dir+"/"+name, old, now)
		if kind == Modified && len(changes) == at+1 && old.same(now) {
			changes = changes[:at]
		}
	}
	return changes
}

// node is a file of a listing.
type node struct {
	dir      bool
	children map[string]*node // of a directory
	layer    int              // that it is of, from 1
	opaque   int              // the last layer that hid what was below

	mode             int64
	kind             byte // as in a tar
	uid, gid         int
	mtime            int64
	link             string
	devMajor, devMin int64
	xattrs           map[string]string
	sum              [sha256.Size]byte
}

func (n *node) same(m *node) bool {
	return n.dir == m.dir && n.kind == m.kind && n.mode == m.mode && n.uid == m.uid && n.gid == m.gid &&
		(n.dir || n.mtime == m.mtime) && n.link == m.link && n.devMajor == m.devMajor && n.devMin == m.devMin &&
		n.sum == m.sum && maps.Equal(n.xattrs, m.xattrs)
}

func (n *node) clone() *node {
	out := *n
	if n.children != nil {
		out.children = make(map[string]*node, len(n.children))
	}
	for name, c := range n.children {
		out.children[name] = c.clone()
	}
	return &out
}

// hideLower removes what is not of the layer and reports whether anything of it
// is left.
func (n *node) hideLower(layer int) bool {
	for name, c := range n.children {
		if !c.hideLower(layer) {
			delete(n.children, name)
		}
	}
	return n.layer == layer || len(n.children) > 0
}

// listing is the file system that layers make.
type listing struct {
	store *store.Store
	root  *node
}

// add puts the layers [first, end) of an image on top.
func (l *listing) add(ctx context.Context, img image.Image, first, end int) error {
	for i := first; i < end; i++ {
		if err := l.layer(ctx, img, i); err != nil {
			return fmt.Errorf("read layer %s of image %s: %w", img.Manifest.Layers[i].Digest, img.ID(), err)
		}
	}
	return nil
}

func (l *listing) layer(ctx context.Context, img image.Image, i int) error {
	blob, err := l.store.OpenBlob(img.Manifest.Layers[i])
	if err != nil {
		return err
	}
	defer blob.Close()
	plain, _, err := layer.Decompress(&contextReader{ctx, blob})
	if err != nil {
		return err
	}
	defer plain.Close()
	diffID := digest.SHA256.Digester()
	stream := io.TeeReader(plain, diffID.Hash())
	if err := l.read(ctx, stream, i+1); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return err
	}
	if want := img.Config.RootFS.DiffIDs[i]; diffID.Digest() != want {
		return fmt.Errorf("%w: its diffID is %s, not %s", store.ErrCorrupt, diffID.Digest(), want)
	}
	return nil
}

// read puts the entries of a layer's tar in the listing.
func (l *listing) read(ctx context.Context, r io.Reader, layer int) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil && h.Typeflag != tar.TypeXGlobalHeader {
			err = l.entry(h, &contextReader{ctx, tr}, layer)
		}
		if err != nil {
			return err
		}
	}
}

// Marks of a layer.
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// Limits on an entry: what Linux takes as a path, and the size of a file, which
// need not be in the tar if it is a sparse one.
const (
	maxPath = 4096
	maxFile = 1 << 40
)

// entry puts one entry of a layer's tar in the listing.
func (l *listing) entry(h *tar.Header, data io.Reader, layer int) error {
	if len(h.Name) > maxPath {
		return fmt.Errorf("%w: the path %.40q… has %d bytes", image.ErrInvalid, h.Name, len(h.Name))
	}
	if h.Size > maxFile {
		return fmt.Errorf("%w: %s has %d bytes", image.ErrInvalid, h.Name, h.Size)
	}
	dir, name := path.Split(path.Clean("/" + h.Name))
	if name == "" {
		return nil // the root itself
	}
	parent, err := l.directory(dir, layer)
	if err != nil {
		return err
	}
	if name == opaque {
		if parent.opaque != layer {
			parent.opaque = layer
			parent.hideLower(layer)
		}
		return nil
	}
	if hidden, ok := strings.CutPrefix(name, whiteout); ok {
		if c := parent.children[hidden]; c != nil && !c.hideLower(layer) {
			delete(parent.children, hidden)
		}
		return nil
	}
	n, err := l.file(h, data, layer)
	if err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	if old := parent.children[name]; n.dir && old != nil && old.dir {
		n.children, n.opaque = old.children, old.opaque
	}
	parent.children[name] = n
	return nil
}

// file makes a node of an entry.
func (l *listing) file(h *tar.Header, data io.Reader, layer int) (*node, error) {
	n := &node{
		layer: layer, mode: h.Mode & 0o7777, kind: h.Typeflag, uid: h.Uid, gid: h.Gid, mtime: h.ModTime.Unix(),
		devMajor: h.Devmajor, devMin: h.Devminor,
	}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if n.xattrs == nil {
				n.xattrs = map[string]string{}
			}
			n.xattrs[name] = v
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		n.dir, n.children = true, map[string]*node{}
	case tar.TypeSymlink:
		n.link = h.Linkname
	case tar.TypeLink:
		dir, name := path.Split(path.Clean("/" + h.Linkname))
		parent, err := l.directory(dir, layer)
		if err != nil {
			return nil, err
		}
		target := parent.children[name]
		if target == nil || target.dir {
			return nil, fmt.Errorf("%w: it is a hard link to %s, which is no file", image.ErrInvalid, h.Linkname)
		}
		link := *target
		link.layer = layer
		return &link, nil
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		n.kind = tar.TypeReg // be it stored as a sparse or contiguous one
		sum := sha256.New()
		if _, err := io.Copy(sum, data); err != nil {
			return nil, err
		}
		n.sum = [sha256.Size]byte(sum.Sum(nil))
	}
	return n, nil
}

// maxLinks bounds the symbolic links on the way to a directory.
const maxLinks = 40

// directory finds a directory, making what is missing. As where layers are
// unpacked, symbolic links of the same layer are followed, and those of lower
// ones are hidden.
func (l *listing) directory(name string, layer int) (*node, error) {
	todo := strings.Split(name, "/")
	way := []*node{l.root}
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		at := way[len(way)-1]
		switch part {
		case "", ".":
			continue
		case "..":
			way = way[:max(1, len(way)-1)]
			continue
		}
		next := at.children[part]
		if next != nil && next.kind == tar.TypeSymlink && next.layer == layer {
			if links++; links > maxLinks || len(next.link) > maxPath {
				return nil, fmt.Errorf("%s: %w", name, errLinks)
			}
			if strings.HasPrefix(next.link, "/") {
				way = way[:1]
			}
			todo = append(strings.Split(next.link, "/"), todo...)
			continue
		}
		if next == nil || !next.dir {
			next = &node{dir: true, children: map[string]*node{}, kind: tar.TypeDir, mode: 0o755, layer: layer}
			at.children[part] = next
		}
		way = append(way, next)
	}
	return way[len(way)-1], nil
}

var errLinks = errors.New("too many levels of symbolic links")

// contextReader ends with a context.
type contextReader struct {
	ctx context.Context //nolint:containedctx // of the one call that reads
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
