// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"maps"
	"slices"
	"sync"

	"builder/cache"
	"builder/layer"
	"builder/remotecache"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// CacheTarget is a cache to be written, for other builds.
type CacheTarget struct {
	// Inline keeps it in the image's config instead: [Result.Caches] has
	// nothing of it.
	Inline bool
	// Max has the results of all stages, not only those that the image has
	// layers of.
	Max bool
	// Layer says how layers are written. Those of the base image, and of
	// results that were imported, are kept as they are, unless
	// ForceCompression says that they get its compression.
	Layer            layer.Options
	ForceCompression bool
}

// CacheResult is a cache that was asked for.
type CacheResult struct {
	Graph *remotecache.Writer // nil if there was an error
	Err   error               // why there is none: the image is not worse for it
	// Fetch brings a layer's blob into the store. Layers of results that were
	// imported and not needed are not in it.
	Fetch func(ctx context.Context, blob ocispec.Descriptor) error
}

// exports are what a build finds out that is kept in caches beside results.
type exports struct {
	mu     sync.Mutex
	taken  map[cache.Key]string // digests of parts of files
	stages map[string]bool      // names of the files
}

// note remembers the digest of a part of some files.
func (e *exports) note(files string, key cache.Key, d string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.taken == nil {
		e.taken, e.stages = map[cache.Key]string{}, map[string]bool{}
	}
	e.taken[key], e.stages[files] = d, true
}

// caches puts together the caches that were asked for.
func caches(ctx context.Context, runners []*runner) (results []CacheResult) {
	for _, to := range runners[0].opts.CacheTo {
		if to.Inline {
			continue
		}
		res := CacheResult{Graph: &remotecache.Writer{}, Fetch: runners[0].fetchBlob(runners)}
		for _, r := range runners {
			if res.Err = r.record(ctx, res.Graph, to); res.Err != nil {
				res.Graph = nil
				break
			}
		}
		results = append(results, res)
	}
	return results
}

// fetchBlob returns a function that looks for a blob where results came from.
func (r *runner) fetchBlob(runners []*runner) func(context.Context, ocispec.Descriptor) error {
	return func(ctx context.Context, blob ocispec.Descriptor) error {
		for _, r := range runners {
			for _, st := range r.plan.reachable() {
				for _, res := range r.stages[st].results() {
					if res.imported != nil && slices.ContainsFunc(res.imported.layers.Blobs, func(b ocispec.Descriptor) bool { return b.Digest == blob.Digest }) {
						return r.fetch(ctx, res.imported, []ocispec.Descriptor{blob})
					}
				}
			}
		}
		return r.fetch(ctx, &imported{}, []ocispec.Descriptor{blob})
	}
}

// record writes a build for one platform to a cache.
func (r *runner) record(ctx context.Context, w *remotecache.Writer, to CacheTarget) error {
	return r.recordSteps(ctx, w, to.Max, func(below remotecache.Layers, res *stepResult) (remotecache.Layers, error) {
		return r.layersUpTo(ctx, below, res, to)
	})
}

// recordSteps writes steps to a cache, by their keys and as BuildKit has them:
// those of the image with their results, and with max all of them. layers tells
// what a result's layers are on top of those below.
func (r *runner) recordSteps(ctx context.Context, w *remotecache.Writer, max bool, layers func(below remotecache.Layers, res *stepResult) (remotecache.Layers, error)) error {
	done := map[*stage]remotecache.Layers{}
	foreign := map[*stage][]int{}
	for _, st := range r.plan.reachable() {
		below, records := baseLayers(st), rootRecords(w, st)
		if st.base != nil {
			below, records = done[st.base], foreign[st.base]
		}
		results := r.stages[st].results()
		for i, s := range st.steps {
			var result *remotecache.Layers
			if i < len(results) && (max || r.inImage[st]) {
				up, err := layers(below, results[i])
				if err != nil {
					return err
				}
				below, result = up, &up
				w.Add(recordDigest(results[i].key), nil, result)
			}
			var err error
			if records, err = r.recordForeign(ctx, w, s, records, foreign, result); err != nil {
				return err
			}
		}
		done[st], foreign[st] = below, records
	}
	r.recordTaken(w)
	return nil
}

// recordTaken writes what is known of the files that were taken from stages,
// so that a build can tell that a COPY is the same without having them.
func (r *runner) recordTaken(w *remotecache.Writer) {
	e := r.exports
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(e.taken)) {
		d, err := digest.Parse(e.taken[key])
		if err != nil {
			continue
		}
		content := w.Add(d, nil, nil)
		w.Add(recordDigest(key), [][]remotecache.Input{{{Link: content}}}, nil)
	}
	for _, st := range r.plan.reachable() {
		run := r.stages[st]
		if !e.stages["step "+string(run.key)] {
			continue
		}
		w.Add(recordDigest(endKey(run.key)), nil, nil)
		keys := slices.Clone(run.keys)
		for _, res := range run.results() {
			keys = append(keys, res.key)
		}
		for _, key := range keys {
			w.Add(recordDigest(wayKey(key)), nil, nil)
		}
	}
}

// rootRecords adds the image that a stage stands on as BuildKit has it.
func rootRecords(w *remotecache.Writer, st *stage) (records []int) {
	keys, err := remotecache.ImageKeys(st.img, st.platform)
	if err != nil {
		return nil
	}
	for _, key := range keys {
		records = append(records, w.Add(key, nil, nil))
	}
	return records
}

// baseLayers are those of the image that a stage stands on.
func baseLayers(st *stage) (l remotecache.Layers) {
	l.Blobs, l.DiffIDs = slices.Clone(st.img.Manifest.Layers), slices.Clone(st.img.Config.RootFS.DiffIDs)
	return l
}

// layersUpTo are the layers of a result: those below and its own.
func (r *runner) layersUpTo(ctx context.Context, below remotecache.Layers, res *stepResult, to CacheTarget) (remotecache.Layers, error) {
	form := ImageOptions{Layer: to.Layer, ForceCompression: to.ForceCompression}
	var up remotecache.Layers
	if res.imported != nil {
		up = res.imported.layers
		if to.ForceCompression {
			if err := r.fetch(ctx, res.imported, []ocispec.Descriptor{res.imported.top().Blob}); err != nil {
				return up, err
			}
			up = below
		}
	}
	if res.imported == nil || to.ForceCompression {
		l, err := r.layerOf(ctx, res, form)
		if err != nil {
			return up, err
		}
		up.Blobs = append(slices.Clip(below.Blobs), l.Blob)
		up.DiffIDs = append(slices.Clip(below.DiffIDs), l.DiffID)
	}
	up.Created = res.created
	return up, nil
}

// inline is the cache that goes into the image's config: the results whose
// layers are the image's. There is none of layers that say less than the
// results, or more.
func (r *runner) inline(ctx context.Context, form ImageOptions, layers []layer.Layer, manifest []ocispec.Descriptor) ([]byte, error) {
	wanted := slices.ContainsFunc(r.opts.CacheTo, func(to CacheTarget) bool { return to.Inline })
	if !wanted || form.remade() || r.opts.Edits.Squash {
		return nil, nil
	}
	w := &remotecache.Writer{}
	results, base := r.chain(r.plan.target)
	all := remotecache.Layers{Blobs: manifest}
	for _, l := range layers {
		all.DiffIDs = append(all.DiffIDs, l.DiffID)
	}
	err := r.recordSteps(ctx, w, false, func(_ remotecache.Layers, res *stepResult) (remotecache.Layers, error) {
		n := len(base.img.Manifest.Layers) + slices.Index(results, res) + 1
		return remotecache.Layers{Blobs: all.Blobs[:n], DiffIDs: all.DiffIDs[:n], Created: res.created}, nil
	})
	if err != nil {
		return nil, err
	}
	return w.Inline(manifest)
}
