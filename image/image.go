// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"builder/internal/quickjson"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Config is an image's config document: the OCI fields and docker's
// extensions (HEALTHCHECK, SHELL, ONBUILD), which are always kept.
type Config = dockerspec.DockerOCIImage

// Docker's media types, which are read like their OCI twins.
const (
	MediaTypeDockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerConfig       = "application/vnd.docker.container.image.v1+json"
	MediaTypeDockerLayer        = "application/vnd.docker.image.rootfs.diff.tar"
	MediaTypeDockerLayerGzip    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	MediaTypeDockerForeignLayer = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
)

// Limits on documents that come from elsewhere.
const (
	MaxManifestSize = 4 << 20 // what registries accept
	MaxConfigSize   = 8 << 20
	MaxLayers       = 500 // what overlayfs stacks
)

// ErrInvalid says that a document is not a usable image.
var ErrInvalid = errors.New("invalid image")

// Image is one platform's image: its manifest, its config and their
// descriptors.
type Image struct {
	Root     digest.Digest      // of what the name stands for: the manifest, or an index; "" if that isn't known
	Desc     ocispec.Descriptor // of the manifest
	Manifest ocispec.Manifest
	Config   Config
}

// ID is the digest of the config, what docker shows as the image ID.
func (i Image) ID() digest.Digest { return i.Manifest.Config.Digest }

// ChainIDs are the identities of the image's file systems after each layer
// (image-spec, config.md, "Layer ChainID"); the last is the whole image's.
func (i Image) ChainIDs() []digest.Digest {
	ids := append([]digest.Digest(nil), i.Config.RootFS.DiffIDs...)
	return identity.ChainIDs(ids)
}

// IsIndex reports whether a media type is an index or manifest list.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == MediaTypeDockerManifestList
}

// IsManifest reports whether a media type is an image manifest.
func IsManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == MediaTypeDockerManifest
}

// IsLayer reports whether a media type is a layer that can be unpacked.
func IsLayer(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
		MediaTypeDockerLayer, MediaTypeDockerLayerGzip, MediaTypeDockerLayer + ".zstd":
		return true
	}
	return strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.nondistributable.v1.tar")
}

// ParseIndex decodes an index or manifest list.
func ParseIndex(data []byte) (ocispec.Index, error) {
	var idx ocispec.Index
	if err := quickjson.Unmarshal(data, &idx); err != nil {
		return idx, fmt.Errorf("%w: index: %w", ErrInvalid, err)
	}
	if err := checkKind(data, IsIndex, "config", "layers"); err != nil {
		return idx, fmt.Errorf("%w: index: %w", ErrInvalid, err)
	}
	for i, m := range idx.Manifests {
		if err := checkDescriptor(m); err != nil {
			return idx, fmt.Errorf("%w: index: manifest %d: %w", ErrInvalid, i, err)
		}
	}
	return idx, nil
}

// ParseManifest decodes an image manifest and checks what everything else
// relies on: valid digests and sizes, known layer types, a bounded number of
// layers.
func ParseManifest(data []byte) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := quickjson.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("%w: manifest: %w", ErrInvalid, err)
	}
	if err := checkKind(data, IsManifest, "manifests"); err != nil {
		return m, fmt.Errorf("%w: manifest: %w", ErrInvalid, err)
	}
	if m.SchemaVersion != 2 {
		return m, fmt.Errorf("%w: manifest of schema version %d, want 2", ErrInvalid, m.SchemaVersion)
	}
	if err := checkDescriptor(m.Config); err != nil {
		return m, fmt.Errorf("%w: manifest: config: %w", ErrInvalid, err)
	}
	if len(m.Layers) > MaxLayers {
		return m, fmt.Errorf("%w: %d layers, at most %d are supported", ErrInvalid, len(m.Layers), MaxLayers)
	}
	for i, l := range m.Layers {
		if err := checkDescriptor(l); err != nil {
			return m, fmt.Errorf("%w: manifest: layer %d: %w", ErrInvalid, i, err)
		}
	}
	return m, nil
}

// checkKind refuses a document that could be read as one of another kind, by
// its own media type or by a field that its kind doesn't have: two programs
// would see two images under one digest (CVE-2021-41190).
func checkKind(data []byte, is func(mediaType string) bool, foreign ...string) error {
	// One by one: a map would keep only one of a doubled field's values.
	return quickjson.Fields(data, func(name string, value []byte) error {
		same := func(field string) bool { return strings.EqualFold(field, name) } // as package json does
		switch {
		case slices.ContainsFunc(foreign, same) && string(value) != "null":
			return fmt.Errorf("it has the field %q of another kind of document", strings.ToLower(name))
		case same("mediaType"):
			var mediaType string
			if err := json.Unmarshal(value, &mediaType); err != nil {
				return err
			}
			if mediaType != "" && !is(mediaType) {
				return fmt.Errorf("it says that it is a %q", mediaType)
			}
		}
		return nil
	})
}

func checkDescriptor(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", d.Digest, err)
	}
	if d.Digest.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest algorithm %s is not supported, only sha256", d.Digest.Algorithm())
	}
	if d.Size < 0 {
		return fmt.Errorf("size %d of %s is negative", d.Size, d.Digest)
	}
	return nil
}

// ParseConfig decodes a config and checks it against its manifest: as many
// diffIDs as layers, each a sha256 digest.
func ParseConfig(data []byte, m ocispec.Manifest) (Config, error) {
	var c Config
	if err := quickjson.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("%w: config: %w", ErrInvalid, err)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return c, fmt.Errorf("%w: config names %d layers, the manifest %d", ErrInvalid, len(c.RootFS.DiffIDs), len(m.Layers))
	}
	for i, d := range c.RootFS.DiffIDs {
		if err := checkDescriptor(ocispec.Descriptor{Digest: d}); err != nil {
			return c, fmt.Errorf("%w: config: diffID %d: %w", ErrInvalid, i, err)
		}
	}
	for i, l := range m.Layers {
		if !IsLayer(l.MediaType) {
			return c, fmt.Errorf("%w: layer %d has media type %q, which is no layer: the manifest may be an artifact, not an image", ErrInvalid, i, l.MediaType)
		}
	}
	return c, nil
}
