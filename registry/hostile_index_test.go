// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/image"
)

// TestHostileIndexes pulls what is no image, or an index that leads nowhere, in
// a circle, or to too much: an error tells so, nothing is stored, and few
// requests are made.
func TestHostileIndexes(t *testing.T) {
	host := image.HostPlatform()
	platform := &host
	entry := func(mediaType string, of []byte) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(of), Size: int64(len(of)), Platform: platform}
	}
	index := func(entries ...ocispec.Descriptor) []byte {
		return mustJSON(t, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries})
	}
	inner := index(entry(ocispec.MediaTypeImageManifest, []byte("{}")))
	many := make([]ocispec.Descriptor, 100_000)
	for i := range many {
		many[i] = entry(ocispec.MediaTypeImageManifest, fmt.Append(nil, i))
	}
	layers := make([]ocispec.Descriptor, 20_000)
	for i := range layers {
		layers[i] = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString(fmt.Sprint(i)), Size: 1}
	}
	manifest := func(m ocispec.Manifest) []byte {
		m.Versioned, m.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageManifest
		return mustJSON(t, m)
	}
	config := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromString("c"), Size: 1}
	other := image.Platform{OS: "plan9", Architecture: "mips"}
	for _, c := range []struct {
		name, mediaType string
		data            []byte
		blobs           map[digest.Digest][]byte
		want            string
	}{
		{"index of an index", ocispec.MediaTypeImageIndex, index(entry(ocispec.MediaTypeImageIndex, inner)), map[digest.Digest][]byte{digest.FromBytes(inner): inner}, "index holds a"},
		{"index of a config", ocispec.MediaTypeImageIndex, index(entry(ocispec.MediaTypeImageConfig, inner)), nil, "index holds a"},
		{"empty index", ocispec.MediaTypeImageIndex, index(), nil, "not made for"},
		{"other platforms", ocispec.MediaTypeImageIndex, index(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1, Platform: &other}), nil, "only for plan9/mips"},
		{"missing manifest", ocispec.MediaTypeImageIndex, index(entry(ocispec.MediaTypeImageManifest, []byte("gone"))), nil, "not found"},
		{"lying entry size", ocispec.MediaTypeImageIndex, index(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(inner), Size: 1 << 60, Platform: platform}), nil, "index holds a"},
		{"100,000 entries", ocispec.MediaTypeImageIndex, index(many...), nil, "manifest of more than"},
		{"20,000 layers", ocispec.MediaTypeImageManifest, manifest(ocispec.Manifest{Config: config, Layers: layers}), nil, "at most 500"},
		{"huge layer", ocispec.MediaTypeImageManifest, manifest(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("l"), Size: 1 << 62}}}), nil, "config"},
		{"index that is a manifest too", ocispec.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[],"layers":[]}`), nil, "another kind of document"},
		{"unknown media type", "application/vnd.example.thing+json", []byte(`{"schemaVersion":2}`), nil, "no"},
		{"no JSON", ocispec.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[`), nil, ""},
		{"null", ocispec.MediaTypeImageManifest, []byte(`null`), nil, ""},
		{"deep", ocispec.MediaTypeImageIndex, []byte(strings.Repeat(`{"manifests":[`, 20_000)), nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			requests := 0
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests++
				data, mediaType := c.data, c.mediaType
				if _, of, ok := strings.Cut(r.URL.Path, "sha256:"); ok {
					if data, ok = c.blobs[digest.Digest("sha256:"+of)]; !ok {
						http.NotFound(w, r)
						return
					}
					mediaType = ocispec.MediaTypeImageIndex
				}
				w.Header().Set("Content-Type", mediaType)
				w.Header().Set("Docker-Content-Digest", digest.FromBytes(data).String())
				w.Write(data)
			}))
			defer srv.Close()
			s := openStore(t)
			_, err := testClient().Pull(t.Context(), s, mustRef(t, strings.TrimPrefix(srv.URL, "http://")+"/a:1"), image.Platform{}, nil, "")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%.300v, want %q", err, c.want)
			}
			checkStore(t, s)
			if left := blobsIn(t, s); len(left) != 0 {
				t.Errorf("stored: %v", left)
			}
			if requests > 12 {
				t.Errorf("%d requests", requests)
			}
		})
	}
}
