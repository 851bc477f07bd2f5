// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"builder/image"
	"builder/layer"
	"builder/store"
)

// Load reads a tar archive, plain or compressed, of an OCI image layout or in
// docker's form, and puts its images in the store. r is read once, from
// beginning to end.
//
// Of an archive that is both, as docker's are since 25, the image layout
// counts: it keeps manifests and compressed layers as they were. The plain
// layers of docker's older archives are compressed as the options say.
//
// Everything is verified before anything is stored, except that blobs which
// the store has already are not read from the archive. After an error the
// store is as it was; the error wraps [ErrInvalid] if the archive is at fault.
func Load(ctx context.Context, s *store.Store, r io.Reader, opts LoadOptions) ([]Loaded, error) {
	g := newStaging(s, opts)
	defer g.close()
	plain, _, err := layer.Decompress(r)
	if err != nil {
		return nil, fmt.Errorf("load: %w", readError(ctx, err))
	}
	defer plain.Close()
	if err := g.readTar(ctx, plain); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	loaded, err := g.load(ctx)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	return loaded, nil
}

// LoadDir is [Load] for a directory with an OCI image layout. Symbolic links
// in it are followed as far as they stay within it.
func LoadDir(ctx context.Context, s *store.Store, dir string, opts LoadOptions) ([]Loaded, error) {
	g := newStaging(s, opts)
	defer g.close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	defer root.Close()
	if err := g.readDir(ctx, root); err != nil {
		return nil, fmt.Errorf("load %s: %w", dir, err)
	}
	loaded, err := g.load(ctx)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", dir, err)
	}
	return loaded, nil
}

// readDir stages the files of an image layout.
func (g *staging) readDir(ctx context.Context, root *os.Root) error {
	names := []string{layoutFile, indexFile}
	dir := path.Join(blobsDir, "sha256")
	entries, err := fs.ReadDir(root.FS(), dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		names = append(names, path.Join(dir, e.Name()))
	}
	for _, name := range names {
		f, err := root.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // told as what it is when it is looked for
		}
		if err != nil {
			return err
		}
		fi, err := f.Stat()
		if err == nil && fi.Mode().IsRegular() {
			err = g.file(ctx, name, fi.Size(), f)
		}
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// load finds the images in what is staged and commits them.
func (g *staging) load(ctx context.Context) ([]Loaded, error) {
	p := &plan{g: g, need: map[digest.Digest]bool{}, pairs: map[pair]bool{}}
	find := p.docker
	switch {
	case g.docs[indexFile] != nil:
		find = p.layout
	case g.docs[dockerFile] != nil:
	case g.docs[repositoriesFile] != nil:
		return nil, fmt.Errorf("%w: docker before 1.10 wrote it: load and save it with a newer docker", ErrInvalid)
	default:
		return nil, fmt.Errorf("%w: it has neither %s (an OCI image layout) nor %s (a docker archive)", ErrInvalid, indexFile, dockerFile)
	}
	loaded, err := find()
	if err != nil {
		return nil, err
	}
	if len(loaded) == 0 {
		return nil, fmt.Errorf("%w: it holds no image", ErrInvalid)
	}
	if err := p.verify(ctx); err != nil {
		return nil, err
	}
	return loaded, p.commit()
}

// plan is what of the staged is to enter the store.
type plan struct {
	g     *staging
	order []*staged // layers before configs before manifests before indexes
	need  map[digest.Digest]bool
	pairs map[pair]bool
}

// pair is a layer's blob and the diffID that a config gives it.
type pair struct {
	blob   *staged
	diffID digest.Digest
}

func (p *plan) add(b *staged) {
	if !p.need[b.desc.Digest] {
		p.need[b.desc.Digest] = true
		p.order = append(p.order, b)
	}
}

// layout finds the images of an image layout.
func (p *plan) layout() ([]Loaded, error) {
	if err := checkLayout(p.g.docs[layoutFile]); err != nil {
		return nil, err
	}
	idx, err := image.ParseIndex(p.g.docs[indexFile])
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, indexFile, err)
	}
	var loaded []Loaded
	for _, desc := range idx.Manifests {
		names, tag := layoutNames(desc), desc.Annotations[ocispec.AnnotationRefName]
		desc, err = p.root(desc)
		if err != nil {
			return nil, err
		}
		desc = ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size, Platform: desc.Platform}
		i := slices.IndexFunc(loaded, func(l Loaded) bool { return l.Desc.Digest == desc.Digest })
		if i < 0 {
			i = len(loaded)
			loaded = append(loaded, Loaded{Desc: desc})
		}
		for _, n := range names {
			if !slices.Contains(loaded[i].Names, n) {
				loaded[i].Names = append(loaded[i].Names, n)
			}
		}
		if tag != "" && !strings.ContainsAny(tag, "/:") && !slices.Contains(loaded[i].Tags, tag) {
			loaded[i].Tags = append(loaded[i].Tags, tag)
		}
	}
	return loaded, nil
}

func checkLayout(data []byte) error {
	if data == nil {
		return fmt.Errorf("%w: it has %s but no %s", ErrInvalid, indexFile, layoutFile)
	}
	var l ocispec.ImageLayout
	if err := json.Unmarshal(data, &l); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInvalid, layoutFile, err)
	}
	if !strings.HasPrefix(l.Version, "1.") {
		return fmt.Errorf("%w: image layout of version %q, want 1", ErrInvalid, l.Version)
	}
	return nil
}

// layoutNames are the names that an index gives an image. A word alone is a
// tag of what the layout is about, and doesn't tell what that is.
func layoutNames(desc ocispec.Descriptor) []string {
	for _, key := range []string{annotationName, ocispec.AnnotationRefName} {
		name := desc.Annotations[key]
		if key == ocispec.AnnotationRefName && !strings.ContainsAny(name, "/:") {
			continue
		}
		if ref, err := image.ParseRef(name); err == nil {
			return []string{ref.String()}
		}
	}
	return nil
}

// root adds what a row of the index names, and returns what is to be tagged:
// where an index has come with one platform only, and that is not this
// machine's, the manifest, because under the index nobody would look for it.
func (p *plan) root(desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	if image.IsManifest(desc.MediaType) {
		return desc, p.manifest(desc)
	}
	if !image.IsIndex(desc.MediaType) {
		return desc, fmt.Errorf("%w: %s is a %q, not an image", ErrInvalid, desc.Digest, desc.MediaType)
	}
	data, err := p.g.read(desc, image.MaxManifestSize)
	if err != nil {
		return desc, err
	}
	idx, err := image.ParseIndex(data)
	if err != nil {
		return desc, fmt.Errorf("index %s: %w", desc.Digest, err)
	}
	if want := p.g.opts.Platform; want.OS != "" {
		i := image.Match(idx.Manifests, want)
		if i < 0 {
			return desc, fmt.Errorf("index %s: %w for %s", desc.Digest, errMissing, image.FormatPlatform(want))
		}
		return idx.Manifests[i], p.manifest(idx.Manifests[i])
	}
	var found []ocispec.Descriptor
	for _, m := range idx.Manifests {
		// An archive may have some platforms of an index only, but what it
		// has of a platform must be whole.
		if b := p.g.blobs[m.Digest]; b == nil && !p.g.store.Has(m) {
			continue
		}
		add := p.attached
		if isImage(m) {
			add, found = p.manifest, append(found, m)
		}
		if err := add(m); err != nil {
			return desc, fmt.Errorf("index %s: %w", desc.Digest, err)
		}
	}
	if len(found) == 0 {
		return desc, fmt.Errorf("%w: no platform of index %s", errMissing, desc.Digest)
	}
	b, err := p.g.find(desc)
	if err != nil {
		return desc, err
	}
	p.add(b)
	host := image.Match(idx.Manifests, image.HostPlatform())
	if len(found) == 1 && (host < 0 || idx.Manifests[host].Digest != found[0].Digest) {
		return found[0], nil
	}
	return desc, nil
}

// isImage tells an image in an index from what is attached to one, such as an
// attestation.
func isImage(m ocispec.Descriptor) bool {
	return image.IsManifest(m.MediaType) && m.ArtifactType == "" && m.Annotations["vnd.docker.reference.type"] == ""
}

// manifest adds an image.
func (p *plan) manifest(desc ocispec.Descriptor) error {
	data, err := p.g.read(desc, image.MaxManifestSize)
	if err != nil {
		return err
	}
	m, err := image.ParseManifest(data)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	configData, err := p.g.read(m.Config, image.MaxConfigSize)
	if err != nil {
		return fmt.Errorf("manifest %s: config: %w", desc.Digest, err)
	}
	config, err := image.ParseConfig(configData, m)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	for i, l := range m.Layers {
		b, err := p.g.find(l)
		if err != nil {
			return fmt.Errorf("manifest %s: layer %d: %w", desc.Digest, i, err)
		}
		p.add(b)
		p.pairs[pair{b, config.RootFS.DiffIDs[i]}] = true
	}
	return p.documents(m.Config, desc)
}

// attached adds a manifest that is no image, as far as it can be read.
func (p *plan) attached(desc ocispec.Descriptor) error {
	data, err := p.g.read(desc, image.MaxManifestSize)
	if err != nil {
		return err
	}
	m, err := image.ParseManifest(data)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	return p.documents(append(slices.Clone(m.Layers), m.Config, desc)...)
}

func (p *plan) documents(descs ...ocispec.Descriptor) error {
	for _, d := range descs {
		b, err := p.g.find(d)
		if err != nil {
			return err
		}
		p.add(b)
	}
	return nil
}

// docker finds the images of a docker archive and makes manifests for them.
func (p *plan) docker() ([]Loaded, error) {
	var images []dockerImage
	if err := json.Unmarshal(p.g.docs[dockerFile], &images); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, dockerFile, err)
	}
	var loaded []Loaded
	for i, img := range images {
		l, err := p.dockerImage(img)
		if err != nil {
			return nil, fmt.Errorf("image %d of %s: %w", i, dockerFile, err)
		}
		loaded = append(loaded, l)
	}
	return loaded, nil
}

func (p *plan) dockerImage(img dockerImage) (Loaded, error) {
	var l Loaded
	for _, n := range img.RepoTags {
		ref, err := image.ParseRef(n)
		if err != nil {
			return l, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		l.Names = append(l.Names, ref.String())
	}
	configData, err := p.g.dockerDocument(img.Config)
	if err != nil {
		return l, fmt.Errorf("config: %w", err)
	}
	config, err := p.g.document(ocispec.MediaTypeImageConfig, configData)
	if err != nil {
		return l, err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: config.desc.Digest, Size: config.desc.Size},
		Layers: []ocispec.Descriptor{},
	}
	var layers []*staged
	for _, name := range img.Layers {
		b, err := p.g.dockerLayer(name)
		if err != nil {
			return l, fmt.Errorf("layer %s: %w", name, err)
		}
		layers = append(layers, b)
		m.Layers = append(m.Layers, b.desc)
	}
	parsed, err := image.ParseConfig(configData, m)
	if err != nil {
		return l, fmt.Errorf("%w: %s: %w", ErrInvalid, img.Config, err)
	}
	for i, b := range layers {
		p.add(b)
		p.pairs[pair{b, parsed.RootFS.DiffIDs[i]}] = true
	}
	p.add(config)
	data, err := json.Marshal(m)
	if err != nil {
		return l, err
	}
	b, err := p.g.document(ocispec.MediaTypeImageManifest, data)
	if err != nil {
		return l, err
	}
	p.add(b)
	l.Desc = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: b.desc.Digest, Size: b.desc.Size}
	return l, nil
}

// dockerDocument is a file that manifest.json names.
func (g *staging) dockerDocument(name string) ([]byte, error) {
	file, err := g.resolve(name)
	if err != nil {
		return nil, err
	}
	if data, ok := g.docs[file]; ok {
		return data, nil
	}
	if d, ok := blobDigest(file); ok && g.blobs[d] != nil {
		return g.read(g.blobs[d].desc, image.MaxConfigSize)
	}
	return nil, g.whyNot(file)
}

func (g *staging) whyNot(file string) error {
	if why, ok := g.skipped[file]; ok {
		return fmt.Errorf("%w: %s: %s", ErrInvalid, file, why)
	}
	if _, ok := g.docs[file]; ok {
		return fmt.Errorf("%w: %s is no tar", ErrInvalid, file)
	}
	return fmt.Errorf("%w: %s is missing", errMissing, file)
}

// dockerLayer is a layer that manifest.json names.
func (g *staging) dockerLayer(name string) (*staged, error) {
	file, err := g.resolve(name)
	if err != nil {
		return nil, err
	}
	if b, ok := g.layers[file]; ok {
		return b, nil
	}
	d, ok := blobDigest(file)
	if !ok || g.blobs[d] == nil {
		return nil, g.whyNot(file)
	}
	// An image layout's blob, under docker's index: its type is told by its
	// first bytes.
	b := g.blobs[d]
	if b.desc.MediaType == "" {
		if b.desc.MediaType, err = g.layerType(b); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (g *staging) layerType(b *staged) (string, error) {
	r, err := g.open(b)
	if err != nil {
		return "", err
	}
	defer r.Close()
	plain, compression, err := layer.Decompress(r)
	if err != nil {
		return "", err
	}
	plain.Close()
	switch compression {
	case "uncompressed":
		return ocispec.MediaTypeImageLayer, nil
	case "gzip":
		return ocispec.MediaTypeImageLayerGzip, nil
	case "zstd":
		return ocispec.MediaTypeImageLayerZstd, nil
	}
	return "", fmt.Errorf("%w: layers of an image layout can't be compressed with %s", ErrInvalid, compression)
}

// verify compares every layer with the diffIDs that configs give it.
func (p *plan) verify(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for pr := range p.pairs {
		group.Go(func() error {
			got, err := p.g.diffID(ctx, pr.blob)
			if err != nil {
				return fmt.Errorf("layer %s: %w", pr.blob.desc.Digest, readError(ctx, err))
			}
			if got != pr.diffID {
				return fmt.Errorf("%w: layer %s has diffID %s, and the config says %s", ErrInvalid, pr.blob.desc.Digest, got, pr.diffID)
			}
			return nil
		})
	}
	return group.Wait()
}

// diffID computes a layer's diffID, unless that was done when it was staged.
func (g *staging) diffID(ctx context.Context, b *staged) (digest.Digest, error) {
	if b.diffID != "" {
		return b.diffID, nil
	}
	r, err := g.open(b)
	if err != nil {
		return "", err
	}
	defer r.Close()
	plain, _, err := layer.Decompress(ctxReader{ctx, r})
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	defer plain.Close()
	digester := digest.SHA256.Digester()
	if _, err := io.Copy(digester.Hash(), plain); err != nil {
		return "", fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return digester.Digest(), nil
}

// commit puts the planned blobs in the store.
func (p *plan) commit() error {
	for _, b := range p.order {
		if b.w == nil {
			continue
		}
		if err := b.w.CommitFile(b.desc); err != nil {
			return err
		}
		b.w = nil
	}
	return nil
}
