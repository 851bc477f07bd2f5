// SPDX-License-Identifier: Apache-2.0

// Package remotecache reads and writes build caches outside of a state
// directory, in BuildKit's format.
//
// A cache is a manifest whose config is a [Config] and whose layers are the
// layers of the results, or an index that names all of these. A [Config] is a
// graph: each record has a digest, which stands for what a step does, links to
// the records of what it was done to, and, if it has a result, the layer that
// is on top of it. Inline, a cache is the records alone, in an image's config,
// and the layers are the image's.
//
// The package knows bytes only: nothing is fetched and nothing stored.
package remotecache

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/image"
)

// MediaTypeConfig is the media type of a [Config].
const MediaTypeConfig = "application/vnd.buildkit.cacheconfig.v0"

// Annotations of a layer's descriptor.
const (
	annotationDiffID  = "containerd.io/uncompressed"
	annotationCreated = "buildkit/createdat"
)

// Limits on a cache that comes from elsewhere.
const (
	MaxConfigSize = image.MaxConfigSize
	maxRecords    = 200_000
	maxLayers     = 50_000
)

// ErrInvalid says that a document is not a usable cache.
var ErrInvalid = errors.New("invalid build cache")

// Config is the graph of a cache.
type Config struct {
	Layers  []Layer  `json:"layers,omitempty"`
	Records []Record `json:"records,omitempty"`
}

// Layer is a layer on another one.
type Layer struct {
	Blob   digest.Digest `json:"blob,omitempty"`
	Parent int           `json:"parent,omitempty"` // index of the layer below, -1 for none
}

// Record is a step, or what a step is done to.
type Record struct {
	Results []Result      `json:"layers,omitempty"`
	Chains  []Chain       `json:"chains,omitempty"`
	Digest  digest.Digest `json:"digest,omitempty"`
	// Inputs are, for each thing that the step is done to, its records: any
	// of them will do.
	Inputs [][]Input `json:"inputs,omitempty"`
}

// Result is the layer that a step left, and all below it.
type Result struct {
	Layer   int       `json:"layer"`
	Created time.Time `json:"createdAt"`
}

// Chain is a result whose layers are named one by one, from the bottom.
type Chain struct {
	Layers  []int     `json:"layers"`
	Created time.Time `json:"createdAt"`
}

// Input is a link to another record.
type Input struct {
	Selector string `json:"selector,omitempty"` // which part of its result
	Link     int    `json:"link"`               // index of the record
}

// Parts are what the manifest of a cache names.
type Parts struct {
	Config ocispec.Descriptor // of a [Config]; zero in an image, which may have a cache inline
	Layers []ocispec.Descriptor
	Images []ocispec.Descriptor // manifests of an index that is no cache
}

// ParseManifest reads the manifest or index of a cache, or of an image that may
// have one inline. The error wraps [ErrInvalid].
func ParseManifest(data []byte) (Parts, error) {
	var doc struct {
		MediaType string               `json:"mediaType"`
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
	}
	var parts Parts
	if err := json.Unmarshal(data, &doc); err != nil {
		return parts, fmt.Errorf("%w: manifest: %w", ErrInvalid, err)
	}
	if doc.Manifests != nil && (doc.Config != nil || doc.Layers != nil) {
		return parts, fmt.Errorf("%w: the manifest could be an index too", ErrInvalid)
	}
	all := append(doc.Manifests, doc.Layers...)
	if doc.Config != nil {
		all = append(all, *doc.Config)
	}
	if len(all) > maxLayers {
		return parts, fmt.Errorf("%w: %d layers, at most %d are supported", ErrInvalid, len(all), maxLayers)
	}
	for _, d := range all {
		if d.Digest.Validate() != nil || d.Digest.Algorithm() != digest.SHA256 || d.Size < 0 {
			return parts, fmt.Errorf("%w: manifest: digest %q, size %d", ErrInvalid, d.Digest, d.Size)
		}
	}
	for _, d := range doc.Manifests {
		switch {
		case d.MediaType == MediaTypeConfig:
			parts.Config = d
		case image.IsManifest(d.MediaType) || image.IsIndex(d.MediaType):
			parts.Images = append(parts.Images, d)
		default:
			parts.Layers = append(parts.Layers, d)
		}
	}
	if doc.Config != nil {
		if parts.Layers = doc.Layers; doc.Config.MediaType == MediaTypeConfig {
			parts.Config = *doc.Config
		}
	}
	if parts.Config.Size > MaxConfigSize {
		return parts, fmt.Errorf("%w: config of %d bytes, at most %d are supported", ErrInvalid, parts.Config.Size, MaxConfigSize)
	}
	return parts, nil
}

// ParseConfig reads a [Config] and checks that its indexes are right and lead
// in no circle. The error wraps [ErrInvalid].
func ParseConfig(data []byte) (Config, error) {
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("%w: config: %w", ErrInvalid, err)
	}
	return c, c.check()
}

func (c *Config) check() error {
	if len(c.Layers) > maxLayers || len(c.Records) > maxRecords {
		return fmt.Errorf("%w: %d layers and %d records, at most %d and %d are supported", ErrInvalid, len(c.Layers), len(c.Records), maxLayers, maxRecords)
	}
	depth := make([]int, len(c.Layers))
	for i := range c.Layers {
		if err := c.checkLayer(i, depth); err != nil {
			return err
		}
	}
	for i, r := range c.Records {
		for _, res := range r.Results {
			if res.Layer < 0 || res.Layer >= len(c.Layers) {
				return fmt.Errorf("%w: record %d has layer %d of %d", ErrInvalid, i, res.Layer, len(c.Layers))
			}
		}
		for _, chain := range r.Chains {
			if len(chain.Layers) > image.MaxLayers {
				return fmt.Errorf("%w: record %d has a result of %d layers, at most %d are supported", ErrInvalid, i, len(chain.Layers), image.MaxLayers)
			}
			for _, l := range chain.Layers {
				if l < 0 || l >= len(c.Layers) {
					return fmt.Errorf("%w: record %d has layer %d of %d", ErrInvalid, i, l, len(c.Layers))
				}
			}
		}
		for _, inputs := range r.Inputs {
			for _, in := range inputs {
				if in.Link < 0 || in.Link >= len(c.Records) {
					return fmt.Errorf("%w: record %d links to record %d of %d", ErrInvalid, i, in.Link, len(c.Records))
				}
			}
		}
	}
	return nil
}

// checkLayer checks the way down from a layer. depth has how many layers there
// are down to the bottom, 0 for what isn't known, and -1 on the way.
func (c *Config) checkLayer(i int, depth []int) error {
	var way []int
	below := 0
	for at := i; at != -1; at = c.Layers[at].Parent {
		switch {
		case at < -1 || at >= len(c.Layers):
			return fmt.Errorf("%w: a layer lies on layer %d of %d", ErrInvalid, at, len(c.Layers))
		case depth[at] < 0:
			return fmt.Errorf("%w: layer %d lies on itself", ErrInvalid, at)
		}
		if depth[at] > 0 {
			below = depth[at]
			break
		}
		depth[at] = -1
		way = append(way, at)
	}
	for n := len(way) - 1; n >= 0; n-- {
		below++
		depth[way[n]] = below
	}
	if below > image.MaxLayers {
		return fmt.Errorf("%w: a result of %d layers, at most %d are supported", ErrInvalid, below, image.MaxLayers)
	}
	return nil
}
