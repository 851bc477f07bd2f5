// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/image"
	"builder/layer"
	"builder/progress"
	"builder/store"
)

// ImportOptions is how a root file system becomes an image.
type ImportOptions struct {
	// Config is what the image's config begins with: what runs in it, its
	// variables and labels. Its platform and layers are set by Import.
	Config   image.Config
	Platform image.Platform // the zero value: this machine's
	Created  *time.Time     // nil: the image doesn't say
	Source   string         // where the tar came from, for the history
	Message  string         // for the history, "": "Imported from" the source
	Layer    layer.Options  // how the layer is stored

	// Sink, if not nil, is told the amounts, as Vertex. The vertex's start
	// and end are the caller's to report.
	Sink   progress.Sink
	Vertex string
}

// Import makes an image of one layer of the tar of a root file system, plain
// or compressed, and returns its descriptor. The same tar and options give the
// same image, however the tar was compressed. A tar that is damaged or ends
// early leaves the store as it was, and the error wraps [ErrInvalid].
func Import(ctx context.Context, s *store.Store, r io.Reader, opts ImportOptions) (ocispec.Descriptor, error) {
	desc, err := importImage(ctx, s, r, opts)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("import %s: %w", opts.Source, readError(ctx, err))
	}
	return desc, nil
}

func importImage(ctx context.Context, s *store.Store, r io.Reader, opts ImportOptions) (ocispec.Descriptor, error) {
	l, err := importLayer(ctx, s, r, opts)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	config := opts.Config
	config.Platform = opts.Platform
	if config.OS == "" {
		config.Platform = image.HostPlatform()
	}
	config.Created = opts.Created
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.DiffID}}
	comment := opts.Message
	if comment == "" {
		comment = "Imported from " + opts.Source
	}
	config.History = []ocispec.History{{Created: opts.Created, Comment: comment}}
	configDesc, err := putJSON(s, ocispec.MediaTypeImageConfig, config)
	if err != nil {
		return configDesc, err
	}
	return putJSON(s, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: configDesc, Layers: []ocispec.Descriptor{l.Blob},
	})
}

func putJSON(s *store.Store, mediaType string, doc any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(doc)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return s.PutBlob(mediaType, data)
}

// importLayer stores the layer's blob, and reads the tar beside to see that it
// is one.
func importLayer(ctx context.Context, s *store.Store, r io.Reader, opts ImportOptions) (layer.Layer, error) {
	report := reporter{opts.Sink, opts.Vertex}
	counted := report.reader(ctxReader{ctx, r}, opts.Source, 0)
	plain, _, err := layer.Decompress(counted)
	if err != nil {
		return layer.Layer{}, err
	}
	defer plain.Close()
	w, err := s.NewBlob()
	if err != nil {
		return layer.Layer{}, err
	}
	defer w.Abort()

	pr, pw := io.Pipe()
	checked := make(chan error, 1)
	go func() {
		err := checkTar(pr)
		pr.CloseWithError(err)
		checked <- err
	}()
	l, err := layer.Compress(ctx, w.File(), io.TeeReader(plain, pw), opts.Layer)
	pw.CloseWithError(err) // nil is the end of the tar
	if checkErr := <-checked; err == nil || errors.Is(err, checkErr) {
		err = checkErr
	}
	if err != nil {
		return l, err
	}
	if c, ok := counted.(*reportReader); ok {
		report.amount(opts.Source, "loaded", c.n, c.n)
	}
	return l, w.CommitFile(l.Blob)
}

// checkTar reads a stream that must be a tar with something in it, to its end.
func checkTar(r io.Reader) error {
	t := tar.NewReader(r)
	for n := 0; ; n++ {
		_, err := t.Next()
		if errors.Is(err, io.EOF) && n == 0 {
			return fmt.Errorf("%w: it is an empty tar", ErrInvalid)
		}
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return err
		}
	}
}
