// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"builder/image"
	"builder/layer"
	"builder/snapshot"

	"github.com/opencontainers/go-digest"
)

// Collect removes what nothing needs any more: snapshots that are neither in
// keep, nor of an image in the name table, nor below one that is; layers made
// of them; and blobs that neither an image nor a kept snapshot's layer refers
// to. It returns how many bytes of blobs that freed. The store must be held
// with [store.Store.Exclusive]; the snapshots' trees are left to
// [snapshot.Overlay.Sweep], which needs no lock and the time.
//
// What names a thing goes before the thing, and a snapshot before those that it
// stands on: wherever it is killed, nothing that is left refers to what is gone.
func (r *RootFS) Collect(ctx context.Context, keep []snapshot.ID) (freed int64, err error) {
	live, err := r.live(ctx, keep)
	if err != nil {
		return 0, fmt.Errorf("collect snapshots: %w", err)
	}
	blobs, err := r.collectRecords(live)
	if err != nil {
		return 0, fmt.Errorf("collect layers: %w", err)
	}
	if err := r.collectSnapshots(ctx, live); err != nil {
		return 0, fmt.Errorf("collect snapshots: %w", err)
	}
	if freed, err = r.store.Collect(blobs); err != nil {
		return freed, err
	}
	return freed, r.collectConverted()
}

func (r *RootFS) collectSnapshots(ctx context.Context, live map[snapshot.ID]bool) error {
	_, gone, err := r.snapshots.Remains()
	if err != nil {
		return err
	}
	var unused []snapshot.Info
	err = r.snapshots.Walk(ctx, func(info snapshot.Info) error {
		if !live[info.ID] {
			unused = append(unused, info)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(unused, func(a, b snapshot.Info) int { return len(b.Parents) - len(a.Parents) })
	for _, info := range unused {
		gone = append(gone, info.ID)
	}
	for _, id := range gone {
		if err := r.snapshots.Detach(id); err != nil {
			return err
		}
	}
	return nil
}

// collectConverted forgets the conversions whose blobs are gone: they keep no
// blob alive.
func (r *RootFS) collectConverted() error {
	names, err := readDir(r.store.Path("converted"))
	if err != nil {
		return fmt.Errorf("collect converted layers: %w", err)
	}
	for _, name := range names {
		path := r.store.Path("converted", name)
		if _, ok := r.knownAt(path); ok {
			continue
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("collect converted layers: %w", err)
		}
	}
	return nil
}

// live returns the snapshots that must stay.
func (r *RootFS) live(ctx context.Context, keep []snapshot.ID) (map[snapshot.ID]bool, error) {
	live := map[snapshot.ID]bool{}
	mark := func(id snapshot.ID) error {
		info, err := r.snapshots.Stat(ctx, id)
		if errors.Is(err, snapshot.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		live[id] = true
		for _, p := range info.Parents {
			live[p] = true
		}
		return nil
	}
	for _, id := range keep {
		if err := mark(id); err != nil {
			return nil, err
		}
	}
	entries, err := r.store.Entries()
	if err != nil {
		return nil, err
	}
	names, err := r.Chains()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		img, err := r.store.Image(e.Desc, image.HostPlatform())
		if err != nil {
			continue // another platform's, or not an image: not unpacked here
		}
		for _, id := range r.unpacked(ctx, names, img) {
			if err := mark(id); err != nil {
				return nil, err
			}
		}
	}
	return live, nil
}

// unpacked returns the snapshots that the layers of an image make, as far as
// they are there. names are those of chains.
func (r *RootFS) unpacked(ctx context.Context, names Chains, img image.Image) []snapshot.ID {
	var out []snapshot.ID
	for _, chain := range img.ChainIDs() {
		for _, name := range names[chain.Encoded()] {
			if id, ok := r.named(ctx, name); ok {
				out = append(out, id)
			}
		}
	}
	return out
}

// Chains are the names in chains by chain ID: see chainName.
type Chains map[string][]string

// Chains lists what has been unpacked.
func (r *RootFS) Chains() (Chains, error) {
	names, err := readDir(r.store.Path("chains"))
	out := Chains{}
	for _, name := range names {
		chain, _, _ := strings.Cut(name, "-")
		out[chain] = append(out[chain], name)
	}
	return out, err
}

// ImageSnapshots returns the snapshots of an image: those that its layers make
// and all below them, of those that [RootFS.Chains] lists.
func (r *RootFS) ImageSnapshots(ctx context.Context, names Chains, img image.Image) (map[snapshot.ID]bool, error) {
	out := map[snapshot.ID]bool{}
	for _, id := range r.unpacked(ctx, names, img) {
		info, err := r.snapshots.Stat(ctx, id)
		if err != nil {
			return nil, err
		}
		out[id] = true
		for _, p := range info.Parents {
			out[p] = true
		}
	}
	return out, nil
}

// LayerFile is a file that describes the layer made of a snapshot.
type LayerFile struct {
	Path string
	Blob digest.Digest // "" if the file is damaged
}

// LayerFiles returns those of all snapshots.
func (r *RootFS) LayerFiles() (map[snapshot.ID][]LayerFile, error) {
	names, err := readDir(r.store.Path("layers"))
	if err != nil {
		return nil, fmt.Errorf("list layers: %w", err)
	}
	out := map[snapshot.ID][]LayerFile{}
	for _, name := range names {
		id, _, _ := strings.Cut(name, ".")
		f := LayerFile{Path: r.store.Path("layers", name)}
		var l layer.Layer
		if data, err := os.ReadFile(f.Path); err == nil && json.Unmarshal(data, &l) == nil {
			f.Blob = l.Blob.Digest
		}
		out[snapshot.ID(id)] = append(out[snapshot.ID(id)], f)
	}
	return out, nil
}

// collectRecords removes the files that describe snapshots that are gone and
// returns the blobs that the others name.
func (r *RootFS) collectRecords(live map[snapshot.ID]bool) (map[digest.Digest]bool, error) {
	blobs := map[digest.Digest]bool{}
	layers, err := readDir(r.store.Path("layers"))
	if err != nil {
		return nil, err
	}
	for _, name := range layers {
		id, _, _ := strings.Cut(name, ".")
		path := r.store.Path("layers", name)
		if !live[snapshot.ID(id)] {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
			continue
		}
		var l layer.Layer
		data, err := os.ReadFile(path)
		if err == nil && json.Unmarshal(data, &l) == nil {
			blobs[l.Blob.Digest] = true
		}
	}
	chains, err := readDir(r.store.Path("chains"))
	if err != nil {
		return nil, err
	}
	for _, name := range chains {
		path := r.store.Path("chains", name)
		if id, err := os.ReadFile(path); err == nil && !live[snapshot.ID(id)] {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		}
	}
	return blobs, nil
}

func readDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}
