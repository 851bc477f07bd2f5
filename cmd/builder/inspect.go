// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"builder/image"
	"builder/store"

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

func runInspect(_ context.Context, e *env, args []string) error {
	fs := flags("inspect")
	format := fs.StringP("format", "f", "", "a Go template, or `json`")
	kind := fs.String("type", "image", "what to inspect: `image`")
	fs.BoolP("size", "s", false, "show sizes (they always are)")
	names, err := e.parse(fs, args, 1, -1)
	if err != nil {
		return err
	}
	if *kind != "image" {
		return &usageError{msg: fmt.Sprintf("inspect: --type %q: only images can be inspected", *kind)}
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	found := []inspected{}
	var errs []error
	for _, name := range names {
		i, err := inspect(s, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found = append(found, i)
	}
	return errors.Join(append([]error{e.printInspected(*format, found)}, errs...)...)
}

func (e *env) printInspected(format string, found []inspected) error {
	var buf bytes.Buffer
	switch format {
	case "":
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "    ")
		if err := enc.Encode(found); err != nil {
			return err
		}
	case "json":
		text, err := toJSON(found)
		if err != nil {
			return err
		}
		buf.WriteString(text + "\n")
	default:
		tmpl, err := parseTemplate(format)
		if err != nil {
			return err
		}
		for _, i := range found {
			if err := tmpl.Execute(&buf, i); err != nil {
				return &usageError{msg: fmt.Sprintf("inspect: --format: %v", err)}
			}
			buf.WriteByte('\n')
		}
	}
	_, err := buf.WriteTo(e.stdout)
	return err
}

// inspect tells everything about the image that a name, a digest or an ID
// means.
func inspect(s *store.Store, name string) (inspected, error) {
	entry, err := s.Resolve(name)
	if err != nil {
		return inspected{}, err
	}
	img, err := localImage(s, entry.Desc)
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
		RootFS:     inspectedRootFS{Type: img.Config.RootFS.Type, Layers: img.Config.RootFS.DiffIDs},
		Descriptor: entry.Desc, Config: img.Config.Config, History: img.Config.History,
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
