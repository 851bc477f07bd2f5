// SPDX-License-Identifier: Apache-2.0

package remotecache

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/image"
)

// Layers is a file system as layers, from the bottom.
type Layers struct {
	Blobs   []ocispec.Descriptor
	DiffIDs []digest.Digest
	Created time.Time // when the step was done that left it
}

// Image is the layers as an image, of which nothing else is known.
func (l Layers) Image() image.Image {
	var img image.Image
	img.Manifest.Layers = l.Blobs
	img.Config.RootFS.DiffIDs = l.DiffIDs
	return img
}

// Cache is a cache that can be asked. It doesn't change, so it may be used by
// many goroutines at once.
type Cache struct {
	config Config
	blobs  map[digest.Digest]ocispec.Descriptor // of layers
	roots  map[digest.Digest][]int              // records without inputs
	named  map[digest.Digest][]int              // all others
	links  map[link][]int                       // records by what they are done to
}

// link is what a record is done to, and by which step.
type link struct {
	from     int // the record linked to
	input    int // which of the step's inputs it is
	selector string
	digest   digest.Digest // of the step
}

// New makes a cache of its config and the layers that the manifest names. A
// layer whose diffID the manifest doesn't tell is none. The error wraps
// [ErrInvalid].
func New(config []byte, layers []ocispec.Descriptor) (*Cache, error) {
	parsed, err := ParseConfig(config)
	if err != nil {
		return nil, err
	}
	return index(parsed, layers), nil
}

// NewInline makes a cache of the one in an image's config; nil if there is
// none. The error wraps [ErrInvalid].
func NewInline(config []byte, layers []ocispec.Descriptor) (*Cache, error) {
	var img struct {
		RootFS  ocispec.RootFS    `json:"rootfs"`
		History []ocispec.History `json:"history"`
		Cache   []byte            `json:"moby.buildkit.cache.v0"`
	}
	if err := json.Unmarshal(config, &img); err != nil {
		return nil, fmt.Errorf("%w: image config: %w", ErrInvalid, err)
	}
	if len(img.Cache) == 0 {
		return nil, nil
	}
	if len(img.RootFS.DiffIDs) != len(layers) {
		return nil, fmt.Errorf("%w: the image's config names %d layers, its manifest %d", ErrInvalid, len(img.RootFS.DiffIDs), len(layers))
	}
	var made []ocispec.History
	for _, h := range img.History {
		if !h.EmptyLayer {
			made = append(made, h)
		}
	}
	var parsed Config
	if err := json.Unmarshal(img.Cache, &parsed.Records); err != nil {
		return nil, fmt.Errorf("%w: inline cache: %w", ErrInvalid, err)
	}
	layers = slices.Clone(layers)
	for i := range layers {
		annotations := map[string]string{annotationDiffID: img.RootFS.DiffIDs[i].String()}
		if len(made) == len(layers) && made[i].Created != nil {
			annotations[annotationCreated] = made[i].Created.Format(time.RFC3339Nano)
		}
		layers[i].Annotations = annotations
		parsed.Layers = append(parsed.Layers, Layer{Blob: layers[i].Digest, Parent: i - 1})
	}
	if err := parsed.check(); err != nil {
		return nil, err
	}
	return index(parsed, layers), nil
}

func index(config Config, layers []ocispec.Descriptor) *Cache {
	c := &Cache{config: config, blobs: map[digest.Digest]ocispec.Descriptor{}, roots: map[digest.Digest][]int{}, named: map[digest.Digest][]int{}, links: map[link][]int{}}
	for _, l := range layers {
		c.blobs[l.Digest] = l
	}
	for i, r := range config.Records {
		if len(r.Inputs) == 0 {
			c.roots[r.Digest] = append(c.roots[r.Digest], i)
		} else {
			c.named[r.Digest] = append(c.named[r.Digest], i)
		}
		for n, inputs := range r.Inputs {
			for _, in := range inputs {
				l := link{in.Link, n, in.Selector, r.Digest}
				c.links[l] = append(c.links[l], i)
			}
		}
	}
	return c
}

// Has reports whether the cache has a record of the digest that is done to
// nothing.
func (c *Cache) Has(d digest.Digest) bool { return len(c.roots[d]) > 0 }

// Find returns the result of the record of the digest that is done to nothing.
func (c *Cache) Find(d digest.Digest) (Layers, bool) { return c.best(c.roots[d]) }

// Linked returns the digest of the only record that a record of digest d is
// done to.
func (c *Cache) Linked(d digest.Digest) (digest.Digest, bool) {
	for _, i := range c.named[d] {
		if inputs := c.config.Records[i].Inputs; len(inputs) == 1 && len(inputs[0]) == 1 {
			return c.config.Records[inputs[0][0].Link].Digest, true
		}
	}
	return "", false
}

// Records are records of a cache by their index: those that can stand for one
// thing.
type Records []int

// Root returns the records of the digest that are done to nothing.
func (c *Cache) Root(d digest.Digest) Records { return c.roots[d] }

// From are records that a step may be done to, and which part of their result
// it sees.
type From struct {
	Records  Records
	Selector string
}

// Step returns the records of the digest that are done to inputs: each of them
// is any of some records.
func (c *Cache) Step(d digest.Digest, inputs [][]From) Records {
	var found Records
	for n, froms := range inputs {
		var these Records
		for _, from := range froms {
			for _, rec := range from.Records {
				for _, i := range c.links[link{rec, n, from.Selector, d}] {
					if !slices.Contains(these, i) && (n == 0 || slices.Contains(found, i)) {
						these = append(these, i)
					}
				}
			}
		}
		found = these
	}
	return found
}

// Result returns the result of one of some records.
func (c *Cache) Result(records Records) (Layers, bool) { return c.best(records) }

// best returns the last made result of some records.
func (c *Cache) best(records Records) (best Layers, ok bool) {
	for _, i := range records {
		for _, found := range c.results(c.config.Records[i]) {
			if !ok || found.Created.After(best.Created) {
				best, ok = found, true
			}
		}
	}
	return best, ok
}

// results returns those results of a record whose layers are all known.
func (c *Cache) results(r Record) (out []Layers) {
	for _, res := range r.Results {
		var way []int
		for at := res.Layer; at != -1; at = c.config.Layers[at].Parent {
			way = append(way, at)
		}
		slices.Reverse(way)
		if l, ok := c.layers(way, res.Created); ok {
			out = append(out, l)
		}
	}
	for _, chain := range r.Chains {
		if l, ok := c.layers(chain.Layers, chain.Created); ok {
			out = append(out, l)
		}
	}
	return out
}

func (c *Cache) layers(indexes []int, created time.Time) (Layers, bool) {
	out := Layers{Created: created}
	for _, i := range indexes {
		desc, ok := c.blobs[c.config.Layers[i].Blob]
		diffID := digest.Digest(desc.Annotations[annotationDiffID])
		if !ok || diffID.Validate() != nil || diffID.Algorithm() != digest.SHA256 || !image.IsLayer(desc.MediaType) {
			return out, false
		}
		if at, err := time.Parse(time.RFC3339Nano, desc.Annotations[annotationCreated]); err == nil && created.IsZero() {
			out.Created = at // of the last layer, in the end
		}
		out.Blobs = append(out.Blobs, ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size})
		out.DiffIDs = append(out.DiffIDs, diffID)
	}
	return out, len(out.Blobs) > 0
}
