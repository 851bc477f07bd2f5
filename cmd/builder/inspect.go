// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/template"
	"time"

	"builder/image"
	"builder/network"
	"builder/store"
	"builder/supervisor"
	"builder/volume"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// inspected is what inspect shows of an image. The names are docker's.
type inspected struct {
	ID           string `json:"Id"`
	RepoTags     []string
	RepoDigests  []string
	Comment      string
	Created      string
	Author       string
	Architecture string
	Variant      string `json:",omitempty"`
	Os           string
	OsVersion    string `json:",omitempty"`
	Size         int64
	Parent       string // docker's, of images that its old builder has made
	GraphDriver  inspectedGraph
	RootFS       inspectedRootFS
	Metadata     inspectedMetadata
	Descriptor   ocispec.Descriptor
	Config       dockerspec.DockerOCIImageConfig
	History      []ocispec.History
}

type inspectedRootFS struct {
	Type   string
	Layers []digest.Digest
}

type inspectedMetadata struct {
	LastTagTime time.Time
}

func runInspect(ctx context.Context, e *env, args []string) error {
	fs := flags("inspect")
	format := fs.StringP("format", "f", "", "a Go template, or `json`")
	platform := fs.String("platform", "", platformUsage)
	kind := fs.String("type", "", "what to inspect: `container|image|network|volume` (default whatever has the name, in this order)")
	size := fs.BoolP("size", "s", false, "show how much a container has written too, and its size with the image")
	names, err := e.parse(fs, args, 1, -1)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	i := inspector{e: e, s: s, records: supervisor.NewRecords(s), platform: *platform, size: *size}
	found := []any{}
	var errs []error
	for _, name := range names {
		o, err := i.find(ctx, *kind, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found = append(found, o)
	}
	return errors.Join(append([]error{printObjects(e.stdout, *format, found)}, errs...)...)
}

// inspector finds what a name means.
type inspector struct {
	e        *env
	s        *store.Store
	records  supervisor.Records
	platform string
	size     bool
}

func (i inspector) find(ctx context.Context, kind, name string) (any, error) {
	kinds := []struct {
		name    string
		missing error
		find    func() (any, error)
	}{
		{"container", supervisor.ErrNotFound, func() (any, error) {
			c, err := i.e.find(ctx, i.records, name)
			if err != nil {
				return nil, err
			}
			in := inspectContainer(i.records, c)
			if !i.size {
				return in, nil
			}
			sizes, err := newContainerSizes(i.s)
			if err != nil {
				return nil, err
			}
			written, whole, err := sizes.of(ctx, c.Config)
			in.SizeRw, in.SizeRootFs = &written, &whole
			return in, err
		}},
		{"image", store.ErrNotFound, func() (any, error) { return inspect(i.s, name, i.platform) }},
		{"network", network.ErrNotFound, func() (any, error) {
			net, err := findNetwork(i.records.Networks(), name)
			if err != nil {
				return nil, err
			}
			return inspectNetwork(i.records, net)
		}},
		{"volume", volume.ErrNotFound, func() (any, error) { return inspectVolume(i.records, name) }},
	}
	known := false
	var missing error
	for _, k := range kinds {
		if kind != "" && kind != k.name {
			continue
		}
		known = true
		if kind == "" && i.platform != "" && k.name == "container" {
			continue
		}
		o, err := k.find()
		if err == nil || !errors.Is(err, k.missing) {
			return o, err
		}
		if missing == nil || k.name == "image" {
			missing = err
		}
	}
	if !known {
		return nil, &usageError{msg: fmt.Sprintf("inspect: --type %q: there are container, image, network and volume", kind)}
	}
	if kind == "" && i.platform == "" {
		return nil, fmt.Errorf("no such container, image, network or volume: %s", name)
	}
	return nil, missing
}

// executeOn executes a template on the fields of an object or, where it doesn't
// fit them, on what is printed without a template, as docker does: there ID is
// Id.
func executeOn(tmpl *template.Template, w io.Writer, object any) error {
	var buf bytes.Buffer
	first := tmpl.Execute(&buf, object)
	if first == nil {
		_, err := buf.WriteTo(w)
		return err
	}
	data, err := json.Marshal(object)
	if err != nil {
		return err
	}
	var raw map[string]any
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber() // a size stays the number it is
	if err := dec.Decode(&raw); err != nil {
		return err
	}
	buf.Reset()
	if tmpl.Option("missingkey=error").Execute(&buf, raw) != nil {
		return first
	}
	_, err = buf.WriteTo(w)
	return err
}

// inspect tells everything about the image that a name, a digest or an ID
// means, of the platform if one is given.
func inspect(s *store.Store, name, platform string) (inspected, error) {
	entry, img, err := imageFor(s, name, platform)
	if err != nil {
		return inspected{}, err
	}
	entries, err := s.Entries()
	if err != nil {
		return inspected{}, err
	}
	i := inspected{
		ID: img.ID().String(), RepoTags: []string{}, RepoDigests: []string{},
		Author: img.Config.Author, Architecture: img.Config.Architecture, Variant: img.Config.Variant,
		Os: img.Config.OS, OsVersion: img.Config.OSVersion, Size: blobSize(img),
		GraphDriver: inspectedGraph{Name: "overlayfs"},
		RootFS:      inspectedRootFS{Type: img.Config.RootFS.Type, Layers: img.Config.RootFS.DiffIDs},
		Descriptor:  entry.Desc, Config: img.Config.Config, History: img.Config.History,
	}
	if platform != "" {
		i.Descriptor = img.Desc
	}
	if img.Config.Created != nil {
		i.Created = img.Config.Created.Format(time.RFC3339Nano)
	}
	if n := len(img.Config.History); n > 0 {
		i.Comment = img.Config.History[n-1].Comment
	}
	for _, other := range entries {
		if other.Desc.Digest != entry.Desc.Digest || other.Name == "" {
			continue
		}
		i.addName(other)
	}
	return i, nil
}

func (i *inspected) addName(e store.Entry) {
	ref, err := image.ParseRef(e.Name)
	if err != nil {
		return
	}
	if ref.Tag != "" {
		tagged := ref
		tagged.Digest = ""
		i.RepoTags = append(i.RepoTags, tagged.Familiar())
	}
	if d := ref.FamiliarName() + "@" + e.Desc.Digest.String(); !slices.Contains(i.RepoDigests, d) {
		i.RepoDigests = append(i.RepoDigests, d)
	}
}
