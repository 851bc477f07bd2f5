// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"

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
