// SPDX-License-Identifier: Apache-2.0

package build

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"builder/image"
	"builder/layer"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ImageOptions are a form in which an image is written. The zero value is
// gzip layers and OCI media types.
type ImageOptions struct {
	// Layer says how the layers are written that the build made. Those of
	// the base image are kept as they are, unless ForceCompression says that
	// they get its compression, if they have another one.
	Layer            layer.Options
	ForceCompression bool
	// DockerTypes writes docker's media types rather than OCI's.
	DockerTypes bool
	// KeepNondistributable leaves the media types of base layers that say
	// that registries should not hold them; else they become ordinary ones.
	KeepNondistributable bool
	// Epoch, if not nil, takes the place of the build's. Layer.Epoch and
	// Layer.Time follow from it.
	Epoch *Epoch
	// KeepTimes leaves the times of files in layers as they are, whatever
	// the epoch.
	KeepTimes   bool
	Annotations []Annotation
}

// Epoch is a value of SOURCE_DATE_EPOCH: the time of an image and of all of its
// history that isn't the base image's; nil for none.
type Epoch struct{ Time *time.Time }

// Where an annotation goes.
const (
	OnManifest           = "manifest"            // into the manifest
	OnManifestDescriptor = "manifest-descriptor" // to what names the manifest
	OnIndex              = "index"               // into the index of several platforms
	OnIndexDescriptor    = "index-descriptor"    // to what names the index
)

// Annotation is put into an image.
type Annotation struct {
	Kind       string          // one of the above, "" for OnManifest
	Platform   *image.Platform // of the manifest meant; nil for all
	Key, Value string
}

// Check tells what can't be done in a build with the options.
func (f ImageOptions) Check(opts Options) error {
	if err := f.Layer.Check(); err != nil {
		return err
	}
	platforms := opts.platforms()
	if f.DockerTypes && f.Layer.Compression == layer.EStargz {
		return errors.New("estargz layers need OCI media types")
	}
	for _, a := range f.Annotations {
		onIndex := a.Kind == OnIndex || a.Kind == OnIndexDescriptor
		switch {
		case onIndex && !opts.Multi():
			return fmt.Errorf("annotation %s is for an index, and a build for one platform makes none", a.Key)
		case a.Platform != nil && !slices.ContainsFunc(platforms, func(p image.Platform) bool { return image.SamePlatform(p, *a.Platform) }):
			return fmt.Errorf("annotation %s is for %s, which is not built", a.Key, image.FormatPlatform(*a.Platform))
		case f.DockerTypes && a.Kind != "" && a.Kind != OnManifest:
			return fmt.Errorf("annotation %s is for the %s, which docker's media types have none for", a.Key, a.Kind)
		}
	}
	return nil
}

// annotations are those of a kind. What is for one platform outdoes what is
// for all.
func (f ImageOptions) annotations(kind string, platform *image.Platform) map[string]string {
	all, own := map[string]string{}, map[string]string{}
	for _, a := range f.Annotations {
		switch {
		case a.Kind != kind && (a.Kind != "" || kind != OnManifest):
		case a.Platform == nil || platform == nil:
			all[a.Key] = a.Value
		case image.SamePlatform(*a.Platform, *platform):
			own[a.Key] = a.Value
		}
	}
	maps.Copy(all, own)
	if len(all) == 0 {
		return nil
	}
	return all
}

// mediaTypes are pairs of OCI's and docker's names for one thing.
func mediaTypes() [][2]string {
	return [][2]string{
		{ocispec.MediaTypeImageManifest, image.MediaTypeDockerManifest},
		{ocispec.MediaTypeImageIndex, image.MediaTypeDockerManifestList},
		{ocispec.MediaTypeImageConfig, image.MediaTypeDockerConfig},
		{ocispec.MediaTypeImageLayer, image.MediaTypeDockerLayer},
		{ocispec.MediaTypeImageLayerGzip, image.MediaTypeDockerLayerGzip},
		{ocispec.MediaTypeImageLayerZstd, image.MediaTypeDockerLayer + ".zstd"},
		{ociNondist + ".tar", "application/vnd.docker.image.rootfs.foreign.diff.tar"},
		{ociNondist + ".tar+gzip", image.MediaTypeDockerForeignLayer},
	}
}

// ociNondist begins the media types of layers that registries should not hold.
const ociNondist = "application/vnd.oci.image.layer.nondistributable.v1"

// mediaType is the form's name for what a media type means.
func (f ImageOptions) mediaType(mediaType string) string {
	from, to := 1, 0
	if f.DockerTypes {
		from, to = 0, 1
	}
	for _, pair := range mediaTypes() {
		if pair[from] == mediaType {
			return pair[to]
		}
	}
	return mediaType
}

// layerType is mediaType for a layer of the base image.
func (f ImageOptions) layerType(mediaType string) string {
	if !f.KeepNondistributable {
		oci := ImageOptions{}.mediaType(mediaType)
		for _, suffix := range []string{".tar", ".tar+gzip", ".tar+zstd"} {
			if oci == ociNondist+suffix {
				mediaType = "application/vnd.oci.image.layer.v1" + suffix
			}
		}
	}
	return f.mediaType(mediaType)
}

// layer returns the descriptor of a layer as the manifest has it: without the
// annotations that are nobody's business outside.
func (f ImageOptions) layer(desc ocispec.Descriptor) ocispec.Descriptor {
	annotations := layer.EStargzAnnotations(desc.Annotations)
	if f.DockerTypes {
		annotations = nil
	}
	return ocispec.Descriptor{MediaType: f.layerType(desc.MediaType), Digest: desc.Digest, Size: desc.Size, URLs: desc.URLs, Annotations: annotations}
}
