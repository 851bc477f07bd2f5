// SPDX-License-Identifier: Apache-2.0

// Package archive moves images between the store and files: tar archives of an
// OCI image layout (image-spec, image-layout.md), docker's archives, directories
// with an OCI image layout, and tars of a root file system.
//
// What is written, skopeo, umoci, podman and docker read; what they write, is
// read. An archive that is read is hostile: nothing is ever written under a
// name that it gives, every blob must have its digest and every layer its
// diffID, documents are bounded in size, and nothing enters the store unless
// the whole archive is good.
//
// The package never names images in the store: it returns descriptors and the
// names that an archive gives them.
package archive

import (
	"context"
	"errors"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/image"
	"builder/layer"
	"builder/progress"
)

// ErrInvalid says that an archive can't be read as images.
var ErrInvalid = errors.New("invalid archive")

// Image is an image to be saved.
type Image struct {
	Desc  ocispec.Descriptor // of the manifest or index; its annotations are kept
	Names []string           // whole references, as image.Ref.String; may be empty
	Tag   string             // what an image layout calls an image without names; may be ""
}

// Loaded is an image that is in the store now.
type Loaded struct {
	Desc  ocispec.Descriptor
	Names []string // whole references that the archive gives it; may be empty
	Tags  []string // words alone by which an OCI image layout calls it
}

// LoadOptions is how archives are loaded. The zero value is ready for use.
type LoadOptions struct {
	// Layer says how the plain layers of docker's archives are stored.
	// Layers of an OCI image layout keep their bytes.
	Layer layer.Options

	// Platform, if it is not zero, is the one that is taken of an index. An
	// index that hasn't it is an error.
	Platform image.Platform

	// Sink, if not nil, is told the amounts, as Vertex. The vertex's start
	// and end are the caller's to report.
	Sink   progress.Sink
	Vertex string
}

// annotationName is where containerd, BuildKit and docker keep the whole name
// of an image in an index. The specification's own annotation is, by their
// custom, the tag alone.
const annotationName = "io.containerd.image.name"

// Names of the files in archives.
const (
	layoutFile       = ocispec.ImageLayoutFile
	indexFile        = ocispec.ImageIndexFile
	dockerFile       = "manifest.json"
	repositoriesFile = "repositories"
	blobsDir         = ocispec.ImageBlobsDir
)

// dockerImage is an element of docker's manifest.json. The names of its fields
// are docker's.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// ctxReader ends reading when its context does.
type ctxReader struct {
	ctx context.Context //nolint:containedctx // lives as long as one copy
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}
