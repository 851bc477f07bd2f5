// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/image"
	"builder/internal/atomicfile"
	"builder/layer"
	"builder/store"
)

// SaveOCI writes images as a tar archive of an OCI image layout. The bytes
// depend on the images and their order alone.
func SaveOCI(ctx context.Context, s *store.Store, w io.Writer, images []Image) error {
	l, err := newLayout(s, images)
	if err != nil {
		return err
	}
	return writeTar(w, func(t *tarWriter) error { return l.write(ctx, t) })
}

// SaveDocker writes images as docker of 25 and later does: an OCI image layout
// that is docker's archive as well, by a manifest.json that names the same
// blobs. Docker before 23 reads it unless a layer is compressed with zstd.
func SaveDocker(ctx context.Context, s *store.Store, w io.Writer, images []Image) error {
	l, err := newLayout(s, images)
	if err != nil {
		return err
	}
	docs, err := l.dockerImages(func(img image.Image) dockerImage {
		d := dockerImage{Config: blobPath(img.Manifest.Config.Digest), Layers: []string{}}
		for _, b := range img.Manifest.Layers {
			d.Layers = append(d.Layers, blobPath(b.Digest))
		}
		return d
	})
	if err != nil {
		return err
	}
	return writeTar(w, func(t *tarWriter) error {
		if err := t.json(dockerFile, docs); err != nil {
			return err
		}
		if err := t.json(repositoriesFile, repositories(docs)); err != nil {
			return err
		}
		return l.write(ctx, t)
	})
}

// SaveLegacy writes images as docker before 25 does, and podman: configs and
// uncompressed layers. It needs room for the largest layer in the store's file
// system for as long as it takes.
func SaveLegacy(ctx context.Context, s *store.Store, w io.Writer, images []Image) error {
	l, err := newLayout(s, images)
	if err != nil {
		return err
	}
	docs, err := l.dockerImages(func(img image.Image) dockerImage {
		d := dockerImage{Config: img.ID().Encoded() + ".json", Layers: []string{}}
		for _, id := range img.Config.RootFS.DiffIDs {
			d.Layers = append(d.Layers, legacyLayer(id))
		}
		return d
	})
	if err != nil {
		return err
	}
	return writeTar(w, func(t *tarWriter) error {
		for _, img := range l.images {
			if err := l.writeLegacy(ctx, t, img); err != nil {
				return err
			}
		}
		if err := t.json(dockerFile, docs); err != nil {
			return err
		}
		return t.json(repositoriesFile, repositories(docs))
	})
}

func legacyLayer(diffID digest.Digest) string { return diffID.Encoded() + "/layer.tar" }

func blobPath(d digest.Digest) string {
	return blobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

// layout is what a set of images is made of.
type layout struct {
	store  *store.Store
	index  ocispec.Index
	blobs  []ocispec.Descriptor // each once, documents before layers
	images []image.Image        // one platform of each
	names  [][]string           // of images
}

func newLayout(s *store.Store, images []Image) (*layout, error) {
	if len(images) == 0 {
		return nil, errors.New("no image to save")
	}
	l := &layout{store: s, index: ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{},
	}}
	tags := map[string]int{}
	for _, img := range images {
		for _, n := range img.Names {
			if ref, err := image.ParseRef(n); err == nil {
				tags[ref.Tag]++
			}
		}
	}
	seen := map[digest.Digest]bool{}
	for _, img := range images {
		if err := l.add(img, tags, seen); err != nil {
			return nil, fmt.Errorf("save image %s: %w", img.Desc.Digest, err)
		}
	}
	return l, nil
}

func (l *layout) add(img Image, tags map[string]int, seen map[digest.Digest]bool) error {
	root, one, err := l.store.Present(img.Desc)
	if err != nil {
		return err
	}
	refs, err := l.store.References(root)
	if err != nil {
		return err
	}
	for _, b := range refs {
		if !l.store.Has(b) {
			return fmt.Errorf("blob %s: %w", b.Digest, store.ErrNotFound)
		}
		if !seen[b.Digest] {
			seen[b.Digest] = true
			l.blobs = append(l.blobs, b)
		}
	}
	entry := ocispec.Descriptor{MediaType: root.MediaType, Digest: root.Digest, Size: root.Size, Platform: root.Platform}
	if root.Digest == img.Desc.Digest {
		entry.Annotations = img.Desc.Annotations
	}
	tagged := []string{}
	for _, n := range img.Names {
		ref, err := image.ParseRef(n)
		if err != nil {
			return err
		}
		if ref.Tag == "" {
			continue // a digest names itself
		}
		tagged = append(tagged, n)
		short := ref.Tag
		if tags[short] > 1 {
			short = ref.String()
		}
		e := entry
		e.Annotations = map[string]string{}
		maps.Copy(e.Annotations, entry.Annotations)
		e.Annotations[annotationName], e.Annotations[ocispec.AnnotationRefName] = ref.String(), short
		l.index.Manifests = append(l.index.Manifests, e)
	}
	if len(tagged) == 0 {
		if img.Tag != "" {
			entry.Annotations = maps.Clone(entry.Annotations)
			if entry.Annotations == nil {
				entry.Annotations = map[string]string{}
			}
			entry.Annotations[ocispec.AnnotationRefName] = img.Tag
		}
		l.index.Manifests = append(l.index.Manifests, entry)
	}
	l.images, l.names = append(l.images, one), append(l.names, tagged)
	return nil
}

func (l *layout) dockerImages(describe func(image.Image) dockerImage) ([]dockerImage, error) {
	var docs []dockerImage
	for i, img := range l.images {
		if len(img.Config.RootFS.DiffIDs) != len(img.Manifest.Layers) {
			return nil, fmt.Errorf("save image %s: %w", img.Desc.Digest, image.ErrInvalid)
		}
		d := describe(img)
		for _, n := range l.names[i] {
			ref, err := image.ParseRef(n)
			if err != nil {
				return nil, err
			}
			ref.Digest = ""
			// Whole, as podman writes them: podman reads a short name as
			// one of localhost.
			d.RepoTags = append(d.RepoTags, ref.String())
		}
		docs = append(docs, d)
	}
	return docs, nil
}

// repositories is docker's older table of names: repository, tag, and the
// topmost layer.
func repositories(docs []dockerImage) map[string]map[string]string {
	out := map[string]map[string]string{}
	for _, d := range docs {
		for _, n := range d.RepoTags {
			ref, err := image.ParseRef(n)
			if err != nil || len(d.Layers) == 0 {
				continue
			}
			if out[ref.Name()] == nil {
				out[ref.Name()] = map[string]string{}
			}
			top := d.Layers[len(d.Layers)-1]
			if filepath.Base(top) == "layer.tar" {
				top = filepath.Dir(top)
			}
			out[ref.Name()][ref.Tag] = filepath.Base(top)
		}
	}
	return out
}

func (l *layout) write(ctx context.Context, t *tarWriter) error {
	if err := t.json(layoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}); err != nil {
		return err
	}
	if err := t.json(indexFile, l.index); err != nil {
		return err
	}
	for _, b := range l.blobs {
		if err := t.blob(ctx, l.store, blobPath(b.Digest), b); err != nil {
			return err
		}
	}
	return nil
}

func (l *layout) writeLegacy(ctx context.Context, t *tarWriter, img image.Image) error {
	if err := t.blob(ctx, l.store, img.ID().Encoded()+".json", img.Manifest.Config); err != nil {
		return err
	}
	for i, b := range img.Manifest.Layers {
		diffID := img.Config.RootFS.DiffIDs[i]
		if t.has(legacyLayer(diffID)) {
			continue
		}
		if err := l.plainLayer(ctx, t, b, diffID); err != nil {
			return fmt.Errorf("layer %s: %w", b.Digest, err)
		}
	}
	return nil
}

// plainLayer writes a layer uncompressed. Its size must stand before it and is
// only known after it, so that it is unpacked to a temporary file first.
func (l *layout) plainLayer(ctx context.Context, t *tarWriter, desc ocispec.Descriptor, diffID digest.Digest) error {
	dir, err := l.store.TempDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	f, err := os.OpenFile(filepath.Join(dir, "layer"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	blob, err := l.store.OpenBlob(desc)
	if err != nil {
		return err
	}
	defer blob.Close()
	plain, _, err := layer.Decompress(ctxReader{ctx, blob})
	if err != nil {
		return err
	}
	defer plain.Close()
	digester := digest.SHA256.Digester()
	n, err := io.Copy(io.MultiWriter(f, digester.Hash()), plain)
	if err != nil {
		return err
	}
	if got := digester.Digest(); got != diffID {
		return fmt.Errorf("diffID is %s, and the config says %s: %w", got, diffID, store.ErrCorrupt)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return t.file(legacyLayer(diffID), n, ctxReader{ctx, f})
}

// SaveOCIDir writes images as an OCI image layout into a directory, which it
// makes if need be. A layout that is there already is added to; names that it
// has for other images are taken over. The index is replaced last, as a whole.
func SaveOCIDir(ctx context.Context, s *store.Store, dir string, images []Image) error {
	l, err := newLayout(s, images)
	if err != nil {
		return err
	}
	if err := l.writeDir(ctx, dir); err != nil {
		return fmt.Errorf("save to %s: %w", dir, err)
	}
	return nil
}

func (l *layout) writeDir(ctx context.Context, dir string) error {
	index, err := existingIndex(dir)
	if err != nil {
		return err
	}
	index.Manifests = mergeRows(index.Manifests, l.index.Manifests)
	if err := os.MkdirAll(filepath.Join(dir, blobsDir, "sha256"), 0o755); err != nil {
		return err
	}
	for _, b := range l.blobs {
		if err := l.copyBlob(ctx, dir, b); err != nil {
			return err
		}
	}
	if err := writeDoc(dir, layoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}); err != nil {
		return err
	}
	return writeDoc(dir, indexFile, index)
}

func writeDoc(dir, name string, doc any) error {
	data, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, name), data, 0o644)
}

// mergeRows adds rows to those of a layout. A name means the added image from
// then on; a tag that the layout has for another repository is written out.
func mergeRows(have, add []ocispec.Descriptor) []ocispec.Descriptor {
	name := func(d ocispec.Descriptor) string {
		if n := d.Annotations[annotationName]; n != "" {
			return n
		}
		return d.Annotations[ocispec.AnnotationRefName]
	}
	have = slices.DeleteFunc(have, func(h ocispec.Descriptor) bool {
		return slices.ContainsFunc(add, func(a ocispec.Descriptor) bool {
			return name(h) == name(a) && (name(h) != "" || h.Digest == a.Digest)
		})
	})
	for _, a := range add {
		tag := a.Annotations[ocispec.AnnotationRefName]
		if tag != "" && slices.ContainsFunc(have, func(h ocispec.Descriptor) bool { return h.Annotations[ocispec.AnnotationRefName] == tag }) {
			full := name(a)
			a.Annotations = maps.Clone(a.Annotations)
			a.Annotations[annotationName], a.Annotations[ocispec.AnnotationRefName] = full, full
		}
		have = append(have, a)
	}
	return have
}

// existingIndex reads the index of a layout that is to be added to. A
// directory with other things in it is not made one.
func existingIndex(dir string) (ocispec.Index, error) {
	empty := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && len(entries) == 0) {
		return empty, nil
	}
	if err != nil {
		return empty, err
	}
	data, err := os.ReadFile(filepath.Join(dir, indexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return empty, errors.New("the directory is not empty and holds no OCI image layout")
	}
	if err != nil {
		return empty, err
	}
	return image.ParseIndex(data)
}

func (l *layout) copyBlob(ctx context.Context, dir string, desc ocispec.Descriptor) error {
	path := filepath.Join(dir, filepath.FromSlash(blobPath(desc.Digest)))
	if fi, err := os.Stat(path); err == nil && fi.Size() == desc.Size {
		return nil
	}
	r, err := l.store.OpenBlob(desc)
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, ctxReader{ctx, r})
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// tarWriter writes an archive's files, each once, with nothing of this
// machine's or this moment in them.
type tarWriter struct {
	w    *tar.Writer
	seen map[string]bool
}

func writeTar(w io.Writer, write func(*tarWriter) error) error {
	t := &tarWriter{w: tar.NewWriter(w), seen: map[string]bool{}}
	if err := write(t); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	if err := t.w.Close(); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}

func (t *tarWriter) has(name string) bool { return t.seen[name] }

func (t *tarWriter) header(name string, size int64) error {
	h := &tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg}
	if name[len(name)-1] == '/' {
		h.Mode, h.Typeflag = 0o755, tar.TypeDir
	}
	return t.w.WriteHeader(h)
}

// dirs writes the directories above a file.
func (t *tarWriter) dirs(name string) error {
	for i, r := range name {
		if r != '/' || t.seen[name[:i+1]] {
			continue
		}
		t.seen[name[:i+1]] = true
		if err := t.header(name[:i+1], 0); err != nil {
			return err
		}
	}
	return nil
}

func (t *tarWriter) file(name string, size int64, r io.Reader) error {
	if t.seen[name] {
		return nil
	}
	t.seen[name] = true
	if err := t.dirs(name); err != nil {
		return err
	}
	if err := t.header(name, size); err != nil {
		return err
	}
	_, err := io.Copy(t.w, r)
	return err
}

func (t *tarWriter) blob(ctx context.Context, s *store.Store, name string, desc ocispec.Descriptor) error {
	r, err := s.OpenBlob(desc)
	if err != nil {
		return err
	}
	defer r.Close()
	return t.file(name, desc.Size, ctxReader{ctx, r})
}

func (t *tarWriter) json(name string, doc any) error {
	data, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	return t.file(name, int64(len(data)), bytes.NewReader(data))
}
