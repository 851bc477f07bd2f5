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
		img, err := files.image(d)
		if err != nil {
			return nil, fmt.Errorf("read base images of %q: %w", archive, err)
		}
		img.Base = d.Annotations["org.opencontainers.image.ref.name"]
		if e := img.files["bin/busybox"]; e != nil {
			img.busybox = e.Content
			img.nameBusybox(img.busybox)
		}
		bases = append(bases, img)
	}
	return bases, nil
}

// Load reads an OCI archive of one image and checks every digest and size in
// it. The bases are what the corpus builds on.
func Load(archive string, bases []*Image) (*Image, error) {
	img, err := load(archive)
	if err != nil {
		return nil, fmt.Errorf("read image of %q: %w", archive, err)
	}
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
	return blobs.image(index.Manifests[0])
}

type ociDescriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
}

type ociIndex struct {
	Manifests []ociDescriptor `json:"manifests"`
}

type ociManifest struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	Config        ociDescriptor   `json:"config"`
	Layers        []ociDescriptor `json:"layers"`
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
	if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		zr, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return err
		}
		if data, err = io.ReadAll(zr); err != nil {
			return err
		}
	}
	if digest(data) != diffID {
		return fmt.Errorf("diff id is %s, and the content's digest %s", diffID, digest(data))
	}
	return img.apply(data)
}

func digest(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }
