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
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/image"
	"builder/internal/testutil"
	"builder/layer"
	"builder/progress"
	"builder/store"
)

func openStore(t testing.TB) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// tarOf makes a tar of files.
func tarOf(t testing.TB, files ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range files {
		body := h.Uname // the content, for brevity
		h.Uname = ""
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		h.Size = int64(len(body))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, content string) tar.Header { return tar.Header{Name: name, Uname: content} }

// rootLayer is a layer with a file of some size.
func rootLayer(t testing.TB, name string) []byte {
	return tarOf(t, tar.Header{Name: "etc/", Typeflag: tar.TypeDir}, file("etc/"+name, strings.Repeat(name+"\n", 5000)))
}

// layerSpec is a layer of a test's image.
type layerSpec struct {
	tar         []byte
	compression layer.Compression
}

// addImage puts an image in a store.
func addImage(t testing.TB, s *store.Store, docker bool, platform image.Platform, layers ...layerSpec) ocispec.Descriptor {
	t.Helper()
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Layers: []ocispec.Descriptor{},
	}
	config := image.Config{}
	config.Platform = platform
	config.Config.Cmd = []string{"/bin/true"}
	config.Config.Shell = []string{"/bin/bash", "-c"}
	config.RootFS.Type = "layers"
	config.RootFS.DiffIDs = []digest.Digest{}
	for _, l := range layers {
		w, err := s.NewBlob()
		if err != nil {
			t.Fatal(err)
		}
		written, err := layer.Compress(context.Background(), w.File(), bytes.NewReader(l.tar), layer.Options{Compression: l.compression})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.CommitFile(written.Blob); err != nil {
			t.Fatal(err)
		}
		if docker {
			written.Blob.MediaType = image.MediaTypeDockerLayerGzip
		}
		m.Layers = append(m.Layers, written.Blob)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, written.DiffID)
		config.History = append(config.History, ocispec.History{CreatedBy: "test"})
	}
	m.Config = putDoc(t, s, ocispec.MediaTypeImageConfig, config)
	if docker {
		m.MediaType, m.Config.MediaType = image.MediaTypeDockerManifest, image.MediaTypeDockerConfig
	}
	return putDoc(t, s, m.MediaType, m)
}

func putDoc(t testing.TB, s *store.Store, mediaType string, doc any) ocispec.Descriptor {
	t.Helper()
	desc, err := putJSON(s, mediaType, doc)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func addIndex(t testing.TB, s *store.Store, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return putDoc(t, s, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests,
	})
}

func with(desc ocispec.Descriptor, p image.Platform) ocispec.Descriptor {
	desc.Platform = &p
	return desc
}

// checkStore fails the test if a blob isn't what its name says, or anything
// temporary is left.
func checkStore(t testing.TB, s *store.Store) {
	t.Helper()
	for _, name := range blobsIn(t, s) {
		data, err := os.ReadFile(s.Path("blobs", "sha256", name))
		if err != nil {
			t.Fatal(err)
		}
		if got := digest.FromBytes(data).Encoded(); got != name {
			t.Errorf("blob %s has digest %s", name, got)
		}
	}
	left, err := filepath.Glob(s.Path("tmp", "*", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left in tmp: %v %v", left, err)
	}
}

func blobsIn(t testing.TB, s *store.Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.Path("blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// checkImage fails the test unless the image is in the store as a whole, with
// layers of the diffIDs that its config says.
func checkImage(t testing.TB, s *store.Store, desc ocispec.Descriptor) image.Image {
	t.Helper()
	img, err := s.Image(desc, image.HostPlatform())
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range img.Manifest.Layers {
		r, err := s.OpenBlob(l)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		plain, _, err := layer.Decompress(r)
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		if got, err := digest.FromReader(plain); err != nil || got != img.Config.RootFS.DiffIDs[i] {
			t.Errorf("layer %d has diffID %s, want %s (%v)", i, got, img.Config.RootFS.DiffIDs[i], err)
		}
	}
	return img
}

var otherPlatform = image.Platform{OS: "linux", Architecture: "s390x"}

// fill makes one of every kind of image.
func fill(t testing.TB, s *store.Store) map[string]Image {
	t.Helper()
	host := image.HostPlatform()
	a, b, c := rootLayer(t, "a"), rootLayer(t, "b"), rootLayer(t, "c")
	gz, plain, zstd := layerSpec{a, layer.Gzip}, layerSpec{b, layer.Uncompressed}, layerSpec{c, layer.Zstd}
	own, other := addImage(t, s, false, host, gz), addImage(t, s, false, otherPlatform, gz, layerSpec{b, layer.Gzip})
	missing := other
	missing.Digest = digest.FromString("not here")
	return map[string]Image{
		"gzip":         {Desc: addImage(t, s, false, host, gz), Names: []string{"docker.io/library/gzip:1"}},
		"plain":        {Desc: addImage(t, s, false, host, gz, plain), Names: []string{"docker.io/library/plain:1", "example.com:5000/x/plain:2"}},
		"zstd":         {Desc: addImage(t, s, false, host, gz, zstd), Names: []string{"docker.io/library/zstd:latest"}},
		"docker types": {Desc: addImage(t, s, true, host, gz, layerSpec{b, layer.Gzip}), Names: []string{"docker.io/team/docker:latest"}},
		"no layers":    {Desc: addImage(t, s, false, host), Names: []string{"docker.io/library/empty:latest"}},
		"twice":        {Desc: addImage(t, s, false, host, gz, plain, gz), Names: []string{"docker.io/library/twice:latest"}},
		"no name":      {Desc: addImage(t, s, false, host, plain), Names: nil},
		"digest name":  {Desc: own, Names: []string{"docker.io/library/x@" + own.Digest.String()}},
		"index":        {Desc: addIndex(t, s, with(other, otherPlatform), with(own, host)), Names: []string{"docker.io/library/index:1"}},
		"part index":   {Desc: addIndex(t, s, with(missing, otherPlatform), with(own, host)), Names: []string{"docker.io/library/part:1"}},
		"other index":  {Desc: addIndex(t, s, with(missing, host), with(other, otherPlatform)), Names: []string{"docker.io/library/other:1"}},
	}
}

// formats are the ways to save, and to load what was saved.
var formats = map[string]struct {
	save func(context.Context, *store.Store, string, []Image) error
	load func(context.Context, *store.Store, string) ([]Loaded, error)
}{
	"oci":    {toFile(SaveOCI), loadFile},
	"docker": {toFile(SaveDocker), loadFile},
	"legacy": {toFile(SaveLegacy), loadFile},
	"dir":    {SaveOCIDir, loadDir},
}

func toFile(save func(context.Context, *store.Store, io.Writer, []Image) error) func(context.Context, *store.Store, string, []Image) error {
	return func(ctx context.Context, s *store.Store, name string, images []Image) error {
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		return errors.Join(save(ctx, s, f, images), f.Close())
	}
}

func loadFile(ctx context.Context, s *store.Store, name string) ([]Loaded, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Load(ctx, s, f, LoadOptions{})
}

func loadDir(ctx context.Context, s *store.Store, name string) ([]Loaded, error) {
	return LoadDir(ctx, s, name, LoadOptions{})
}

func TestRoundTrip(t *testing.T) {
	s := openStore(t)
	images := fill(t, s)
	for format, f := range formats {
		for name, img := range images {
			t.Run(format+"/"+name, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "x")
				if err := f.save(t.Context(), s, path, []Image{img}); err != nil {
					t.Fatal(err)
				}
				checkStore(t, s)
				into := openStore(t)
				loaded, err := f.load(t.Context(), into, path)
				if err != nil {
					t.Fatal(err)
				}
				checkStore(t, into)
				if len(loaded) != 1 {
					t.Fatalf("%d images loaded", len(loaded))
				}
				want := img.Names
				if name == "digest name" {
					want = nil
				}
				if !slices.Equal(want, loaded[0].Names) {
					t.Errorf("names %q, want %q", loaded[0].Names, want)
				}
				if img.Desc.Digest != loaded[0].Desc.Digest && format != "legacy" && !strings.HasSuffix(name, " index") {
					t.Errorf("digest %s, want %s", loaded[0].Desc.Digest, img.Desc.Digest)
				}
				got := checkImage(t, into, loaded[0].Desc)
				if name == "other index" {
					return // the store has no image of it for this machine
				}
				had, err := s.Image(img.Desc, image.HostPlatform())
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(had.Config, got.Config); diff != "" || had.ID() != got.ID() {
					t.Errorf("config differs: (-had +got)\n%s", diff)
				}
			})
		}
	}
}

// Several images share what they have in common, and each keeps its names.
func TestRoundTripMany(t *testing.T) {
	s := openStore(t)
	byName := fill(t, s)
	var images []Image
	for _, n := range []string{"gzip", "plain", "zstd", "docker types", "index", "no name"} {
		images = append(images, byName[n])
	}
	for format, f := range formats {
		t.Run(format, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x")
			if err := f.save(t.Context(), s, path, images); err != nil {
				t.Fatal(err)
			}
			into := openStore(t)
			loaded, err := f.load(t.Context(), into, path)
			if err != nil {
				t.Fatal(err)
			}
			checkStore(t, into)
			if len(loaded) != len(images) {
				t.Fatalf("%d images loaded, want %d", len(loaded), len(images))
			}
			for i, l := range loaded {
				if !slices.Equal(images[i].Names, l.Names) {
					t.Errorf("image %d: names %q, want %q", i, l.Names, images[i].Names)
				}
				checkImage(t, into, l.Desc)
			}
		})
	}
}

// The same images give the same bytes.
func TestSaveDeterministic(t *testing.T) {
	s := openStore(t)
	byName := fill(t, s)
	images := []Image{byName["plain"], byName["index"]}
	for name, save := range map[string]func(context.Context, *store.Store, io.Writer, []Image) error{
		"oci": SaveOCI, "docker": SaveDocker, "legacy": SaveLegacy,
	} {
		var first, second bytes.Buffer
		if err := errors.Join(save(t.Context(), s, &first, images), save(t.Context(), s, &second, images)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Errorf("%s: two runs differ", name)
		}
	}
}

func TestSaveErrors(t *testing.T) {
	s := openStore(t)
	img := fill(t, s)["gzip"]
	got, err := s.Image(img.Desc, image.HostPlatform())
	if err != nil {
		t.Fatal(err)
	}
	blob := s.Path("blobs", "sha256", got.Manifest.Layers[0].Digest.Encoded())
	data, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(blob, data, 0o600); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for format, f := range formats {
		path := filepath.Join(t.TempDir(), "x")
		if err := f.save(t.Context(), s, path, []Image{img}); err == nil || (format != "legacy" && !errors.Is(err, store.ErrCorrupt)) {
			t.Errorf("%s: corrupt layer: %v", format, err)
		}
		if err := f.save(cancelled, s, path+"2", []Image{img}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: cancelled: %v", format, err)
		}
		if err := f.save(t.Context(), s, path+"3", nil); err == nil {
			t.Errorf("%s: nothing to save: no error", format)
		}
	}
	if err := os.Remove(blob); err != nil {
		t.Fatal(err)
	}
	for format, f := range formats {
		if err := f.save(t.Context(), s, filepath.Join(t.TempDir(), "x"), []Image{img}); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: missing layer: %v", format, err)
		}
	}
}

func TestSaveOCIDirAgain(t *testing.T) {
	s := openStore(t)
	images := fill(t, s)
	dir := filepath.Join(t.TempDir(), "layout")
	other := images["plain"]
	other.Names = images["gzip"].Names
	for _, img := range []Image{images["gzip"], images["index"], images["gzip"], other} {
		if err := SaveOCIDir(t.Context(), s, dir, []Image{img}); err != nil {
			t.Fatal(err)
		}
	}
	into := openStore(t)
	loaded, err := loadDir(t.Context(), into, dir)
	if err != nil {
		t.Fatal(err)
	}
	// Both have the tag 1, which alone is how a layout calls an image.
	want := []Loaded{{Desc: images["index"].Desc, Names: images["index"].Names}, {Desc: other.Desc, Names: other.Names, Tags: []string{"1"}}}
	if diff := cmp.Diff(want, loaded); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if err := SaveOCIDir(t.Context(), s, s.Path("locks"), []Image{other}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("into a directory of something else: %v", err)
	}
}

// An archive may be compressed in any way, its names may begin with "./", and
// its parts may come in any order.
func TestLoadForms(t *testing.T) {
	testutil.Require(t, "tar", "gzip", "bzip2", "xz", "zstd")
	s := openStore(t)
	img := fill(t, s)["plain"]
	dir := t.TempDir()
	if err := SaveOCIDir(t.Context(), s, filepath.Join(dir, "oci"), []Image{img}); err != nil {
		t.Fatal(err)
	}
	legacy := filepath.Join(dir, "legacy.tar")
	if err := toFile(SaveLegacy)(t.Context(), s, legacy, []Image{img}); err != nil {
		t.Fatal(err)
	}
	run(t, "mkdir", dir+"/legacy")
	run(t, "tar", "-C", dir+"/legacy", "-xf", legacy)
	for _, from := range []string{"oci", "legacy"} {
		for _, flags := range []string{"-c", "-cz", "-cj", "-cJ", "-c --zstd", "-c --format=v7", "-c --format=pax", "-c --format=gnu"} {
			for _, names := range []string{".", "files"} {
				t.Run(from+" "+flags+" "+names, func(t *testing.T) {
					out := filepath.Join(t.TempDir(), "x.tar")
					args := append(strings.Fields(flags), "-f", out, "-C", filepath.Join(dir, from))
					if names == "." {
						args = append(args, ".")
					} else {
						args = append(args, list(t, filepath.Join(dir, from))...)
						slices.Reverse(args[len(strings.Fields(flags))+4:])
					}
					if strings.Contains(flags, "v7") && from == "legacy" {
						t.Skip("names are too long for it")
					}
					run(t, "tar", args...)
					into := openStore(t)
					loaded, err := loadFile(t.Context(), into, out)
					if err != nil {
						t.Fatal(err)
					}
					checkStore(t, into)
					if len(loaded) != 1 || !slices.Equal(loaded[0].Names, img.Names) {
						t.Errorf("loaded %v", loaded)
					}
					checkImage(t, into, loaded[0].Desc)
				})
			}
		}
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}

// dockerArchive makes an archive as older dockers do, changed by edit.
func dockerArchive(t testing.TB, edit func(*parts)) []byte {
	t.Helper()
	a, b := rootLayer(t, "a"), rootLayer(t, "b")
	p := &parts{
		config: image.Config{},
		images: []dockerImage{{Config: "config.json", RepoTags: []string{"x:1"}, Layers: []string{"a/layer.tar", "b/layer.tar"}}},
		files:  []tar.Header{file("a/layer.tar", string(a)), file("a/VERSION", "1.0"), file("b/layer.tar", string(b))},
	}
	p.config.OS, p.config.Architecture = "linux", "amd64"
	p.config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(a), digest.FromBytes(b)}}
	if edit != nil {
		edit(p)
	}
	config, err := json.Marshal(p.config)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal(p.images)
	if err != nil {
		t.Fatal(err)
	}
	files := append(p.files, file("config.json", string(config)), file("manifest.json", string(manifest)))
	return tarOf(t, append(files, p.last...)...)
}

type parts struct {
	config image.Config
	images []dockerImage
	files  []tar.Header
	last   []tar.Header
}

func gzipped(t testing.TB, data []byte) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestLoadDocker(t *testing.T) {
	a := rootLayer(t, "a")
	for _, tt := range []struct {
		name string
		edit func(*parts)
		want []string // media types
	}{
		{"plain", nil, []string{ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerGzip}},
		{"gzip", func(p *parts) { p.files[0].Uname = gzipped(t, a) }, []string{ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerGzip}},
		{"symbolic link", func(p *parts) {
			p.files[2] = tar.Header{Name: "b/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../a/layer.tar"}
			p.config.RootFS.DiffIDs[1] = p.config.RootFS.DiffIDs[0]
		}, []string{ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerGzip}},
		{"hard link", func(p *parts) {
			p.files[2] = tar.Header{Name: "b/layer.tar", Typeflag: tar.TypeLink, Linkname: "a/layer.tar"}
			p.config.RootFS.DiffIDs[1] = p.config.RootFS.DiffIDs[0]
		}, []string{ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerGzip}},
		{"empty layer", func(p *parts) {
			p.files[2].Uname = string(make([]byte, 1024))
			p.config.RootFS.DiffIDs[1] = digest.FromBytes(make([]byte, 1024))
		}, []string{ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerGzip}},
		{"two images", func(p *parts) { p.images = append(p.images, p.images[0]) }, []string{ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerGzip}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openStore(t)
			loaded, err := Load(t.Context(), s, bytes.NewReader(dockerArchive(t, tt.edit)), LoadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			checkStore(t, s)
			for _, l := range loaded {
				img := checkImage(t, s, l.Desc)
				var got []string
				for _, b := range img.Manifest.Layers {
					got = append(got, b.MediaType)
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("media types %q", got)
				}
				if !slices.Equal(l.Names, []string{"docker.io/library/x:1"}) {
					t.Errorf("names %q", l.Names)
				}
			}
		})
	}
	t.Run("uncompressed", func(t *testing.T) {
		s := openStore(t)
		loaded, err := Load(t.Context(), s, bytes.NewReader(dockerArchive(t, nil)), LoadOptions{Layer: layer.Options{Compression: layer.Uncompressed}})
		if err != nil {
			t.Fatal(err)
		}
		img := checkImage(t, s, loaded[0].Desc)
		if got := img.Manifest.Layers[0]; got.MediaType != ocispec.MediaTypeImageLayer || got.Digest != img.Config.RootFS.DiffIDs[0] {
			t.Errorf("layer %+v", got)
		}
	})
}

// An index may come with some of its platforms. If what has come is not for
// this machine, its manifest is what gets the name.
func TestLoadPartIndex(t *testing.T) {
	src := openStore(t)
	images := fill(t, src)
	data, err := src.ReadBlob(images["index"].Desc, image.MaxManifestSize)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := image.ParseIndex(data)
	if err != nil {
		t.Fatal(err)
	}
	other, own := idx.Manifests[0], idx.Manifests[1]
	for _, tt := range []struct {
		name    string
		without []ocispec.Descriptor
		want    digest.Digest
	}{
		{"all", nil, images["index"].Desc.Digest},
		{"own", []ocispec.Descriptor{other}, images["index"].Desc.Digest},
		{"other", []ocispec.Descriptor{own}, other.Digest},
		{"none", []ocispec.Descriptor{own, other}, ""},
	} {
		data := ociArchive(t, src, images["index"], func(files map[string]string) {
			for _, d := range tt.without {
				delete(files, blobPath(d.Digest))
			}
		})
		s := openStore(t)
		loaded, err := Load(t.Context(), s, bytes.NewReader(data), LoadOptions{})
		if tt.want == "" {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: err = %v", tt.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if loaded[0].Desc.Digest != tt.want {
			t.Errorf("%s: loaded %s, want %s", tt.name, loaded[0].Desc.Digest, tt.want)
		}
		checkImage(t, s, loaded[0].Desc)
	}
}

// TestHostile: nothing of a bad archive enters the store.
func TestHostile(t *testing.T) {
	src := openStore(t)
	images := fill(t, src)
	oci := func(edit func(files map[string]string)) []byte { return ociArchive(t, src, images["plain"], edit) }
	docker := func(edit func(*parts)) []byte { return dockerArchive(t, edit) }
	good := docker(nil)
	manyLinks := func(p *parts) {
		p.files[0] = tar.Header{Name: "a/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../b/layer.tar"}
		p.files[2] = tar.Header{Name: "b/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../a/layer.tar"}
	}
	manifestOf := func(files map[string]string) string { return blobPath(images["plain"].Desc.Digest) }
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "neither index.json"},
		{"no tar", []byte(strings.Repeat("hello ", 1000)), "no tar"},
		{"damaged gzip", []byte(gzipped(t, good)[:500]), "ends early"},
		{"truncated in a layer", good[:700], "ends early"},
		{"truncated before the end", good[:len(good)-3000], "ends early"},
		{"other tar", tarOf(t, file("etc/passwd", "root")), "neither index.json"},
		{"docker 1.9", tarOf(t, file("repositories", "{}")), "docker before 1.10"},
		{"dots", tarOf(t, file("../../etc/x", "")), "has .. in its name"},
		{"dots inside", tarOf(t, file("a/../b", "")), "has .. in its name"},
		{"absolute dots", tarOf(t, file("/../x", "")), "has .. in its name"},

		{"docker: not JSON", tarOf(t, file("manifest.json", "{")), "manifest.json"},
		{"docker: no image", tarOf(t, file("manifest.json", "[]")), "holds no image"},
		{"docker: twice", docker(func(p *parts) { p.last = append(p.last, file("manifest.json", "[]")) }), "manifest.json: invalid archive: it is there twice"},
		{"docker: layer twice", docker(func(p *parts) { p.files = append(p.files, p.files[0]) }), "twice"},
		{"docker: link over file", docker(func(p *parts) {
			p.files = append(p.files, tar.Header{Name: "a/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../b/layer.tar"})
		}), "twice"},
		{"docker: lying diffID", docker(func(p *parts) { p.config.RootFS.DiffIDs[1] = digest.FromString("x") }), "has diffID"},
		{"docker: lying diffID, gzip", docker(func(p *parts) {
			p.files[0].Uname = gzipped(t, []byte(p.files[0].Uname))
			p.config.RootFS.DiffIDs[0] = digest.FromString("x")
		}), "has diffID"},
		{"docker: fewer diffIDs", docker(func(p *parts) { p.config.RootFS.DiffIDs = p.config.RootFS.DiffIDs[:1] }), "config names 1 layers, the manifest 2"},
		{"docker: missing layer", docker(func(p *parts) { p.files = p.files[1:] }), "a/layer.tar is missing"},
		{"docker: missing config", docker(func(p *parts) { p.images[0].Config = "other.json" }), "other.json is missing"},
		{"docker: config elsewhere", docker(func(p *parts) { p.images[0].Config = "../../../etc/passwd" }), "has .. in its name"},
		{"docker: layer elsewhere", docker(func(p *parts) { p.images[0].Layers[0] = "/etc/passwd" }), "etc/passwd is missing"},
		{"docker: link elsewhere", docker(func(p *parts) {
			p.files[0] = tar.Header{Name: "a/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../../etc/passwd"}
		}), ""},
		{"docker: link loop", docker(manyLinks), "too many links"},
		{"docker: layer is a document", docker(func(p *parts) { p.images[0].Layers[0] = "a/VERSION" }), "a/VERSION is no tar"},
		{"docker: bad name", docker(func(p *parts) { p.images[0].RepoTags[0] = "UPPER" }), "invalid image reference"},
		{"docker: damaged gzip layer", docker(func(p *parts) { p.files[0].Uname = gzipped(t, []byte(p.files[0].Uname))[:100] }), "layer"},
		{"docker: huge config", docker(func(p *parts) { p.config.Author = strings.Repeat("x", maxDocument) }), "and is no layer"},
		{"many entries", tarOf(t, slices.Repeat([]tar.Header{{Name: "d/", Typeflag: tar.TypeDir}}, maxEntries+1)...), "root file system"},
		{"much", tarOf(t, func() (all []tar.Header) {
			for i := range 9 {
				all = append(all, file(fmt.Sprint(i), strings.Repeat("x", maxDocument-1)))
			}
			return all
		}()...), "root file system"},

		{"oci: no layout file", oci(func(f map[string]string) { delete(f, "oci-layout") }), "but no oci-layout"},
		{"oci: later layout", oci(func(f map[string]string) { f["oci-layout"] = `{"imageLayoutVersion":"2.0.0"}` }), `"2.0.0"`},
		{"oci: index is no JSON", oci(func(f map[string]string) { f["index.json"] = "x" }), "index.json"},
		{"oci: index is empty", oci(func(f map[string]string) { f["index.json"] = "{}" }), "holds no image"},
		{"oci: manifest missing", oci(func(f map[string]string) { delete(f, manifestOf(f)) }), "is missing"},
		{"oci: manifest changed", oci(func(f map[string]string) { f[manifestOf(f)] += " " }), "its bytes have digest"},
		{"oci: layer missing", oci(func(f map[string]string) { delete(f, largest(f)) }), "layer"},
		{"oci: layer changed", oci(func(f map[string]string) { f[largest(f)] = strings.ToUpper(f[largest(f)]) }), "its bytes have digest"},
		{"oci: layer shorter", oci(func(f map[string]string) { f[largest(f)] = f[largest(f)][:5] }), "its bytes have digest"},
		{"oci: lying size", oci(func(f map[string]string) {
			f["index.json"] = strings.Replace(f["index.json"], `"size":`, `"size":1`, 1)
		}), "and what names it says"},
		{"oci: digest as path", oci(func(f map[string]string) {
			f["index.json"] = strings.Replace(f["index.json"], images["plain"].Desc.Digest.String(), "sha256:../../etc/passwd", 1)
		}), "digest"},
		{"oci: artifact", oci(func(f map[string]string) {
			f["index.json"] = strings.ReplaceAll(f["index.json"], ocispec.MediaTypeImageManifest, "application/x-thing")
		}), "not an image"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openStore(t)
			loaded, err := Load(t.Context(), s, bytes.NewReader(tt.data), LoadOptions{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Load = %v, %v; want %q", loaded, err, tt.want)
			}
			t.Log(err)
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, image.ErrInvalid) {
				t.Errorf("err = %v does not wrap ErrInvalid", err)
			}
			if got := blobsIn(t, s); len(got) > 0 {
				t.Errorf("in the store: %v", got)
			}
			checkStore(t, s)
		})
	}
}

// ociArchive is an image's archive with its files changed.
func ociArchive(t *testing.T, s *store.Store, img Image, edit func(map[string]string)) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := SaveOCI(t.Context(), s, &b, []Image{img}); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			files[h.Name] = string(data)
		}
	}
	edit(files)
	var all []tar.Header
	for name, data := range files {
		all = append(all, file(name, data))
	}
	slices.SortFunc(all, func(a, b tar.Header) int { return strings.Compare(a.Name, b.Name) })
	return tarOf(t, all...)
}

func largest(files map[string]string) string {
	name := ""
	for n, data := range files {
		if len(data) > len(files[name]) {
			name = n
		}
	}
	return name
}

func TestLoadCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := openStore(t)
	if _, err := Load(ctx, s, bytes.NewReader(dockerArchive(t, nil)), LoadOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
	checkStore(t, s)
}

func TestImport(t *testing.T) {
	root := rootLayer(t, "x")
	var first ocispec.Descriptor
	for _, in := range []string{string(root), gzipped(t, root)} {
		s := openStore(t)
		opts := ImportOptions{Source: "-"}
		opts.Config.Config.Env = []string{"A=b"}
		desc, err := Import(t.Context(), s, strings.NewReader(in), opts)
		if err != nil {
			t.Fatal(err)
		}
		checkStore(t, s)
		img := checkImage(t, s, desc)
		if got := img.Config.RootFS.DiffIDs[0]; got != digest.FromBytes(root) {
			t.Errorf("diffID %s", got)
		}
		if first.Digest == "" {
			first = desc
		}
		if desc.Digest != first.Digest || img.Config.History[0].Comment != "Imported from -" || img.Config.Config.Env[0] != "A=b" ||
			!image.SamePlatform(img.Config.Platform, image.HostPlatform()) {
			t.Errorf("%s: %+v", desc.Digest, img.Config)
		}
	}
	for name, in := range map[string]string{
		"empty": "", "empty tar": string(make([]byte, 1024)), "no tar": strings.Repeat("x", 2000),
		"truncated": string(root[:2000]), "truncated gzip": gzipped(t, root)[:50],
	} {
		s := openStore(t)
		if _, err := Import(t.Context(), s, strings.NewReader(in), ImportOptions{Source: "x.tar"}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Log(err)
		}
		if got := blobsIn(t, s); len(got) > 0 {
			t.Errorf("%s: in the store: %v", name, got)
		}
		checkStore(t, s)
	}
}

// statuses keeps what it is told.
type statuses []progress.Status

func (s *statuses) Event(e progress.Event) {
	if e.Status != nil {
		*s = append(*s, *e.Status)
	}
}

func TestImportReports(t *testing.T) {
	in := rootLayer(t, "x")
	var got statuses
	opts := ImportOptions{Source: "dir/a-long-name.tar", Sink: &got}
	if _, err := Import(t.Context(), openStore(t), bytes.NewReader(in), opts); err != nil {
		t.Fatal(err)
	}
	n := int64(len(in))
	want := progress.Status{ID: opts.Source, Action: "loaded", Current: n, Total: n, Bytes: true, Done: true}
	if len(got) == 0 || got[len(got)-1] != want {
		t.Errorf("it reports %+v, want %+v at the end", got, want)
	}
}

func FuzzLoad(f *testing.F) {
	s := openStore(f)
	img := fill(f, s)["plain"]
	var oci, legacy bytes.Buffer
	if err := errors.Join(SaveOCI(context.Background(), s, &oci, []Image{img}), SaveLegacy(context.Background(), s, &legacy, []Image{img})); err != nil {
		f.Fatal(err)
	}
	f.Add(oci.Bytes())
	f.Add(legacy.Bytes())
	f.Add(dockerArchive(f, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := openStore(t)
		loaded, err := Load(t.Context(), s, bytes.NewReader(data), LoadOptions{})
		checkStore(t, s)
		if err != nil {
			if got := blobsIn(t, s); len(got) > 0 {
				t.Errorf("after %v in the store: %v", err, got)
			}
			return
		}
		for _, l := range loaded {
			if err := s.Tag(l.Desc, l.Names...); err != nil {
				t.Errorf("what was loaded can't be tagged: %v", err)
			}
		}
	})
}

func fileIn(t *testing.T, archive []byte, name string) string {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return ""
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == name {
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return string(data)
		}
	}
}
