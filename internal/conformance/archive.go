// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"reflect"
	"slices"
	"time"
)

// Bases reads every image of a base archive. They are what Load takes as its
// second argument.
func Bases(archive string) ([]*Image, error) {
	files, err := readArchive(archive)
	if err != nil {
		return nil, fmt.Errorf("read base images of %q: %w", archive, err)
	}
	var index ociIndex
	if err := files.json("index.json", &index); err != nil {
		return nil, fmt.Errorf("read base images of %q: %w", archive, err)
	}
	var bases []*Image
	for _, d := range index.Manifests {
		images, err := files.images(d)
		if err != nil {
			return nil, fmt.Errorf("read base images of %q: %w", archive, err)
		}
		for _, img := range images {
			img.Base = d.Annotations["org.opencontainers.image.ref.name"]
			if e := img.files["bin/busybox"]; e != nil {
				img.busybox = e.Content
				img.nameBusybox(img.busybox)
			}
			bases = append(bases, img)
		}
	}
	return bases, nil
}

// Load reads an OCI archive of one image, or of one index of images, and
// checks every digest and size in it. The bases are what the corpus builds on.
func Load(archive string, bases []*Image) (*Image, error) {
	img, err := load(archive)
	if err != nil {
		return nil, fmt.Errorf("read image of %q: %w", archive, err)
	}
	for _, i := range append([]*Image{img}, img.Also...) {
		i.relateTo(bases)
	}
	return img, nil
}

// LoadTree reads a tar archive of a file system as an image without config.
func LoadTree(archive string, bases []*Image) (*Image, error) {
	img := &Image{files: map[string]*Entry{}}
	data, err := os.ReadFile(archive)
	if err == nil {
		err = img.apply(data)
	}
	if err != nil {
		return nil, fmt.Errorf("read tree of %q: %w", archive, err)
	}
	img.Digest, img.Layers = digest(data), nil
	img.relateTo(bases)
	return img, nil
}

func load(archive string) (*Image, error) {
	blobs, err := readArchive(archive)
	if err != nil {
		return nil, err
	}
	var layout struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := blobs.json("oci-layout", &layout); err != nil {
		return nil, err
	}
	if layout.Version != "1.0.0" {
		return nil, fmt.Errorf("oci-layout is of version %q", layout.Version)
	}
	var index ociIndex
	if err := blobs.json("index.json", &index); err != nil {
		return nil, err
	}
	if len(index.Manifests) != 1 {
		return nil, fmt.Errorf("%d manifests, not 1", len(index.Manifests))
	}
	root := index.Manifests[0]
	images, err := blobs.images(root)
	if err != nil {
		return nil, err
	}
	if len(images) == 0 {
		return nil, errors.New("an index of no images")
	}
	img := images[0]
	img.Digest, img.Also = root.Digest, images[1:]
	img.annotate("in index.json", root.Annotations)
	return img, nil
}

// images are those of a descriptor: one, or those of an index.
func (a archiveFiles) images(d ociDescriptor) ([]*Image, error) {
	data, err := a.blob(d)
	if err != nil {
		return nil, err
	}
	var index ociIndex
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if len(index.Manifests) == 0 {
		img, err := a.image(d)
		return []*Image{img}, err
	}
	var images []*Image
	for _, m := range index.Manifests {
		img, err := a.image(m)
		if err != nil {
			return nil, fmt.Errorf("image %d of index: %w", len(images), err)
		}
		img.Platform = m.Platform
		img.addMedia(d.MediaType)
		img.annotate("descriptor", m.Annotations)
		img.annotate("index", index.Annotations)
		images = append(images, img)
	}
	return images, nil
}

// annotate keeps annotations, but for those about the archive itself.
func (img *Image) annotate(where string, annotations map[string]string) {
	for k, v := range annotations {
		switch k {
		case "org.opencontainers.image.ref.name", "io.containerd.image.name":
			continue
		case "org.opencontainers.image.created":
			if where == "in index.json" {
				continue
			}
		}
		if img.Annotations == nil {
			img.Annotations = map[string]string{}
		}
		img.Annotations[where+": "+k] = v
	}
}

type ociDescriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
	Platform    map[string]any    `json:"platform"`
}

type ociIndex struct {
	Manifests   []ociDescriptor   `json:"manifests"`
	Annotations map[string]string `json:"annotations"`
}

type ociManifest struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	Config        ociDescriptor   `json:"config"`
	Layers        []ociDescriptor `json:"layers"`

	Annotations map[string]string `json:"annotations"`
}

type ociConfig struct {
	Created      *time.Time     `json:"created"`
	Author       string         `json:"author"`
	Architecture string         `json:"architecture"`
	OS           string         `json:"os"`
	Variant      string         `json:"variant"`
	Config       map[string]any `json:"config"`
	RootFS       struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
	History []struct {
		Created    *time.Time `json:"created"`
		CreatedBy  string     `json:"created_by"`
		Comment    string     `json:"comment"`
		Author     string     `json:"author"`
		EmptyLayer bool       `json:"empty_layer"`
	} `json:"history"`
}

// archiveFiles are the files of an OCI archive by name.
type archiveFiles map[string][]byte

func readArchive(archive string) (archiveFiles, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files := archiveFiles{}
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return nil, err
		}
		files[path.Clean(h.Name)] = data
	}
}

func (a archiveFiles) json(name string, v any) error {
	data, ok := a[name]
	if !ok {
		return fmt.Errorf("no %s", name)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// blob is the checked content of a descriptor.
func (a archiveFiles) blob(d ociDescriptor) ([]byte, error) {
	if len(d.Digest) < len("sha256:") {
		return nil, fmt.Errorf("digest %q", d.Digest)
	}
	data, ok := a["blobs/sha256/"+d.Digest[len("sha256:"):]]
	switch {
	case !ok:
		return nil, fmt.Errorf("blob %s is missing", d.Digest)
	case int64(len(data)) != d.Size:
		return nil, fmt.Errorf("blob %s has %d bytes, not %d", d.Digest, len(data), d.Size)
	case digest(data) != d.Digest:
		return nil, fmt.Errorf("blob %s has the digest %s", d.Digest, digest(data))
	}
	return data, nil
}

func (a archiveFiles) image(d ociDescriptor) (*Image, error) {
	data, err := a.blob(d)
	if err != nil {
		return nil, err
	}
	var m ociManifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if m.SchemaVersion != 2 {
		return nil, fmt.Errorf("manifest has the schema version %d", m.SchemaVersion)
	}
	data, err = a.blob(m.Config)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	var c ociConfig
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	img := c.image()
	img.Digest = d.Digest
	img.annotate("manifest", m.Annotations)
	img.addMedia(d.MediaType, m.MediaType, m.Config.MediaType)
	if len(m.Layers) != len(c.RootFS.DiffIDs) {
		return nil, fmt.Errorf("%d layers and %d diff ids", len(m.Layers), len(c.RootFS.DiffIDs))
	}
	img.files = map[string]*Entry{}
	for i, l := range m.Layers {
		img.addMedia(l.MediaType)
		if err := img.addLayer(a, l, c.RootFS.DiffIDs[i]); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return img, img.countHistory(len(m.Layers))
}

func (c *ociConfig) image() *Image {
	img := &Image{
		Architecture: c.Architecture, OS: c.OS, Variant: c.Variant, Author: c.Author,
		Config: map[string]any{}, History: []History{}, Layers: [][]string{}, diffIDs: c.RootFS.DiffIDs,
	}
	if c.Created != nil {
		img.Created = stamp(*c.Created)
	}
	for k, v := range c.Config {
		if rv := reflect.ValueOf(v); v != nil && !rv.IsZero() && (rv.Kind() != reflect.Slice && rv.Kind() != reflect.Map || rv.Len() > 0) {
			img.Config[k] = v
		}
	}
	for _, h := range c.History {
		e := History{CreatedBy: h.CreatedBy, Comment: h.Comment, Author: h.Author, EmptyLayer: h.EmptyLayer}
		if h.Created != nil {
			e.Created = stamp(*h.Created)
		}
		img.History = append(img.History, e)
	}
	return img
}

// countHistory checks that history and layers fit together.
func (img *Image) countHistory(layers int) error {
	n := 0
	for _, h := range img.History {
		if !h.EmptyLayer {
			n++
		}
	}
	if n != layers {
		return fmt.Errorf("history tells of %d layers, and there are %d", n, layers)
	}
	return nil
}

func (img *Image) addMedia(types ...string) {
	for _, t := range types {
		if t != "" && !slices.Contains(img.Media, t) {
			img.Media = append(img.Media, t)
		}
	}
}

func (img *Image) addLayer(a archiveFiles, d ociDescriptor, diffID string) error {
	data, err := a.blob(d)
	if err != nil {
		return err
	}
	if data, err = decompress(data); err != nil {
		return err
	}
	if digest(data) != diffID {
		return fmt.Errorf("diff id is %s, and the content's digest %s", diffID, digest(data))
	}
	return img.apply(data)
}

// decompress reads gzip, and Zstandard with the program zstd.
func decompress(data []byte) ([]byte, error) {
	switch {
	case bytes.HasPrefix(data, []byte{0x1f, 0x8b}):
		zr, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(zr)
	case bytes.HasPrefix(data, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		cmd := exec.Command("zstd", "-dcq")
		cmd.Stdin = bytes.NewReader(data)
		return cmd.Output()
	}
	return data, nil
}

func digest(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }
