// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"builder/cache"
	"builder/layer"
	"builder/progress"
	"builder/remotecache"
	"builder/snapshot"
	"builder/store"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// CacheSource is a cache that another build has written.
type CacheSource interface {
	Name() string // as shown
	// Load fetches what is in it. Of an index of images there is one cache
	// for each that has one inline.
	Load(ctx context.Context) ([]*remotecache.Cache, error)
	// Fetch brings a layer's blob into the store, unless it is there. Amounts
	// go to sink as the vertex.
	Fetch(ctx context.Context, blob ocispec.Descriptor, sink progress.Sink, vertex string) error
}

// fetchers is how many layers a step's result is fetched by at a time.
const fetchers = 4

// ImportError says that a result that a cache had promised could not be had.
type ImportError struct {
	Source CacheSource
	Err    error
}

func (e *ImportError) Error() string {
	return fmt.Sprintf("import cache from %s: %v", e.Source.Name(), e.Err)
}
func (e *ImportError) Unwrap() error { return e.Err }

// imports are the caches that a build may take results from. They are loaded
// when the first result isn't in the state directory.
type imports struct {
	env     Env
	sources []*importSource
}

type importSource struct {
	CacheSource
	load func(context.Context) []*remotecache.Cache
}

func newImports(env Env, sources []CacheSource) *imports {
	im := &imports{env: env}
	for _, s := range sources {
		var once sync.Once
		var caches []*remotecache.Cache
		im.sources = append(im.sources, &importSource{s, func(ctx context.Context) []*remotecache.Cache {
			once.Do(func() { caches = im.loadOne(ctx, s) })
			return caches
		}})
	}
	return im
}

// loadOne loads a cache. One that can't be had is a warning: a cache only ever
// saves time.
func (im *imports) loadOne(ctx context.Context, s CacheSource) []*remotecache.Cache {
	vertex := "import " + s.Name()
	im.event(vertex, progress.Event{Start: &progress.Start{Name: "importing cache from " + s.Name()}})
	caches, err := s.Load(ctx)
	if err != nil {
		im.event(vertex, progress.Event{Log: &progress.Log{Stream: progress.Warning, Data: fmt.Appendf(nil, "nothing is imported from it: %v\n", err)}})
	}
	im.event(vertex, progress.Event{Done: &progress.Done{}})
	return caches
}

func (im *imports) event(vertex string, e progress.Event) {
	if im.env.Sink == nil {
		return
	}
	e.Vertex, e.Time = vertex, im.env.Now()
	im.env.Sink.Event(e)
}

// each calls f for the caches in their order until it returns true.
func (im *imports) each(ctx context.Context, f func(*importSource, *remotecache.Cache) bool) {
	for _, s := range im.sources {
		for _, c := range s.load(ctx) {
			if f(s, c) {
				return
			}
		}
	}
}

// recordDigest is the digest of the record that stands for a key.
func recordDigest(key cache.Key) digest.Digest {
	return digest.NewDigestFromEncoded(digest.SHA256, string(key))
}

// find returns the result that a cache has for a key.
func (im *imports) find(ctx context.Context, key cache.Key) (found *imported) {
	im.each(ctx, func(s *importSource, c *remotecache.Cache) bool {
		layers, ok := c.Find(recordDigest(key))
		if ok {
			found = &imported{layers: layers, source: s}
		}
		return ok
	})
	return found
}

// has reports whether a cache has a record for a key, with a result or not.
func (im *imports) has(ctx context.Context, key cache.Key) (ok bool) {
	im.each(ctx, func(_ *importSource, c *remotecache.Cache) bool {
		ok = c.Has(recordDigest(key))
		return ok
	})
	return ok
}

// value returns the digest that a cache remembers under a key, "" for none.
func (im *imports) value(ctx context.Context, key cache.Key) (value string) {
	im.each(ctx, func(_ *importSource, c *remotecache.Cache) bool {
		d, ok := c.Linked(recordDigest(key))
		if ok {
			value = d.String()
		}
		return ok
	})
	return value
}

// imported is a step's result of which the layers are known. Its snapshot is
// made when its files are needed, its blobs are fetched when the image has
// them.
type imported struct {
	layers remotecache.Layers
	source *importSource // nil: every blob is in the store
}

// top is the layer that the step itself left.
func (i *imported) top() layer.Layer {
	n := len(i.layers.Blobs) - 1
	return layer.Layer{DiffID: i.layers.DiffIDs[n], Blob: i.layers.Blobs[n]}
}

// fetch brings blobs into the store.
func (r *runner) fetch(ctx context.Context, i *imported, blobs []ocispec.Descriptor) error {
	var missing []ocispec.Descriptor
	for _, b := range blobs {
		if !r.env.Store.Has(b) {
			missing = append(missing, b)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if i.source == nil {
		return fmt.Errorf("layer %s: %w", missing[0].Digest, store.ErrNotFound)
	}
	vertex := "fetch from " + i.source.Name()
	r.imports.event(vertex, progress.Event{Start: &progress.Start{Name: "fetching layers from " + i.source.Name()}})
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for _, b := range missing {
		g.Go(func() error {
			atomic.AddInt64(&r.stats.LayersFetched, 1)
			if err := i.source.Fetch(gctx, b, r.env.Sink, vertex); err != nil {
				return fmt.Errorf("layer %s: %w", b.Digest, err)
			}
			return nil
		})
	}
	err := g.Wait()
	r.imports.event(vertex, progress.Event{Done: &progress.Done{Err: err}})
	if err != nil && ctx.Err() == nil {
		err = &ImportError{i.source.CacheSource, err}
	}
	return err
}

// snapshotOf makes the snapshot of a result, if there is none.
func (r *runner) snapshotOf(ctx context.Context, res *stepResult) (snapshot.ID, error) {
	res.mu.Lock()
	defer res.mu.Unlock()
	if res.snap != "" {
		return res.snap, nil
	}
	img := res.imported.layers.Image()
	if err := r.fetch(ctx, res.imported, r.env.RootFS.Packed(ctx, img, nil)); err != nil {
		return "", err
	}
	id, err := r.env.RootFS.Unpack(ctx, img, r.env.Sink, "unpack cached layers")
	if err != nil {
		if source := res.imported.source; source != nil && ctx.Err() == nil {
			err = &ImportError{source.CacheSource, err}
		}
		return "", err
	}
	res.snap = id
	return id, r.keepImported(res)
}

// keepImported makes a record of an imported result whose blobs are in the
// store or whose snapshot is made, for the next build.
func (r *runner) keepImported(res *stepResult) error {
	if res.imported.source == nil {
		return nil
	}
	rec := &cache.Record{Key: res.key, Snapshot: string(res.snap), Instruction: res.code, Created: res.created, Fields: res.fields}
	for i, blob := range res.imported.layers.Blobs {
		rec.Layers = append(rec.Layers, cache.Layer{Blob: blob, DiffID: res.imported.layers.DiffIDs[i]})
	}
	return r.env.Cache.Put(rec)
}

// importResult looks for a step's result in the caches of other builds, by its
// key and as BuildKit has it. One that stands on another base image than the
// stage's is none.
func (r *runner) importResult(ctx context.Context, s *step, key cache.Key) (*stepResult, error) {
	found := r.imports.find(ctx, key)
	if found == nil {
		var err error
		if found, err = r.importForeign(ctx, s); err != nil {
			return nil, err
		}
	}
	if found == nil || !r.fits(s, found.layers.DiffIDs) {
		return nil, nil
	}
	return &stepResult{key: key, created: found.layers.Created, imported: found}, nil
}

// fits reports whether layers can be those of a step: the base image's and one
// for each step up to it.
func (r *runner) fits(s *step, diffIDs []digest.Digest) bool {
	n := slices.Index(s.stage.steps, s) + 1
	base := s.stage
	for base.base != nil {
		base = base.base
		n += len(base.steps)
	}
	below := base.img.Config.RootFS.DiffIDs
	return len(diffIDs) == len(below)+n && slices.Equal(below, diffIDs[:len(below)])
}

// buildWithout builds, and builds again without a cache that didn't keep its
// promises.
func buildWithout(ctx context.Context, env Env, opts Options, build func(Options) (*Result, error)) (*Result, error) {
	for {
		res, err := build(opts)
		var failed *ImportError
		if !errors.As(err, &failed) || ctx.Err() != nil {
			return res, err
		}
		if env.Sink != nil {
			env.Sink.Event(progress.Event{Time: env.Now(), Vertex: "import " + failed.Source.Name(), Log: &progress.Log{
				Stream: progress.Warning, Data: fmt.Appendf(nil, "building without it: %v\n", failed.Err),
			}})
		}
		opts.CacheFrom = slices.DeleteFunc(slices.Clone(opts.CacheFrom), func(s CacheSource) bool { return s == failed.Source })
	}
}
