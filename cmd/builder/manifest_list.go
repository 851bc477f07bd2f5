// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"builder/image"
	"builder/progress"
	"builder/registry"
	"builder/store"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// images finds what an image adds to a list, fetching it if it isn't here.
func (m manifestCommand) images(ctx context.Context, s *store.Store, word string, all bool) ([]ocispec.Descriptor, error) {
	root := ocispec.Descriptor{}
	entry, err := s.Resolve(word)
	switch {
	case err == nil:
		root = entry.Desc
	case errors.Is(err, store.ErrNotFound):
		if root, err = m.fetch(ctx, s, word, all); err != nil {
			return nil, err
		}
	default:
		return nil, err
	}
	if !all || !image.IsIndex(root.MediaType) {
		_, img, err := s.Present(root)
		return []ocispec.Descriptor{described(img)}, err
	}
	idx, err := readIndex(s, root)
	if err != nil {
		return nil, err
	}
	var out []ocispec.Descriptor
	for _, d := range platforms(idx) {
		if image.IsIndex(d.MediaType) {
			return nil, fmt.Errorf("image %s: %w: index %s holds another index", word, image.ErrInvalid, root.Digest)
		}
		_, img, err := s.Present(d)
		if err != nil {
			return nil, fmt.Errorf("image %s: not every platform of it is in the image store: %w", word, err)
		}
		if d.Platform == nil {
			d = described(img)
		}
		out = append(out, d)
	}
	return out, nil
}

// fetch gets an image from its registry, this machine's platform of it or all.
func (m manifestCommand) fetch(ctx context.Context, s *store.Store, word string, all bool) (ocispec.Descriptor, error) {
	ref, err := image.ParseRef(word)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	client, err := m.client(ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	vertex := "pull " + ref.Familiar()
	done, sink, err := m.e.vertex("auto", vertex)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	root, err := fetchPlatforms(ctx, s, client, ref, all, sink, vertex)
	return root, done(progress.Done{Err: err, Result: root.Digest})
}

func fetchPlatforms(ctx context.Context, s *store.Store, client *registry.Client, ref image.Ref, all bool, sink progress.Sink, vertex string) (ocispec.Descriptor, error) {
	if !all {
		return client.PullIndex(ctx, s, ref, image.Platform{}, sink, vertex)
	}
	root, data, err := client.Document(ctx, ref)
	if err != nil || !image.IsIndex(root.MediaType) {
		if err == nil {
			root, err = client.PullIndex(ctx, s, ref, image.Platform{}, sink, vertex)
		}
		return root, err
	}
	idx, err := image.ParseIndex(data)
	if err != nil {
		return root, err
	}
	for _, d := range platforms(idx) {
		ref.Digest = d.Digest
		if _, err := client.PullIndex(ctx, s, ref, image.Platform{}, sink, vertex); err != nil {
			return root, err
		}
	}
	return s.PutBlob(root.MediaType, data)
}

// platforms are the images of an index: attestations are none.
func platforms(idx ocispec.Index) []ocispec.Descriptor {
	return slices.DeleteFunc(slices.Clone(idx.Manifests), func(d ocispec.Descriptor) bool {
		return d.Platform != nil && d.Platform.OS == "unknown"
	})
}

// described is the descriptor of an image with its platform.
func described(img image.Image) ocispec.Descriptor {
	platform := img.Config.Platform
	return ocispec.Descriptor{MediaType: img.Desc.MediaType, Digest: img.Desc.Digest, Size: img.Desc.Size, Platform: &platform}
}

// manifestList is an index in the store that is being changed.
type manifestList struct {
	store *store.Store
	name  string
	desc  ocispec.Descriptor // of what is there; the zero value: nothing is
	index ocispec.Index
}

// openList reads the index of a name. The error wraps [store.ErrNotFound] if
// there is no image of the name.
func openList(s *store.Store, word string) (manifestList, error) {
	entry, err := s.Resolve(word)
	if err != nil {
		return manifestList{}, err
	}
	if !image.IsIndex(entry.Desc.MediaType) {
		return manifestList{}, fmt.Errorf("%s is an image, not a manifest list", word)
	}
	if entry.Name == "" || !byName(word, entry) {
		return manifestList{}, fmt.Errorf("manifest list %s: it must be given by its name", word)
	}
	idx, err := readIndex(s, entry.Desc)
	return manifestList{store: s, name: entry.Name, desc: entry.Desc, index: idx}, err
}

func readIndex(s *store.Store, desc ocispec.Descriptor) (ocispec.Index, error) {
	data, err := s.ReadBlob(desc, image.MaxManifestSize)
	if err != nil {
		return ocispec.Index{}, err
	}
	return image.ParseIndex(data)
}

// newIndex is an index without images.
func newIndex() ocispec.Index {
	return ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
}

// put adds an entry, or replaces that of the same manifest.
func (l *manifestList) put(d ocispec.Descriptor) {
	i := slices.IndexFunc(l.index.Manifests, func(have ocispec.Descriptor) bool { return have.Digest == d.Digest })
	if i < 0 {
		l.index.Manifests = append(l.index.Manifests, d)
		return
	}
	l.index.Manifests[i] = d
}

// entry finds the entry of an image: by its digest, or by what the store knows
// it as.
func (l *manifestList) entry(word string) (*ocispec.Descriptor, error) {
	want, err := digest.Parse(word)
	if err != nil || !slices.ContainsFunc(l.index.Manifests, func(d ocispec.Descriptor) bool { return d.Digest == want }) {
		entry, err := l.store.Resolve(word)
		if err != nil {
			return nil, err
		}
		_, img, err := l.store.Present(entry.Desc)
		if err != nil {
			return nil, err
		}
		want = img.Desc.Digest
	}
	for i := range l.index.Manifests {
		if l.index.Manifests[i].Digest == want {
			return &l.index.Manifests[i], nil
		}
	}
	return nil, fmt.Errorf("manifest list %s has no image %s", familiarName(l.name), word)
}

// mediaType is docker's for a list of docker's manifests, as docker makes it,
// unless the list says something that docker's form has no place for.
func (l *manifestList) mediaType() string {
	other := func(d ocispec.Descriptor) bool {
		return d.MediaType != image.MediaTypeDockerManifest || len(d.Annotations) > 0
	}
	if len(l.index.Manifests) == 0 || len(l.index.Annotations) > 0 || l.index.Subject != nil || slices.ContainsFunc(l.index.Manifests, other) {
		return ocispec.MediaTypeImageIndex
	}
	return image.MediaTypeDockerManifestList
}

// write stores the list as it is now, in the place of what it was.
func (l *manifestList) write() error {
	l.index.MediaType = l.mediaType()
	data, err := json.Marshal(l.index)
	if err != nil {
		return err
	}
	if len(data) > image.MaxManifestSize {
		return fmt.Errorf("manifest list %s would have %d bytes, at most %d are allowed", familiarName(l.name), len(data), image.MaxManifestSize)
	}
	desc, err := l.store.PutBlob(l.index.MediaType, data)
	if err != nil {
		return err
	}
	old := l.desc
	if err := l.store.Tag(desc, l.name); err != nil {
		return err
	}
	l.desc = desc
	if old.Digest == "" || old.Digest == desc.Digest {
		return nil
	}
	// What it was has no use without its name.
	entries, err := l.store.Entries()
	if err == nil && slices.ContainsFunc(entries, func(e store.Entry) bool { return e.Name == "" && e.Desc.Digest == old.Digest }) {
		_, err = l.store.Untag(nil, old.Digest)
	}
	return err
}

// pairs parses the values of --annotation.
func pairs(words []string) (map[string]string, error) {
	out := map[string]string{}
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if !ok || key == "" {
			return nil, &usageError{msg: fmt.Sprintf("manifest: --annotation %q: want KEY=VALUE", w)}
		}
		out[key] = value
	}
	return out, nil
}

// merged is a map with what another sets; nil if that leaves nothing.
func merged(into, set map[string]string) map[string]string {
	for k, v := range set {
		if into == nil {
			into = map[string]string{}
		}
		into[k] = v
	}
	return into
}
