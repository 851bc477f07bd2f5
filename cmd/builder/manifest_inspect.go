// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"builder/image"
	"builder/registry"
	"builder/store"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// manifestDetail is what manifest inspect --verbose shows of a manifest. The
// names are docker's.
type manifestDetail struct {
	Ref              string
	Descriptor       ocispec.Descriptor
	Raw              []byte
	SchemaV2Manifest json.RawMessage `json:",omitempty"` // of docker's media type
	OCIManifest      json.RawMessage `json:",omitempty"`
}

// inspect shows the document that a name means, or the one of an image in a
// list: what the store has, or else the registry.
func (m manifestCommand) inspect(ctx context.Context) error {
	fs := flags("manifest")
	verbose := fs.BoolP("verbose", "v", false, "show each image's manifest, with its descriptor")
	m.trustFlags(fs)
	words, err := m.e.parse(fs, m.args, 1, 2)
	if err != nil {
		return err
	}
	s, err := m.e.store()
	if err != nil {
		return err
	}
	d := documents{manifestCommand: m, store: s}
	desc, data, err := d.root(ctx, words[0])
	if err == nil && len(words) > 1 {
		desc, data, err = d.inList(ctx, words)
	}
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	if *verbose {
		if data, err = d.verbose(ctx, desc, data); err != nil {
			return err
		}
	}
	if err := json.Indent(&buf, data, "", "    "); err != nil {
		return fmt.Errorf("manifest of %s: %w", words[0], err)
	}
	_, err = fmt.Fprintln(m.e.stdout, buf.String())
	return err
}

// documents reads the documents of a name, none of which it stores.
type documents struct {
	manifestCommand
	store  *store.Store
	ref    image.Ref
	client *registry.Client
}

// root is what a name means.
func (d *documents) root(ctx context.Context, word string) (ocispec.Descriptor, []byte, error) {
	d.ref, _ = image.ParseRef(word)
	entry, err := d.store.Resolve(word)
	if err == nil {
		data, err := d.store.ReadBlob(entry.Desc, image.MaxManifestSize)
		return entry.Desc, data, err
	}
	if !errors.Is(err, store.ErrNotFound) {
		return entry.Desc, nil, err
	}
	if d.ref, err = image.ParseRef(word); err != nil {
		return entry.Desc, nil, err
	}
	return d.fetch(ctx, d.ref)
}

func (d *documents) fetch(ctx context.Context, ref image.Ref) (desc ocispec.Descriptor, data []byte, err error) {
	if d.client == nil {
		if d.client, err = d.manifestCommand.client(ref); err != nil {
			return desc, nil, err
		}
	}
	return d.client.Document(ctx, ref)
}

// get is the document of a descriptor of what root returned.
func (d *documents) get(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	data, err := d.store.ReadBlob(desc, image.MaxManifestSize)
	if !errors.Is(err, store.ErrNotFound) {
		return data, err
	}
	ref := d.ref
	ref.Digest = desc.Digest
	_, data, err = d.fetch(ctx, ref)
	return data, err
}

// inList is the manifest that a list has of an image.
func (d *documents) inList(ctx context.Context, words []string) (ocispec.Descriptor, []byte, error) {
	list, err := openList(d.store, words[0])
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	desc, err := list.entry(words[1])
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	data, err := d.get(ctx, *desc)
	return *desc, data, err
}

// verbose is the details of a manifest, or of every one of an index.
func (d *documents) verbose(ctx context.Context, desc ocispec.Descriptor, data []byte) ([]byte, error) {
	if !image.IsIndex(desc.MediaType) {
		return json.Marshal(d.detail(desc, data))
	}
	idx, err := image.ParseIndex(data)
	if err != nil {
		return nil, err
	}
	details := []manifestDetail{}
	for _, one := range idx.Manifests {
		if !image.IsManifest(one.MediaType) {
			return nil, fmt.Errorf("manifest %s is a %q, not an image's", one.Digest, one.MediaType)
		}
		data, err := d.get(ctx, one)
		if err != nil {
			return nil, err
		}
		details = append(details, d.detail(one, data))
	}
	return json.Marshal(details)
}

func (d *documents) detail(desc ocispec.Descriptor, data []byte) manifestDetail {
	out := manifestDetail{Ref: desc.Digest.String(), Descriptor: desc, Raw: data}
	if d.ref.Repository != "" {
		ref := d.ref
		ref.Digest = desc.Digest
		out.Ref = ref.String()
	}
	if desc.MediaType == image.MediaTypeDockerManifest {
		out.SchemaV2Manifest = data
	} else {
		out.OCIManifest = data
	}
	return out
}
