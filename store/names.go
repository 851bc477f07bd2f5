// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"builder/image"
	"builder/internal/atomicfile"
	"builder/internal/filelock"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Entry is a row of the name table: an image manifest or index, and the
// reference it is known by, "" for an image without a name.
type Entry struct {
	Name string // a whole reference, as [image.Ref.String]
	Desc ocispec.Descriptor
}

// Entries returns the name table in the order of its names.
func (s *Store) Entries() ([]Entry, error) {
	data, err := os.ReadFile(s.Path("index.json"))
	if err != nil {
		return nil, fmt.Errorf("read name table: %w", err)
	}
	idx, err := image.ParseIndex(data)
	if err != nil {
		return nil, fmt.Errorf("read name table %s: %w", s.Path("index.json"), err)
	}
	entries := make([]Entry, 0, len(idx.Manifests))
	for _, m := range idx.Manifests {
		e := Entry{Name: m.Annotations[ocispec.AnnotationRefName], Desc: m}
		e.Desc.Annotations = nil
		entries = append(entries, e)
	}
	return entries, nil
}

func (s *Store) writeIndex(entries []Entry) error {
	slices.SortFunc(entries, func(a, b Entry) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Desc.Digest.String(), b.Desc.Digest.String())
	})
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	for _, e := range entries {
		d := e.Desc
		if e.Name != "" {
			d.Annotations = map[string]string{ocispec.AnnotationRefName: e.Name}
		}
		idx.Manifests = append(idx.Manifests, d)
	}
	data, err := json.MarshalIndent(idx, "", " ")
	if err != nil {
		return err
	}
	return atomicfile.WriteSync(s.Path("index.json"), data, 0o644)
}

// update replaces the name table by what f makes of it, under its lock. If f
// reports no change, nothing is written.
func (s *Store) update(f func([]Entry) ([]Entry, bool, error)) error {
	lock, err := s.Lock(context.Background(), "names", filelock.Exclusive, nil)
	if err != nil {
		return err
	}
	defer lock.Release()
	entries, err := s.Entries()
	if err != nil {
		return err
	}
	entries, changed, err := f(entries)
	if err != nil || !changed {
		return err
	}
	return s.writeIndex(entries)
}

// Tag names an image: every name now means desc. An image that loses its last
// name stays, nameless. Without names the image is kept nameless itself.
// Everything that the image refers to is on disk before the names are. Tagging
// again what has the name already writes nothing.
func (s *Store) Tag(desc ocispec.Descriptor, names ...string) error {
	desc.Annotations = nil
	missing := func(entries []Entry) []string {
		var out []string
		for _, n := range names {
			if !slices.ContainsFunc(entries, func(e Entry) bool { return e.Name == n && e.Desc.Digest == desc.Digest }) {
				out = append(out, n)
			}
		}
		if len(names) == 0 && !slices.ContainsFunc(entries, func(e Entry) bool { return e.Desc.Digest == desc.Digest }) {
			out = []string{""}
		}
		return out
	}
	entries, err := s.Entries()
	if err != nil {
		return err
	}
	if len(missing(entries)) == 0 {
		return nil
	}
	blobs, err := s.References(desc)
	if err != nil {
		return err
	}
	if err := s.sync(blobs); err != nil {
		return err
	}
	return s.update(func(entries []Entry) ([]Entry, bool, error) {
		for _, name := range missing(entries) {
			entries = retag(entries, name, desc)
		}
		return entries, true, nil
	})
}

func retag(entries []Entry, name string, desc ocispec.Descriptor) []Entry {
	for i := range entries {
		if name != "" && entries[i].Name == name {
			old := entries[i].Desc
			entries = slices.Delete(entries, i, i+1)
			if !slices.ContainsFunc(entries, func(e Entry) bool { return e.Desc.Digest == old.Digest }) {
				entries = append(entries, Entry{Desc: old})
			}
			break
		}
	}
	// A name takes the place of namelessness.
	entries = slices.DeleteFunc(entries, func(e Entry) bool { return e.Name == "" && e.Desc.Digest == desc.Digest })
	return append(entries, Entry{Name: name, Desc: desc})
}

// Untag removes rows of the name table: those with the names, and, for digests
// given, every row of the image. It returns the rows removed; the error wraps
// [ErrNotFound] if a name or digest has no row.
func (s *Store) Untag(names []string, digests ...digest.Digest) (removed []Entry, err error) {
	err = s.update(func(entries []Entry) ([]Entry, bool, error) {
		for _, n := range names {
			if !slices.ContainsFunc(entries, func(e Entry) bool { return e.Name == n }) {
				return nil, false, fmt.Errorf("image %s: %w", n, ErrNotFound)
			}
		}
		for _, d := range digests {
			if !slices.ContainsFunc(entries, func(e Entry) bool { return e.Desc.Digest == d }) {
				return nil, false, fmt.Errorf("image %s: %w", d, ErrNotFound)
			}
		}
		kept := entries[:0:0]
		for _, e := range entries {
			if (e.Name != "" && slices.Contains(names, e.Name)) || slices.Contains(digests, e.Desc.Digest) {
				removed = append(removed, e)
			} else {
				kept = append(kept, e)
			}
		}
		return kept, len(removed) > 0, nil
	})
	return removed, err
}

// Remove removes the rows with the names, and those rows of the manifests that
// have no name. A manifest that gets another name meanwhile keeps it. It returns
// the rows removed; the error wraps [ErrNotFound] if a name has no row.
func (s *Store) Remove(names []string, manifests ...digest.Digest) (removed []Entry, err error) {
	err = s.update(func(entries []Entry) ([]Entry, bool, error) {
		for _, n := range names {
			if !slices.ContainsFunc(entries, func(e Entry) bool { return e.Name == n }) {
				return nil, false, fmt.Errorf("image %s: %w", n, ErrNotFound)
			}
		}
		kept := entries[:0:0]
		for _, e := range entries {
			if e.Name != "" && slices.Contains(names, e.Name) || e.Name == "" && slices.Contains(manifests, e.Desc.Digest) {
				removed = append(removed, e)
			} else {
				kept = append(kept, e)
			}
		}
		return kept, len(removed) > 0, nil
	})
	return removed, err
}

// Unname takes names away from their images: all of them, or none if the error
// wraps [ErrNotFound] because one has no row. An image that loses its last name
// stays, nameless.
func (s *Store) Unname(names ...string) error {
	return s.update(func(entries []Entry) ([]Entry, bool, error) {
		for _, n := range names {
			i := slices.IndexFunc(entries, func(e Entry) bool { return n != "" && e.Name == n })
			if i < 0 {
				return nil, false, fmt.Errorf("image %s: %w", n, ErrNotFound)
			}
			old := entries[i].Desc
			entries = slices.Delete(entries, i, i+1)
			if !slices.ContainsFunc(entries, func(e Entry) bool { return e.Desc.Digest == old.Digest }) {
				entries = append(entries, Entry{Desc: old})
			}
		}
		return entries, len(names) > 0, nil
	})
}

// Resolve finds the row that a user means by s: a reference, a digest of a
// manifest, or an image ID or the beginning of one. The error wraps
// [ErrNotFound], or tells that several images begin so.
func (s *Store) Resolve(name string) (Entry, error) {
	entries, err := s.Entries()
	if err != nil {
		return Entry{}, err
	}
	ref, refErr := image.ParseRef(name)
	if refErr == nil {
		if e, ok := matchRef(entries, ref); ok {
			return e, nil
		}
	}
	if e, err := s.matchID(entries, name); err == nil || !errors.Is(err, ErrNotFound) {
		return e, err
	}
	if refErr != nil {
		return Entry{}, refErr
	}
	return Entry{}, fmt.Errorf("image %s: %w", ref.Familiar(), ErrNotFound)
}

func matchRef(entries []Entry, ref image.Ref) (Entry, bool) {
	for _, e := range entries {
		if e.Name == ref.String() {
			return e, true
		}
	}
	if ref.Digest == "" {
		return Entry{}, false
	}
	for _, e := range entries {
		if e.Desc.Digest != ref.Digest {
			continue
		}
		if named, err := image.ParseRef(e.Name); err == nil && named.Name() == ref.Name() {
			return e, true
		}
	}
	return Entry{}, false
}

func (s *Store) matchID(entries []Entry, name string) (Entry, error) {
	notFound := fmt.Errorf("image %s: %w", name, ErrNotFound)
	hex := strings.TrimPrefix(name, "sha256:")
	if len(hex) < 4 || len(hex) > 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return Entry{}, notFound
	}
	var found Entry
	var foundID digest.Digest
	for _, e := range entries {
		var id digest.Digest
		img, err := s.Image(e.Desc, image.HostPlatform())
		if err == nil {
			id = img.ID()
		}
		byID := err == nil && strings.HasPrefix(id.Encoded(), hex)
		if !byID && !strings.HasPrefix(e.Desc.Digest.Encoded(), hex) {
			continue
		}
		switch {
		case found.Desc.Digest == "", byID && id == foundID && found.Name == "":
			// One config may be under several manifests, which came with
			// differently compressed layers: it is one image still, and
			// the one that has a name is meant.
			found, foundID = e, id
		case found.Desc.Digest != e.Desc.Digest && (!byID || id != foundID):
			return Entry{}, fmt.Errorf("image ID %s is ambiguous: give more of its digits", strings.TrimPrefix(name, "sha256:"))
		}
	}
	if found.Desc.Digest == "" {
		return Entry{}, notFound
	}
	return found, nil
}

// Image reads the image that desc names: the manifest itself or, for an index,
// the manifest that fits the platform.
func (s *Store) Image(desc ocispec.Descriptor, want image.Platform) (image.Image, error) {
	img := image.Image{Root: desc.Digest, Desc: desc}
	data, err := s.ReadBlob(desc, image.MaxManifestSize)
	if err != nil {
		return img, fmt.Errorf("read manifest: %w", err)
	}
	if image.IsIndex(desc.MediaType) {
		idx, err := image.ParseIndex(data)
		if err != nil {
			return img, err
		}
		i := image.Match(idx.Manifests, want)
		if i < 0 {
			return img, fmt.Errorf("image %s has no manifest for %s", desc.Digest, image.FormatPlatform(want))
		}
		if image.IsIndex(idx.Manifests[i].MediaType) {
			return img, fmt.Errorf("%w: index %s holds another index", image.ErrInvalid, desc.Digest)
		}
		img, err = s.Image(idx.Manifests[i], want)
		img.Root = desc.Digest
		return img, err
	}
	if img.Manifest, err = image.ParseManifest(data); err != nil {
		return img, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	config, err := s.ReadBlob(img.Manifest.Config, image.MaxConfigSize)
	if err != nil {
		return img, fmt.Errorf("read config of %s: %w", desc.Digest, err)
	}
	img.Config, err = image.ParseConfig(config, img.Manifest)
	if err != nil {
		return img, fmt.Errorf("image %s: %w", desc.Digest, err)
	}
	return img, nil
}

// References returns the descriptors of every blob that an image needs, its
// own manifest first. Platforms of an index that were not pulled are left out.
func (s *Store) References(desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	data, err := s.ReadBlob(desc, image.MaxManifestSize)
	if err != nil {
		return nil, err
	}
	out := []ocispec.Descriptor{desc}
	if image.IsIndex(desc.MediaType) {
		idx, err := image.ParseIndex(data)
		if err != nil {
			return nil, err
		}
		for _, m := range idx.Manifests {
			refs, err := s.References(m)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if err != nil {
				return nil, err
			}
			out = append(out, refs...)
		}
		return out, nil
	}
	m, err := image.ParseManifest(data)
	if err != nil {
		return nil, err
	}
	out = append(out, m.Config)
	return append(out, m.Layers...), nil
}

// Collect removes every blob that neither the name table nor keep refers to
// and returns how many bytes that freed. The store must be held with
// [Store.Exclusive].
func (s *Store) Collect(keep map[digest.Digest]bool) (freed int64, err error) {
	entries, err := s.Entries()
	if err != nil {
		return 0, err
	}
	live := map[digest.Digest]bool{}
	for _, e := range entries {
		refs, err := s.References(e.Desc)
		if err != nil {
			return 0, fmt.Errorf("collect blobs: image %s: %w", e.Name, err)
		}
		for _, r := range refs {
			live[r.Digest] = true
		}
	}
	dir, err := os.ReadDir(s.Path("blobs", "sha256"))
	if err != nil {
		return 0, err
	}
	for _, f := range dir {
		d := digest.NewDigestFromEncoded(digest.SHA256, f.Name())
		if live[d] || keep[d] {
			continue
		}
		fi, err := f.Info()
		if err != nil {
			continue
		}
		if err := os.Remove(s.blobPath(d)); err != nil {
			return freed, fmt.Errorf("collect blobs: %w", err)
		}
		freed += fi.Size()
	}
	return freed, nil
}
