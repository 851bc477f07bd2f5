// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/image"
	"builder/progress"
	"builder/store"
)

func openStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// testClient is a client that loses no time.
func testClient() *Client { return New(testOptions()) }

func testOptions() Options {
	return Options{Delay: time.Millisecond, Stall: 2 * time.Second, Config: &ConfigFiles{}, CertDirs: []string{}}
}

func blobsIn(t *testing.T, s *store.Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.Path("blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// checkStore fails the test if a blob isn't what its name says, or anything
// temporary is left.
func checkStore(t *testing.T, s *store.Store) {
	t.Helper()
	for _, name := range blobsIn(t, s) {
		data, err := os.ReadFile(s.Path("blobs", "sha256", name))
		if err != nil {
			t.Fatal(err)
		}
		if got := digest.FromBytes(data).Encoded(); got != name {
			t.Errorf("blob %s has digest %s", name, got)
		}
	}
	left, err := filepath.Glob(s.Path("tmp", "*", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left in tmp: %v %v", left, err)
	}
}

// checkImage fails the test unless the image is in the store as a whole.
func checkImage(t *testing.T, s *store.Store, desc ocispec.Descriptor, platform image.Platform) image.Image {
	t.Helper()
	checkStore(t, s)
	img, err := s.Image(desc, platform)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range img.Manifest.Layers {
		if !s.Has(l) {
			t.Errorf("layer %s is missing", l.Digest)
		}
	}
	return img
}

func TestPull(t *testing.T) {
	srv := startServer(t, "")
	ociDesc, _ := srv.push(t, "team/oci", "1", spec{seed: 1, layers: 3, size: 100 << 10})
	dockerDesc, _ := srv.push(t, "docker", "latest", spec{seed: 2, layers: 2, size: 10, docker: true})
	emptyDesc, _ := srv.push(t, "empty", "latest", spec{seed: 3})
	for _, tt := range []struct {
		name string
		ref  string
		want ocispec.Descriptor
	}{
		{"oci by tag", "team/oci:1", ociDesc},
		{"oci by digest", "team/oci@" + ociDesc.Digest.String(), ociDesc},
		{"oci by tag and digest", "team/oci:other@" + ociDesc.Digest.String(), ociDesc},
		{"docker types", "docker", dockerDesc},
		{"no layers", "empty", emptyDesc},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, c := openStore(t), testClient()
			ref := srv.ref(t, tt.ref)
			resolved, err := c.Resolve(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			desc, err := c.Pull(t.Context(), s, ref, image.Platform{}, nil, "")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, desc); diff != "" {
				t.Errorf("Pull: (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, resolved); diff != "" {
				t.Errorf("Resolve: (-want +got)\n%s", diff)
			}
			checkImage(t, s, desc, image.HostPlatform())
			entries, err := s.Entries()
			if err != nil || len(entries) != 0 {
				t.Errorf("Pull named something: %v %v", entries, err)
			}
		})
	}
}

func pushIndex(t *testing.T, srv *server, repo, tag string, host image.Platform) (index, own, foreign ocispec.Descriptor) {
	t.Helper()
	other := image.Platform{OS: "linux", Architecture: "s390x"}
	own, _ = srv.push(t, repo, "", spec{seed: 10, layers: 2, size: 1000, platform: host})
	foreign, _ = srv.push(t, repo, "", spec{seed: 11, layers: 2, size: 1000, platform: other})
	attestation := own
	attestation.Platform = &image.Platform{OS: "unknown", Architecture: "unknown"}
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	own.Platform, foreign.Platform = &host, &other
	index = srv.pushManifest(t, repo, tag, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{attestation, foreign, own},
	})
	return index, own, foreign
}

func TestPullIndex(t *testing.T) {
	srv := startServer(t, "")
	host := image.HostPlatform()
	index, own, foreign := pushIndex(t, srv, "multi", "1", host)
	tests := []struct {
		name     string
		platform image.Platform
		want     ocispec.Descriptor
		manifest ocispec.Descriptor
		absent   ocispec.Descriptor
	}{
		{"host", image.Platform{}, index, own, foreign},
		{"other", *foreign.Platform, foreign, foreign, own},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := openStore(t)
			desc, err := testClient().Pull(t.Context(), s, srv.ref(t, "multi:1"), tt.platform, nil, "")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, desc); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			img := checkImage(t, s, desc, host)
			if img.Desc.Digest != tt.manifest.Digest {
				t.Errorf("manifest %s, want %s", img.Desc.Digest, tt.manifest.Digest)
			}
			if !s.Has(index) || s.Has(tt.absent) {
				t.Errorf("index stored: %t, other platform stored: %t", s.Has(index), s.Has(tt.absent))
			}
			if err := s.Tag(desc, "x"); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		s := openStore(t)
		_, err := testClient().Pull(t.Context(), s, srv.ref(t, "multi:1"), image.Platform{OS: "linux", Architecture: "riscv64"}, nil, "")
		if !errors.Is(err, ErrNoPlatform) || !strings.Contains(err.Error(), "linux/riscv64, only for linux/s390x, "+image.FormatPlatform(host)) {
			t.Errorf("err = %v", err)
		}
		if got := blobsIn(t, s); len(got) > 0 {
			t.Errorf("stored %v", got)
		}
	})
}

// recorder keeps the events it is sent.
type recorder struct {
	mu     sync.Mutex
	events []progress.Event
}

func (r *recorder) Event(e progress.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) actions() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]int{}
	for _, e := range r.events {
		if e.Status.Done {
			out[e.Status.Action]++
		}
	}
	return out
}

func TestPullProgress(t *testing.T) {
	srv := startServer(t, "")
	_, m := srv.push(t, "a", "1", spec{seed: 1, layers: 2, size: 3 * reportEvery})
	s, c := openStore(t), testClient()
	var first, second recorder
	for _, r := range []*recorder{&first, &second} {
		if _, err := c.Pull(t.Context(), s, srv.ref(t, "a:1"), image.Platform{}, r, "pull a"); err != nil {
			t.Fatal(err)
		}
	}
	// The config counts as well the first time; later it is read, not asked for.
	if diff := cmp.Diff(map[string]int{"downloaded": 3}, first.actions()); diff != "" {
		t.Errorf("first pull: (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"exists": 2}, second.actions()); diff != "" {
		t.Errorf("second pull: (-want +got)\n%s", diff)
	}
	last := map[string]int64{}
	for _, e := range first.events {
		if e.Vertex != "pull a" || e.Status.Current < last[e.Status.ID] || e.Status.Current > e.Status.Total || !e.Status.Bytes {
			t.Errorf("event %+v after %d", e.Status, last[e.Status.ID])
		}
		last[e.Status.ID] = e.Status.Current
	}
	for _, l := range m.Layers {
		if got := last[l.Digest.Encoded()[:12]]; got != l.Size {
			t.Errorf("layer %s ended at %d, want %d", l.Digest, got, l.Size)
		}
	}
}

// A shared layer, and the same layer twice in one manifest, is fetched once.
func TestPullSameLayerTwice(t *testing.T) {
	srv := startServer(t, "")
	_, m := srv.push(t, "a", "1", spec{seed: 1, layers: 1, size: 1000})
	config := image.Config{}
	config.Platform = image.HostPlatform()
	_, diffID := randomLayer(t, 1000, 1000)
	config.RootFS.DiffIDs = []digest.Digest{diffID, diffID}
	m.Layers = append(m.Layers, m.Layers[0])
	m.Config = srv.pushBlob(t, "a", ocispec.MediaTypeImageConfig, mustJSON(t, config))
	srv.pushManifest(t, "a", "2", ocispec.MediaTypeImageManifest, m)
	s := openStore(t)
	var r recorder
	desc, err := testClient().Pull(t.Context(), s, srv.ref(t, "a:2"), image.Platform{}, &r, "")
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, s, desc, image.HostPlatform())
	if got := r.actions()["downloaded"]; got != 2 {
		t.Errorf("%d blobs downloaded, want the config and one layer", got)
	}
}

// A digest reference whose image is here needs no registry.
func TestPullStoredDigestOffline(t *testing.T) {
	srv := startServer(t, "")
	desc, _ := srv.push(t, "a", "1", spec{seed: 1, layers: 1, size: 1000})
	s, c := openStore(t), testClient()
	ref := srv.ref(t, "a@"+desc.Digest.String())
	if _, err := c.Pull(t.Context(), s, ref, image.Platform{}, nil, ""); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(desc, ref.String()); err != nil {
		t.Fatal(err)
	}
	away := ref
	away.Registry = "127.0.0.1:1"
	got, err := c.Pull(t.Context(), s, away, image.Platform{}, nil, "")
	if err != nil || got.Digest != desc.Digest {
		t.Errorf("Pull = %v, %v", got, err)
	}
}

// Processes, and so stores opened twice, that pull the same image at the same
// time fetch each layer once.
func TestPullAtOnce(t *testing.T) {
	srv := startServer(t, "")
	srv.push(t, "a", "1", spec{seed: 1, layers: 4, size: 1 << 20})
	dir := t.TempDir()
	var r recorder
	var wg sync.WaitGroup
	for range 4 {
		s, err := store.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		wg.Go(func() {
			desc, err := testClient().Pull(context.Background(), s, srv.ref(t, "a:1"), image.Platform{}, &r, "")
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Tag(desc, "a"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	layers := 0
	for _, e := range r.events {
		if e.Status.Action == "downloaded" && e.Status.Total > 1<<19 {
			layers++
		}
	}
	if layers != 4 {
		t.Errorf("%d layers downloaded, want 4", layers)
	}
}
