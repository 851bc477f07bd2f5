// SPDX-License-Identifier: Apache-2.0

// Package rootfs joins images to file systems: it unpacks an image's layers
// into a chain of committed snapshots, and turns a committed snapshot into a
// layer. It is the only place that knows the store, layers and snapshots.
//
//	chains/CHAINID         the snapshot that an image's layers up to there make
//	layers/SNAPSHOT.PARAMS the layer made of a snapshot, with given parameters
//	converted/BLOB.PARAMS  the layer made of another one, with given parameters
//
// All are caches: losing a file costs the work of making it again.
package rootfs

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"builder/internal/atomicfile"
	"builder/internal/filelock"
	"builder/internal/owner"
	"builder/layer"
	"builder/snapshot"
	"builder/store"

	"github.com/opencontainers/go-digest"
)

// RootFS makes snapshots of images and layers of snapshots.
type RootFS struct {
	store     *store.Store
	snapshots *snapshot.Overlay
}

// Open returns the RootFS of a state directory.
func Open(s *store.Store) (*RootFS, error) {
	snaps, err := snapshot.NewOverlay(s.Path("snapshots"))
	if err != nil {
		return nil, err
	}
	snaps.SetTemp(s.TempDir)
	return &RootFS{s, snaps}, nil
}

// Snapshots is where the snapshots are kept.
func (r *RootFS) Snapshots() *snapshot.Overlay { return r.snapshots }

// Prepare begins an active snapshot in a temporary directory of this process:
// unless it is committed it is gone when the process is.
func (r *RootFS) Prepare(ctx context.Context, parent snapshot.ID) (snapshot.Active, error) {
	dir, err := r.store.TempDir()
	if err != nil {
		return nil, err
	}
	return r.snapshots.Prepare(ctx, parent, dir)
}

// Restack puts an active snapshot on another parent. It must not be mounted.
func (r *RootFS) Restack(a snapshot.Active, parent snapshot.ID) (snapshot.Active, error) {
	if err := a.Settle(); err != nil {
		return nil, err
	}
	return r.snapshots.Reopen(filepath.Dir(a.Upper()), parent)
}

// Discard removes an active snapshot that Prepare made. After a commit it does
// nothing.
func Discard(a snapshot.Active) error { return os.RemoveAll(filepath.Dir(a.Upper())) }

// Tar writes to w what is in the directory of an active snapshot, which must
// not be mounted, as the tar of a layer.
func (r *RootFS) Tar(ctx context.Context, w io.Writer, a snapshot.Active) error {
	if err := a.Settle(); err != nil {
		return err
	}
	upper := layer.Upper{Dir: a.Upper(), UserXattr: r.snapshots.UserXattr(), Elsewhere: r.snapshots.Copies()}
	_, err := layer.Diff(ctx, w, upper, layer.Options{Compression: layer.Uncompressed})
	return err
}

// TarDiff writes to w what a committed snapshot changes, as the tar of a layer.
func (r *RootFS) TarDiff(ctx context.Context, w io.Writer, id snapshot.ID) error {
	upper, lower, err := r.snapshots.Diff(ctx, id)
	if err != nil {
		return err
	}
	_, err = layer.Diff(ctx, w, layer.Upper{Dir: upper, Lower: lower, UserXattr: r.snapshots.UserXattr(), Elsewhere: r.snapshots.Copies()}, layer.Options{Compression: layer.Uncompressed})
	return err
}

// Commit returns the layer that a committed snapshot is on top of its parent,
// its blob in the store. It is made once for each set of options, whatever
// process asks first; later calls read two small files.
func (r *RootFS) Commit(ctx context.Context, id snapshot.ID, opts layer.Options) (layer.Layer, error) {
	if l, ok := r.known(id, opts); ok {
		return l, nil
	}
	lock, err := r.store.Lock(ctx, "layer-"+string(id), filelock.Exclusive, nil)
	if err != nil {
		return layer.Layer{}, err
	}
	defer lock.ReleaseAndRemove()
	if l, ok := r.known(id, opts); ok {
		return l, nil
	}
	l, err := r.diff(ctx, id, opts)
	if err != nil {
		return l, fmt.Errorf("write layer of snapshot %s: %w", id, err)
	}
	return l, nil
}

func (r *RootFS) diff(ctx context.Context, id snapshot.ID, opts layer.Options) (layer.Layer, error) {
	upper, lower, err := r.snapshots.Diff(ctx, id)
	if err != nil {
		return layer.Layer{}, err
	}
	w, err := r.store.NewBlob()
	if err != nil {
		return layer.Layer{}, err
	}
	defer w.Abort()
	l, err := layer.Diff(ctx, w.File(), layer.Upper{Dir: upper, Lower: lower, UserXattr: r.snapshots.UserXattr(), Elsewhere: r.snapshots.Copies()}, opts)
	if err != nil {
		return l, err
	}
	if err := w.CommitFile(l.Blob); err != nil {
		return l, err
	}
	data, err := json.Marshal(l)
	if err != nil {
		return l, err
	}
	return l, atomicfile.WriteMkdir(r.layerFile(id, opts), data, 0o600)
}

func (r *RootFS) layerFile(id snapshot.ID, opts layer.Options) string {
	return r.store.Path("layers", string(id)+"."+opts.Key())
}

func (r *RootFS) known(id snapshot.ID, opts layer.Options) (layer.Layer, bool) {
	return r.knownAt(r.layerFile(id, opts))
}

// Link remembers that a snapshot is what the layers of a chain ID make, so
// that an image that was built here needs no unpacking.
func (r *RootFS) Link(chain digest.Digest, id snapshot.ID) error { return r.link(chain, nil, id) }

func (r *RootFS) link(chain digest.Digest, owners Owners, id snapshot.ID) error {
	name := r.store.Path("chains", chainName(chain, owners))
	if old, err := os.ReadFile(name); err == nil && string(old) == string(id) {
		return nil
	}
	return atomicfile.WriteMkdir(name, []byte(id), 0o600)
}

// Owners are the owners that files have on disk, where they are not those of
// their layers.
type Owners interface {
	layer.Owners
	// Key tells them from others, in letters, digits and dashes.
	Key() string
}

// chainName names what the layers of a chain ID make. Where owners are kept
// beside the files, or are others, it is something else, which only those use
// who know of it.
func chainName(chain digest.Digest, owners Owners) string {
	switch {
	case owners != nil:
		return chain.Encoded() + "-" + owners.Key()
	case owner.Kept():
		return chain.Encoded() + "-owners"
	}
	return chain.Encoded()
}

// linked returns the snapshot of a chain ID, if it is still there.
func (r *RootFS) linked(ctx context.Context, chain digest.Digest, owners Owners) (snapshot.ID, bool) {
	return r.named(ctx, chainName(chain, owners))
}

// named returns the snapshot of a name in chains, if it is still there.
func (r *RootFS) named(ctx context.Context, name string) (snapshot.ID, bool) {
	data, err := os.ReadFile(r.store.Path("chains", name))
	if err != nil || len(data) == 0 {
		return "", false
	}
	_, err = r.snapshots.Stat(ctx, snapshot.ID(data))
	return snapshot.ID(data), err == nil
}

// Has reports whether [RootFS.Commit] would find the layer made.
func (r *RootFS) Has(id snapshot.ID, opts layer.Options) bool {
	_, ok := r.known(id, opts)
	return ok
}

// knownAt reads what a file remembers of a layer whose blob is there.
func (r *RootFS) knownAt(name string) (layer.Layer, bool) {
	var l layer.Layer
	data, err := os.ReadFile(name)
	if err != nil || json.Unmarshal(data, &l) != nil {
		return l, false
	}
	return l, r.store.Has(l.Blob)
}
