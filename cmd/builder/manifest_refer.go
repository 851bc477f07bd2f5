// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"builder/image"
	"builder/progress"
	"builder/store"

	"github.com/docker/go-units"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// referrerRow is what a --format of manifest referrers can show.
type referrerRow struct {
	Digest       string
	ArtifactType string
	Size         string
	Created      string
	MediaType    string
	Annotations  string
}

// referrers lists what refers to an image at its registry.
func (m manifestCommand) referrers(ctx context.Context) error {
	fs := flags("manifest")
	artifactType := fs.String("artifact-type", "", "only those of a media `TYPE`, such as application/spdx+json")
	format := fs.String("format", "", "`table`, json, or a Go template")
	quiet := fs.BoolP("quiet", "q", false, "show digests alone")
	m.trustFlags(fs)
	words, err := m.e.parse(fs, m.args, 1, 1)
	if err != nil {
		return err
	}
	ref, err := image.ParseRef(words[0])
	if err != nil {
		return err
	}
	client, err := m.client(ref)
	if err != nil {
		return err
	}
	list, err := client.Referrers(ctx, ref, *artifactType)
	if err != nil {
		return err
	}
	var rows []any
	for _, d := range list {
		rows = append(rows, referrerRow{
			Digest: d.Digest.String(), ArtifactType: d.ArtifactType, MediaType: d.MediaType,
			Size:        units.HumanSizeWithPrecision(float64(d.Size), 3),
			Created:     d.Annotations[ocispec.AnnotationCreated],
			Annotations: labelText(d.Annotations),
		})
	}
	if *quiet {
		*format = "{{.Digest}}"
	}
	t := table{
		format: *format, header: referrerRow{"DIGEST", "TYPE", "SIZE", "CREATED", "MEDIA TYPE", "ANNOTATIONS"},
		columns: "{{.Digest}}\t{{.ArtifactType}}\t{{.Created}}",
	}
	return t.print(m.e.stdout, rows)
}

// attach sends files to an image's registry, as a manifest that refers to the
// image.
func (m manifestCommand) attach(ctx context.Context) error {
	fs := flags("manifest")
	artifactType := fs.String("artifact-type", "", "media `TYPE` of the whole; needed")
	annotations := fs.StringArray("annotation", nil, "set `KEY=VALUE` on the manifest")
	quiet := fs.BoolP("quiet", "q", false, "show only the digest")
	m.trustFlags(fs)
	words, err := m.e.parse(fs, m.args, 2, -1)
	if err != nil {
		return err
	}
	if !strings.Contains(*artifactType, "/") {
		return &usageError{msg: fmt.Sprintf("manifest attach: --artifact-type %q: want a media type, such as application/spdx+json", *artifactType)}
	}
	set, err := pairs(*annotations)
	if err != nil {
		return err
	}
	ref, err := image.ParseRef(words[0])
	if err != nil {
		return err
	}
	s, err := m.e.store()
	if err != nil {
		return err
	}
	client, err := m.client(ref)
	if err != nil {
		return err
	}
	created, err := m.e.created()
	if err != nil {
		return err
	}
	doc := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: *artifactType,
		Annotations: merged(map[string]string{ocispec.AnnotationCreated: created.Format(time.RFC3339)}, set),
	}
	if doc.Config, err = s.PutBlob(ocispec.MediaTypeEmptyJSON, ocispec.DescriptorEmptyJSON.Data); err != nil {
		return err
	}
	for _, w := range words[1:] {
		d, err := putFile(s, w)
		if err != nil {
			return err
		}
		doc.Layers = append(doc.Layers, d)
	}
	vertex := "attach to " + ref.Familiar()
	mode := "auto"
	if *quiet {
		mode = "quiet"
	}
	done, sink, err := m.e.vertex(mode, vertex)
	if err != nil {
		return err
	}
	desc, err := client.Attach(ctx, s, ref, doc, sink, vertex)
	if err = done(progress.Done{Err: err, Result: desc.Digest}); err != nil {
		return err
	}
	_, err = fmt.Fprintln(m.e.stdout, desc.Digest)
	return err
}

// putFile stores a FILE[:TYPE] as a blob, with its name as other tools keep it.
func putFile(s *store.Store, word string) (d ocispec.Descriptor, err error) {
	name, mediaType := word, ""
	if _, err := os.Stat(word); err != nil {
		if i := strings.LastIndexByte(word, ':'); i > 0 && strings.Contains(word[i:], "/") {
			name, mediaType = word[:i], word[i+1:]
		}
	}
	f, err := os.Open(name)
	if err != nil {
		return d, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return d, fmt.Errorf("attach %s: it is no regular file", name)
	}
	w, err := s.NewBlob()
	if err != nil {
		return d, err
	}
	if _, err := io.Copy(w, f); err != nil {
		w.Abort()
		return d, fmt.Errorf("attach %s: %w", name, err)
	}
	return w.Commit(ocispec.Descriptor{
		MediaType:   cmp.Or(mediaType, "application/octet-stream"),
		Annotations: map[string]string{ocispec.AnnotationTitle: filepath.Base(name)},
	})
}
