// SPDX-License-Identifier: Apache-2.0

package remotecache

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/image"
)

// Writer gathers what a cache is made of. The zero value is ready for use. The
// same calls in the same order give the same bytes.
type Writer struct {
	config Config
	blobs  []ocispec.Descriptor // of layers, each once
	chains map[string]int       // layers with all below them, by their blobs
	seen   map[string]int       // records by what they are
}

// Add adds a record and returns its index. inputs are, for each thing that the
// step is done to, links to records; result are the layers that it left, nil
// if the cache doesn't have them. Of a record that is there already nothing
// changes, but that it gets a result if it has none.
func (w *Writer) Add(d digest.Digest, inputs [][]Input, result *Layers) int {
	if w.seen == nil {
		w.seen, w.chains = map[string]int{}, map[string]int{}
	}
	name := fmt.Sprint(d, inputs)
	i, ok := w.seen[name]
	if !ok {
		i = len(w.config.Records)
		w.seen[name] = i
		w.config.Records = append(w.config.Records, Record{Digest: d, Inputs: inputs})
	}
	if r := &w.config.Records[i]; result != nil && len(result.Blobs) > 0 && len(r.Results) == 0 {
		r.Results = []Result{{Layer: w.chain(*result), Created: result.Created}}
	}
	return i
}

// chain adds layers and returns the index of the topmost.
func (w *Writer) chain(l Layers) int {
	at, name := -1, ""
	for i, blob := range l.Blobs {
		name += blob.Digest.String()
		known, ok := w.chains[name]
		if !ok {
			known = len(w.config.Layers)
			w.chains[name] = known
			w.config.Layers = append(w.config.Layers, Layer{Blob: blob.Digest, Parent: at})
			w.blob(blob, l.DiffIDs[i], l.Created)
		}
		at = known
	}
	return at
}

func (w *Writer) blob(desc ocispec.Descriptor, diffID digest.Digest, created time.Time) {
	if slices.ContainsFunc(w.blobs, func(have ocispec.Descriptor) bool { return have.Digest == desc.Digest }) {
		return
	}
	annotations := map[string]string{annotationDiffID: diffID.String()}
	if !created.IsZero() {
		annotations[annotationCreated] = created.UTC().Format(time.RFC3339Nano)
	}
	w.blobs = append(w.blobs, ocispec.Descriptor{MediaType: ociLayerType(desc.MediaType), Digest: desc.Digest, Size: desc.Size, Annotations: annotations})
}

// ociLayerType is OCI's name for what a layer's media type says.
func ociLayerType(mediaType string) string {
	switch mediaType {
	case image.MediaTypeDockerLayer:
		return ocispec.MediaTypeImageLayer
	case image.MediaTypeDockerLayerGzip, image.MediaTypeDockerForeignLayer:
		return ocispec.MediaTypeImageLayerGzip
	case image.MediaTypeDockerLayer + ".zstd":
		return ocispec.MediaTypeImageLayerZstd
	}
	return mediaType
}

// Blobs are the layers of all results, each once.
func (w *Writer) Blobs() []ocispec.Descriptor { return w.blobs }

// Config is the graph as the bytes of a [Config].
func (w *Writer) Config() ([]byte, error) { return json.Marshal(w.config) }

// Inline is the graph as it is kept in the config of an image that has these
// layers: the records alone, with the results that are the image's layers up
// to one of them.
func (w *Writer) Inline(layers []ocispec.Descriptor) ([]byte, error) {
	index := map[int]int{} // of our layers in the image's
	at := -1
	name := ""
	for i, blob := range layers {
		name += blob.Digest.String()
		ours, ok := w.chains[name]
		if !ok || w.config.Layers[ours].Parent != at {
			break
		}
		index[ours], at = i, ours
	}
	records := slices.Clone(w.config.Records)
	for i, r := range records {
		records[i].Results = nil
		for _, res := range r.Results {
			if l, ok := index[res.Layer]; ok {
				records[i].Results = append(records[i].Results, Result{Layer: l, Created: res.Created})
			}
		}
	}
	return json.Marshal(records)
}

// Form is how a cache's manifest is written.
type Form struct {
	// Index makes an index of layers and config, as older registries
	// don't take other config types in a manifest.
	Index bool
	// DockerTypes makes it a manifest list of docker's. Only with Index.
	DockerTypes bool
}

// Manifest is the document that names a cache's config and layers.
func Manifest(config ocispec.Descriptor, layers []ocispec.Descriptor, form Form) (mediaType string, data []byte, err error) {
	if !form.Index {
		mediaType = ocispec.MediaTypeImageManifest
		data, err = json.Marshal(ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaType, Config: config, Layers: layers,
		})
		return mediaType, data, err
	}
	mediaType = ocispec.MediaTypeImageIndex
	manifests := append(slices.Clone(layers), config)
	if form.DockerTypes {
		mediaType = image.MediaTypeDockerManifestList
		for i, l := range manifests[:len(layers)] {
			switch l.MediaType {
			case ocispec.MediaTypeImageLayer:
				manifests[i].MediaType = image.MediaTypeDockerLayer
			case ocispec.MediaTypeImageLayerGzip:
				manifests[i].MediaType = image.MediaTypeDockerLayerGzip
			}
		}
	}
	data, err = json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaType, Manifests: manifests,
	})
	return mediaType, data, err
}
