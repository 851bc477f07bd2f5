// SPDX-License-Identifier: Apache-2.0

package remotecache

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/internal/atomicfile"
)

// ErrNotFound says that a directory has no such cache.
var ErrNotFound = errors.New("no such cache")

// Dir is a directory with caches: an OCI image layout whose index.json names
// the manifest of each by a tag.
type Dir string

// Find returns the descriptor of the cache with a tag. The error wraps
// [ErrNotFound] if there is none, or no directory.
func (d Dir) Find(tag string) (ocispec.Descriptor, error) {
	index, err := d.index()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, m := range index.Manifests {
		if m.Annotations[ocispec.AnnotationRefName] == tag {
			return m, nil
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("tag %q in %s: %w", tag, d, ErrNotFound)
}

func (d Dir) index() (ocispec.Index, error) {
	var index ocispec.Index
	data, err := readFile(filepath.Join(string(d), ocispec.ImageIndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return index, fmt.Errorf("%s: %w", d, ErrNotFound)
	}
	if err != nil {
		return index, err
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return index, fmt.Errorf("%w: %s: %w", ErrInvalid, filepath.Join(string(d), ocispec.ImageIndexFile), err)
	}
	return index, nil
}

// readFile reads a regular file of a size that a document may have.
func readFile(name string) ([]byte, error) {
	f, err := openFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxConfigSize+1))
	if err == nil && len(data) > MaxConfigSize {
		err = fmt.Errorf("%w: %s has more than %d bytes", ErrInvalid, name, MaxConfigSize)
	}
	return data, err
}

func openFile(name string) (*os.File, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is no file", ErrInvalid, name)
	}
	return os.Open(name)
}

func (d Dir) blob(of digest.Digest) (string, error) {
	if err := of.Validate(); err != nil {
		return "", fmt.Errorf("%w: digest %q: %w", ErrInvalid, of, err)
	}
	return filepath.Join(string(d), ocispec.ImageBlobsDir, of.Algorithm().String(), of.Encoded()), nil
}

// Read returns the bytes of a document, verified.
func (d Dir) Read(of digest.Digest) ([]byte, error) {
	name, err := d.blob(of)
	if err != nil {
		return nil, err
	}
	data, err := readFile(name)
	if err == nil && of.Algorithm().FromBytes(data) != of {
		err = fmt.Errorf("%w: %s has other bytes than its name says", ErrInvalid, name)
	}
	return data, err
}

// Open opens a blob. Its bytes are not verified.
func (d Dir) Open(of digest.Digest) (io.ReadCloser, error) {
	name, err := d.blob(of)
	if err != nil {
		return nil, err
	}
	return openFile(name)
}

// Has reports whether a blob of its size is there.
func (d Dir) Has(desc ocispec.Descriptor) bool {
	name, err := d.blob(desc.Digest)
	if err != nil {
		return false
	}
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular() && info.Size() == desc.Size
}

// Put writes a blob of which the bytes have been verified. Others see it whole
// or not at all.
func (d Dir) Put(desc ocispec.Descriptor, r io.Reader) (err error) {
	name, err := d.blob(desc.Digest)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".blob-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	n, err := io.Copy(f, r)
	if err == nil && n != desc.Size {
		err = fmt.Errorf("write %s: %d bytes, want %d", name, n, desc.Size)
	}
	if err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return f.Close()
}

// Tag names a cache of which everything is there, in place of what had the tag
// before. With reset, everything else is removed from the directory.
func (d Dir) Tag(desc ocispec.Descriptor, tag string, reset bool) error {
	index, err := d.index()
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	index.Versioned, index.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageIndex
	index.Manifests = slices.DeleteFunc(index.Manifests, func(m ocispec.Descriptor) bool {
		return reset || m.Annotations[ocispec.AnnotationRefName] == tag
	})
	desc.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
	index.Manifests = append(index.Manifests, desc)
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	layout := []byte(`{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`)
	if err := atomicfile.Write(filepath.Join(string(d), ocispec.ImageLayoutFile), layout, 0o644); err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(string(d), ocispec.ImageIndexFile), data, 0o644); err != nil {
		return err
	}
	if reset {
		return d.reset(desc)
	}
	return nil
}

// reset removes every blob that a cache doesn't have.
func (d Dir) reset(desc ocispec.Descriptor) error {
	data, err := d.Read(desc.Digest)
	if err != nil {
		return err
	}
	parts, err := ParseManifest(data)
	if err != nil {
		return err
	}
	keep := map[string]bool{desc.Digest.Encoded(): true, parts.Config.Digest.Encoded(): true}
	for _, l := range parts.Layers {
		keep[l.Digest.Encoded()] = true
	}
	dir := filepath.Join(string(d), ocispec.ImageBlobsDir, digest.SHA256.String())
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
