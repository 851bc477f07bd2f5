// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/image"
	"builder/progress"
	"builder/store"
)

// Small fetches a blob of at most [image.MaxConfigSize] bytes from the
// repository of ref, verified. Nothing is stored.
func (c *Client) Small(ctx context.Context, ref image.Ref, desc ocispec.Descriptor) (data []byte, err error) {
	err = c.eachEndpoint(ctx, ref, func(s *session) (err error) {
		data, err = s.small(ctx, ref, desc)
		return err
	})
	return data, c.opError("look at", ref, err)
}

// Fetch brings a blob from the repository of ref into the store, verified,
// unless it is there. Amounts go to sink, if not nil, as the vertex.
func (c *Client) Fetch(ctx context.Context, s *store.Store, ref image.Ref, desc ocispec.Descriptor, sink progress.Sink, vertex string) error {
	p := &pull{client: c, store: s, ref: ref, report: reporter{sink, vertex}}
	err := c.eachEndpoint(ctx, ref, func(from *session) error { return p.blob(ctx, from, desc) })
	return c.opError("fetch from", ref, err)
}

// Artifact is a manifest, or an index, of blobs that needn't be an image's.
type Artifact struct {
	MediaType string
	Data      []byte
	Blobs     []ocispec.Descriptor // each once; at least one
	// Fetch brings a blob into the store that the registry doesn't have yet.
	Fetch func(context.Context, ocispec.Descriptor) error
	// Mount are repositories of any registry that may have the blobs.
	Mount []image.Ref
}

// PushArtifact sends an artifact to the registry of ref, under ref's tag. Blobs
// go as those of [Client.Push]; what the registry has needn't be in the store.
func (c *Client) PushArtifact(ctx context.Context, s *store.Store, ref image.Ref, a Artifact, sink progress.Sink, vertex string) error {
	desc := ocispec.Descriptor{MediaType: a.MediaType, Digest: digest.FromBytes(a.Data), Size: int64(len(a.Data))}
	p := &push{client: c, store: s, ref: ref, report: reporter{sink, vertex}, blobs: a.Blobs, manifests: []document{{desc, a.Data}}, fetch: a.Fetch}
	if err := p.findSources(); err != nil {
		return c.opError("push", ref, err)
	}
	for _, from := range a.Mount {
		if from.Registry != ref.Registry || from.Repository == ref.Repository {
			continue
		}
		for _, b := range a.Blobs {
			p.sources[b.Digest] = append([]string{from.Repository}, p.sources[b.Digest]...)
		}
	}
	return c.opError("push", ref, p.toOrigin(ctx))
}

// fetchMissing brings a blob into the store that can be had elsewhere.
func (p *push) fetchMissing(ctx context.Context, desc ocispec.Descriptor) error {
	if p.fetch == nil || p.store.Has(desc) {
		return nil
	}
	if err := p.fetch(ctx, desc); err != nil {
		return &finalError{fmt.Errorf("fetch it: %w", err)}
	}
	return nil
}

// Attach sends a manifest, whose blobs are in the store, that refers to what ref
// names at its registry, and returns the manifest's descriptor. Where the
// registry has no referrers API, the tag that stands for it is brought up to
// date (distribution-spec, "Pushing Manifests with Subject"). The same manifest
// again changes nothing.
func (c *Client) Attach(ctx context.Context, s *store.Store, ref image.Ref, m ocispec.Manifest, sink progress.Sink, vertex string) (ocispec.Descriptor, error) {
	fail := func(err error) (ocispec.Descriptor, error) {
		return ocispec.Descriptor{}, c.opError("attach to", ref, err)
	}
	origin, err := c.origin(ctx, ref)
	if err != nil {
		return fail(err)
	}
	subject, _, err := c.open(ctx, ref, origin).head(ctx, ref)
	if err != nil {
		return fail(err)
	}
	m.Subject = &subject
	data, err := json.Marshal(m)
	if err != nil {
		return fail(err)
	}
	to := ref
	to.Tag, to.Digest = "", digest.FromBytes(data)
	desc := ocispec.Descriptor{MediaType: m.MediaType, ArtifactType: m.ArtifactType, Digest: to.Digest, Size: int64(len(data))}
	blobs := []ocispec.Descriptor{m.Config}
	for _, l := range m.Layers {
		if !slices.ContainsFunc(blobs, func(b ocispec.Descriptor) bool { return b.Digest == l.Digest }) {
			blobs = append(blobs, l)
		}
	}
	return desc, c.PushArtifact(ctx, s, to, Artifact{MediaType: m.MediaType, Data: data, Blobs: blobs}, sink, vertex)
}
