// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"builder/image"
	"builder/internal/filelock"
	"builder/internal/sys"
	"builder/layer"
	"builder/progress"
	"builder/snapshot"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// unpackers is how many layers are unpacked at the same time: decompressing
// takes a core, writing waits for the disk.
const unpackers = 3

// Unpack returns the snapshot of an image's file system, "" for an image
// without layers. Layers that are not unpacked yet are, side by side; each is
// checked against its digest and its diffID before it counts. What was
// unpacked before a failure stays and is used the next time.
//
// If there is something to unpack, the vertex is begun and ended in sink.
func (r *RootFS) Unpack(ctx context.Context, img image.Image, sink progress.Sink, vertex string) (id snapshot.ID, err error) {
	return r.UnpackAs(ctx, img, nil, sink, vertex)
}

// UnpackAs is Unpack with other owners than the layers', unless they are nil.
func (r *RootFS) UnpackAs(ctx context.Context, img image.Image, owners Owners, sink progress.Sink, vertex string) (id snapshot.ID, err error) {
	chains := img.ChainIDs()
	if len(chains) == 0 {
		return "", nil
	}
	if id, ok := r.linked(ctx, chains[len(chains)-1], owners); ok {
		return id, nil
	}
	if err := r.store.Room(0); err != nil {
		return "", fmt.Errorf("unpack: %w", err)
	}
	lock, err := r.store.Lock(ctx, "unpack-"+chainName(chains[len(chains)-1], owners), filelock.Exclusive, nil)
	if err != nil {
		return "", err
	}
	defer lock.ReleaseAndRemove()

	var base snapshot.ID
	first := 0 // the lowest layer that has to be unpacked
	for i := len(chains) - 1; i >= 0; i-- {
		if id, ok := r.linked(ctx, chains[i], owners); ok {
			base, first = id, i+1
			break
		}
	}
	if err := r.readable(img.Manifest.Layers[first:]); err != nil {
		return "", err
	}
	if sink == nil {
		sink = progress.Discard{}
	}
	if first < len(chains) {
		sink.Event(progress.Event{Vertex: vertex, Start: &progress.Start{Name: vertex}})
		defer func() { sink.Event(progress.Event{Vertex: vertex, Done: &progress.Done{Err: err}}) }()
	}
	u := &unpack{r: r, owners: owners, sink: sink, vertex: vertex, pending: make([]pending, len(chains))}
	for i := first; i < len(chains); i++ {
		u.pending[i] = pending{desc: img.Manifest.Layers[i], diffID: img.Config.RootFS.DiffIDs[i], chain: chains[i], done: make(chan struct{})}
	}
	return u.run(ctx, base, first)
}

// readable looks for layers of a compression that this program can't read at all, and
// reports [layer.ErrNotHere].
func (r *RootFS) readable(layers []ocispec.Descriptor) error {
	if layer.ReadsAll {
		return nil
	}
	for _, desc := range layers {
		blob, err := r.store.OpenBlob(desc)
		if err != nil {
			return nil // which is told when it is unpacked
		}
		plain, _, err := layer.Decompress(blob)
		if err == nil {
			err = plain.Close()
		}
		blob.Close()
		if errors.Is(err, layer.ErrNotHere) {
			return err
		}
	}
	return nil
}

// Packed returns those layers of an image that [RootFS.UnpackAs] would unpack.
func (r *RootFS) Packed(ctx context.Context, img image.Image, owners Owners) []ocispec.Descriptor {
	chains := img.ChainIDs()
	for i := len(chains) - 1; i >= 0; i-- {
		if _, ok := r.linked(ctx, chains[i], owners); ok {
			return img.Manifest.Layers[i+1:]
		}
	}
	return img.Manifest.Layers
}

// unpack is one image's unpacking: layers are applied side by side, each into
// a directory of its own, and put on top of each other in order.
type unpack struct {
	r       *RootFS
	owners  Owners
	sink    progress.Sink
	vertex  string
	pending []pending
}

type pending struct {
	desc    ocispec.Descriptor
	diffID  digest.Digest
	chain   digest.Digest
	dir     string // holds fs/
	applied layer.Applied
	err     error
	done    chan struct{}
}

func (u *unpack) run(ctx context.Context, base snapshot.ID, first int) (id snapshot.ID, err error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(unpackers + 1)
	id = base
	g.Go(func() error {
		for i := first; i < len(u.pending); i++ {
			p := &u.pending[i]
			select {
			case <-p.done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			next, err := u.stack(ctx, p, id)
			if err != nil {
				return fmt.Errorf("unpack layer %s: %w", p.desc.Digest, err)
			}
			id = next
		}
		return nil
	})
	for i := first; i < len(u.pending); i++ {
		p := &u.pending[i]
		g.Go(func() error {
			defer close(p.done)
			p.err = u.apply(ctx, p)
			if p.err != nil && !errors.Is(p.err, layer.ErrMissingLinkTarget) {
				return fmt.Errorf("unpack layer %s: %w", p.desc.Digest, p.err)
			}
			return nil
		})
	}
	return id, g.Wait()
}

// apply unpacks a layer by itself, without knowing what lies below it.
func (u *unpack) apply(ctx context.Context, p *pending) error {
	dir, err := u.r.store.TempDir()
	if err != nil {
		return err
	}
	if _, err := u.r.snapshots.Prepare(ctx, "", dir); err != nil {
		return err
	}
	p.dir = dir
	root, err := os.Open(filepath.Join(dir, "fs"))
	if err != nil {
		return err
	}
	defer root.Close()
	if u.owners != nil {
		uid, _ := u.owners.UID(0)
		gid, _ := u.owners.GID(0)
		if err := root.Chown(int(uid), int(gid)); err != nil {
			return err
		}
	}
	p.applied, err = u.applyTo(ctx, p, root, layer.ApplyOptions{Owners: u.owners, UserXattr: u.r.snapshots.UserXattr(), SkipDevices: sys.InUserNamespace()})
	return err
}

func (u *unpack) applyTo(ctx context.Context, p *pending, root *os.File, opts layer.ApplyOptions) (layer.Applied, error) {
	blob, err := u.r.store.OpenBlob(p.desc)
	if err != nil {
		return layer.Applied{}, err
	}
	defer blob.Close()
	counted := &countingReader{r: blob, report: func(n int64) {
		u.status(p, n, false)
	}}
	tar, _, err := layer.Decompress(counted)
	if err != nil {
		return layer.Applied{}, err
	}
	defer tar.Close()
	applied, err := layer.Apply(ctx, root, tar, opts)
	if err != nil {
		return applied, err
	}
	u.tellSkipped(applied.Skipped)
	if err := counted.drain(); err != nil {
		return applied, err
	}
	if applied.DiffID != p.diffID {
		return applied, fmt.Errorf("its content has diffID %s, the image's config says %s", applied.DiffID, p.diffID)
	}
	u.status(p, p.desc.Size, true)
	return applied, nil
}

// tellSkipped warns of what a user namespace can't have.
func (u *unpack) tellSkipped(devices []string) {
	if len(devices) == 0 {
		return
	}
	msg := fmt.Sprintf("device nodes can't be made without root and are not there for steps and containers: %s", strings.Join(devices, " "))
	u.sink.Event(progress.Event{Vertex: u.vertex, Log: &progress.Log{Stream: progress.Warning, Data: []byte(msg + "\n")}})
}

func (u *unpack) status(p *pending, n int64, done bool) {
	u.sink.Event(progress.Event{Vertex: u.vertex, Status: &progress.Status{
		ID: p.desc.Digest.Encoded()[:12], Action: "unpacking",
		Current: n, Total: p.desc.Size, Bytes: true, Done: done,
	}})
}

// stack puts an applied layer on top of parent.
func (u *unpack) stack(ctx context.Context, p *pending, parent snapshot.ID) (snapshot.ID, error) {
	alone := p.err == nil
	if alone && p.applied.OpaqueRoot {
		parent = "" // nothing below it is seen
	}
	if alone {
		var err error
		if alone, err = u.inherit(ctx, p, parent); err != nil {
			return "", err
		}
	}
	if !alone {
		if err := u.applyOnParent(ctx, p, parent); err != nil {
			return "", err
		}
	}
	active, err := u.r.snapshots.Reopen(p.dir, parent)
	if err != nil {
		return "", err
	}
	id, err := active.Commit(ctx, snapshot.ID(chainName(p.chain, u.owners)))
	if err != nil && !errors.Is(err, snapshot.ErrExists) {
		return "", err
	}
	if errors.Is(err, snapshot.ErrExists) {
		id = snapshot.ID(chainName(p.chain, u.owners))
	}
	return id, u.r.link(p.chain, u.owners, id)
}

// inherit gives directories that the layer has no entries for the attributes
// that they have below. It reports false where such a path is something else
// than a directory below (a symbolic link, as /lib often is): then the layer
// means what is behind it and must be applied on top of its parent.
func (u *unpack) inherit(ctx context.Context, p *pending, parent snapshot.ID) (bool, error) {
	if parent == "" || len(p.applied.Implied) == 0 {
		return true, nil
	}
	below, err := u.r.snapshots.View(ctx, parent)
	if err != nil {
		return false, err
	}
	defer below.Close()
	for _, name := range p.applied.Implied {
		from := filepath.Join(sys.FDPath(below), name)
		fi, err := os.Lstat(from)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		if !fi.IsDir() {
			return false, nil
		}
		if err := sys.CopyDirAttributes(from, filepath.Join(p.dir, "fs", name)); err != nil {
			return false, err
		}
	}
	return true, nil
}

// applyOnParent applies a layer to the mounted file system below it.
func (u *unpack) applyOnParent(ctx context.Context, p *pending, parent snapshot.ID) error {
	if err := os.RemoveAll(p.dir); err != nil {
		return err
	}
	dir, err := u.r.store.TempDir()
	if err != nil {
		return err
	}
	p.dir = dir
	active, err := u.r.snapshots.Prepare(ctx, parent, dir)
	if err != nil {
		return err
	}
	root, err := active.Mount()
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err = u.applyTo(ctx, p, root, layer.ApplyOptions{Owners: u.owners, Plain: true, SkipDevices: sys.InUserNamespace()}); err != nil {
		return err
	}
	return active.Settle()
}
