// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"builder/build"
	"builder/image"
	"builder/progress"
	"builder/registry"
	"builder/remotecache"
	"builder/store"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxInlineImages is how many images of an index are looked through for inline
// caches.
const maxInlineImages = 32

// cacheSources are the caches that a build may take results from.
func (b *buildSession) cacheSources(req *buildRequest) []build.CacheSource {
	var out []build.CacheSource
	for _, from := range req.flags.origins {
		if from.dir != "" {
			out = append(out, &dirCache{store: b.env.Store, origin: from})
			continue
		}
		out = append(out, &registryCache{store: b.env.Store, ref: from.ref, open: func() (*registry.Client, error) {
			return b.e.registry(allowInsecure(from.insecure, from.ref))
		}})
	}
	return out
}

func allowInsecure(insecure bool, ref image.Ref) func(*registry.Options) {
	return func(opts *registry.Options) {
		if insecure {
			opts.Insecure = append(opts.Insecure, ref.Registry)
		}
	}
}

// registryCache is a cache in a registry, or an image with one inline.
type registryCache struct {
	store  *store.Store
	ref    image.Ref
	open   func() (*registry.Client, error)
	client *registry.Client
}

func (c *registryCache) Name() string { return c.ref.Familiar() }

// Load implements build.CacheSource.
func (c *registryCache) Load(ctx context.Context) (caches []*remotecache.Cache, err error) {
	if c.client, err = c.open(); err != nil {
		return nil, err
	}
	_, data, err := c.client.Document(ctx, c.ref)
	if err != nil {
		return nil, err
	}
	return loadCaches(data, func(d ocispec.Descriptor) ([]byte, error) {
		if image.IsManifest(d.MediaType) {
			ref := c.ref
			ref.Digest = d.Digest
			_, data, err := c.client.Document(ctx, ref)
			return data, err
		}
		return c.client.Small(ctx, c.ref, d)
	})
}

// Fetch implements build.CacheSource.
func (c *registryCache) Fetch(ctx context.Context, blob ocispec.Descriptor, sink progress.Sink, vertex string) error {
	return c.client.Fetch(ctx, c.store, c.ref, blob, sink, vertex)
}

// loadCaches makes caches of a manifest: the one that it is about, or those
// that images have inline. get fetches what it names.
func loadCaches(manifest []byte, get func(ocispec.Descriptor) ([]byte, error)) ([]*remotecache.Cache, error) {
	parts, err := remotecache.ParseManifest(manifest)
	if err != nil {
		return nil, err
	}
	if parts.Config.Digest != "" {
		config, err := get(parts.Config)
		if err != nil {
			return nil, err
		}
		c, err := remotecache.New(config, parts.Layers)
		return []*remotecache.Cache{c}, err
	}
	manifests := [][]byte{manifest}
	if len(parts.Images) > 0 {
		manifests = nil
	}
	for i, d := range parts.Images {
		if !image.IsManifest(d.MediaType) || i == maxInlineImages {
			continue
		}
		data, err := get(d)
		if err != nil {
			return nil, err
		}
		manifests = append(manifests, data)
	}
	var out []*remotecache.Cache
	for _, data := range manifests {
		c, err := inlineCache(data, get)
		if err != nil {
			return nil, err
		}
		if c != nil {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("it is neither a cache nor an image with one inline")
	}
	return out, nil
}

func inlineCache(manifest []byte, get func(ocispec.Descriptor) ([]byte, error)) (*remotecache.Cache, error) {
	m, err := image.ParseManifest(manifest)
	if err != nil {
		return nil, err
	}
	if m.Config.MediaType != ocispec.MediaTypeImageConfig && m.Config.MediaType != image.MediaTypeDockerConfig {
		return nil, nil // an attestation, or another artifact
	}
	config, err := get(m.Config)
	if err != nil {
		return nil, err
	}
	return remotecache.NewInline(config, m.Layers)
}

// dirCache is a cache in a directory.
type dirCache struct {
	store  *store.Store
	origin cacheOrigin
}

func (c *dirCache) Name() string { return string(c.origin.dir) }

// Load implements build.CacheSource.
func (c *dirCache) Load(context.Context) ([]*remotecache.Cache, error) {
	of := c.origin.digest
	if of == "" {
		desc, err := c.origin.dir.Find(c.origin.tag)
		if err != nil {
			return nil, err
		}
		of = desc.Digest
	}
	manifest, err := c.origin.dir.Read(of)
	if err != nil {
		return nil, err
	}
	return loadCaches(manifest, func(d ocispec.Descriptor) ([]byte, error) { return c.origin.dir.Read(d.Digest) })
}

// Fetch implements build.CacheSource.
func (c *dirCache) Fetch(_ context.Context, blob ocispec.Descriptor, _ progress.Sink, _ string) error {
	if c.store.Has(blob) {
		return nil
	}
	r, err := c.origin.dir.Open(blob.Digest)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := c.store.NewBlob()
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := io.Copy(w, io.LimitReader(r, blob.Size+1)); err != nil {
		return err
	}
	_, err = w.Commit(blob)
	return err
}

// writeCaches writes the caches that were asked for. One that can't be written
// is a warning, unless its failure was to fail the build.
func (b *buildSession) writeCaches(ctx context.Context, req *buildRequest, res *build.Result) error {
	for i, to := range req.caches {
		id := fmt.Sprintf("export cache %d to %s", i, to)
		done := b.vertex(id, "exporting cache to "+to.String())
		err := b.writeCache(ctx, req, to, res.Caches[i], id)
		if err != nil && ctx.Err() == nil && !to.strict {
			warn(b.env.Sink, id, fmt.Sprintf("the cache is not written: %v", err))
			err = nil
		}
		done(err)
		if err != nil {
			return fmt.Errorf("export cache to %s: %w", to, err)
		}
	}
	return nil
}

// warn adds a warning to a vertex.
func warn(sink progress.Sink, vertex, text string) {
	sink.Event(progress.Event{Vertex: vertex, Log: &progress.Log{Stream: progress.Warning, Data: []byte(text + "\n")}})
}

func (b *buildSession) writeCache(ctx context.Context, req *buildRequest, to *cacheTarget, res build.CacheResult, vertex string) error {
	if res.Err != nil {
		return res.Err
	}
	blobs := res.Graph.Blobs()
	if len(blobs) == 0 {
		warn(b.env.Sink, vertex, "there is nothing to write: no step has left a layer")
		return nil
	}
	data, err := res.Graph.Config()
	if err != nil {
		return err
	}
	config, err := b.env.Store.PutBlob(remotecache.MediaTypeConfig, data)
	if err != nil {
		return err
	}
	mediaType, manifest, err := remotecache.Manifest(config, blobs, to.form)
	if err != nil {
		return err
	}
	all := append(blobs, config)
	if to.dir != "" {
		return b.writeCacheDir(ctx, to, all, res.Fetch, mediaType, manifest)
	}
	client, err := b.e.registry(allowInsecure(to.insecure, to.ref))
	if err != nil {
		return err
	}
	var mount []image.Ref
	for _, from := range req.flags.origins {
		mount = append(mount, from.ref)
	}
	return client.PushArtifact(ctx, b.env.Store, to.ref, registry.Artifact{
		MediaType: mediaType, Data: manifest, Blobs: all, Fetch: res.Fetch, Mount: mount,
	}, b.env.Sink, vertex)
}

// writeCacheDir writes a cache to a directory: what is there already is not
// written again, and the name comes last.
func (b *buildSession) writeCacheDir(ctx context.Context, to *cacheTarget, blobs []ocispec.Descriptor, fetch func(context.Context, ocispec.Descriptor) error, mediaType string, manifest []byte) error {
	for _, blob := range blobs {
		if to.dir.Has(blob) {
			continue
		}
		if err := fetch(ctx, blob); err != nil {
			return err
		}
		r, err := b.env.Store.OpenBlob(blob)
		if err != nil {
			return err
		}
		err = to.dir.Put(blob, r)
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(manifest), Size: int64(len(manifest))}
	if err := to.dir.Put(desc, bytes.NewReader(manifest)); err != nil {
		return err
	}
	return to.dir.Tag(desc, to.tag, to.reset)
}
