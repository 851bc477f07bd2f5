// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"slices"

	"builder/image"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Present returns what of an image is here as a whole, and one platform of it:
// desc itself, or, of an index of which not every manifest was pulled, one that
// was, this machine's if possible. The error wraps [ErrNotFound] if nothing is
// whole.
func (s *Store) Present(desc ocispec.Descriptor) (ocispec.Descriptor, image.Image, error) {
	if !image.IsIndex(desc.MediaType) {
		img, err := s.Image(desc, image.Platform{})
		if err == nil && !s.whole(desc) {
			err = fmt.Errorf("layers of image %s: %w", desc.Digest, ErrNotFound)
		}
		return desc, img, err
	}
	data, err := s.ReadBlob(desc, image.MaxManifestSize)
	if err != nil {
		return desc, image.Image{}, err
	}
	idx, err := image.ParseIndex(data)
	if err != nil {
		return desc, image.Image{}, err
	}
	order := slices.Clone(idx.Manifests)
	if i := image.Match(order, image.HostPlatform()); i > 0 {
		order[0], order[i] = order[i], order[0]
	}
	i := slices.IndexFunc(order, func(m ocispec.Descriptor) bool {
		_, err := s.Image(m, image.HostPlatform())
		return err == nil && s.whole(m)
	})
	if i < 0 {
		return desc, image.Image{}, fmt.Errorf("no platform of index %s: %w", desc.Digest, ErrNotFound)
	}
	img, err := s.Image(order[i], image.HostPlatform())
	img.Desc = order[i]
	if err != nil || slices.ContainsFunc(idx.Manifests, func(m ocispec.Descriptor) bool { return !s.whole(m) }) {
		return order[i], img, err
	}
	return desc, img, nil
}

// whole reports whether everything that a manifest refers to is here.
func (s *Store) whole(desc ocispec.Descriptor) bool {
	refs, err := s.References(desc)
	return err == nil && !slices.ContainsFunc(refs, func(b ocispec.Descriptor) bool { return !s.Has(b) })
}
