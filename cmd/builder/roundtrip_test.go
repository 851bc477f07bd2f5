// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"builder/image"
	"builder/internal/testutil"
	"builder/layer"
	"builder/store"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// carrier takes an image from one name in a registry to another, through
// whatever the tool keeps images in.
type carrier struct {
	name string
	// keeps says that the manifest, and of an index every one, comes out with
	// the same digest.
	keeps bool
	// without are the images that the tool can't take: umoci has no indexes
	// and no docker types, docker before 23 no zstd.
	without []string
	carry   func(t *testing.T, w *workbench, from, to string)
}

// TestRoundTrip: ours → registry → another tool → registry → ours.
func TestRoundTrip(t *testing.T) {
	testutil.Require(t, "root", "docker-registry", "skopeo", "podman", "umoci")
	daemon := testutil.StartDocker(t)
	host := startRegistry(t)
	w := newBench(t)
	images := w.roundTripImages(host)
	skopeo := func(w *workbench, args ...string) {
		w.t.Helper()
		w.output("skopeo", append([]string{"--insecure-policy", "copy", "-q", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"}, args...)...)
	}
	for _, c := range []carrier{
		{"ours", true, nil, func(t *testing.T, w *workbench, from, to string) {
			w.ok("manifest", "create", "--all", "x", from) // all platforms of it
			w.ok("pull", "-q", from)
			w.ok("tag", from, to)
			w.ok("push", "-q", to)
		}},
		{"skopeo", true, nil, func(_ *testing.T, w *workbench, from, to string) {
			skopeo(w, "--all", "docker://"+from, "docker://"+to)
		}},
		{"skopeo dir", true, nil, func(_ *testing.T, w *workbench, from, to string) {
			skopeo(w, "--all", "docker://"+from, "dir:"+w.dir+"/dir")
			skopeo(w, "--all", "dir:"+w.dir+"/dir", "docker://"+to)
		}},
		{"umoci", true, []string{"docker types", "docker list", "index"}, func(_ *testing.T, w *workbench, from, to string) {
			skopeo(w, "--all", "docker://"+from, "oci:"+w.dir+"/oci:a")
			w.output("umoci", "tag", "--image", w.dir+"/oci:a", "b")
			w.output("umoci", "gc", "--layout", w.dir+"/oci")
			skopeo(w, "--all", "oci:"+w.dir+"/oci:b", "docker://"+to)
		}},
		{"podman", false, nil, func(t *testing.T, w *workbench, from, to string) {
			run, err := os.MkdirTemp("", "p") // its path may not be long
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(run)
			podman := func(args ...string) {
				w.output("podman", append([]string{"--root", w.dir, "--runroot", run, "--storage-driver", "vfs"}, args...)...)
			}
			podman("pull", "-q", "--tls-verify=false", from)
			podman("push", "-q", "--tls-verify=false", from, to)
		}},
		{"docker", false, []string{"zstd"}, func(t *testing.T, _ *workbench, from, to string) {
			daemon.Run(t, "pull", "-q", from)
			daemon.Run(t, "tag", from, to)
			daemon.Run(t, "push", "-q", to)
		}},
	} {
		for name, from := range images {
			if slices.Contains(c.without, name) {
				continue
			}
			t.Run(c.name+"/"+name, func(t *testing.T) {
				to := host + "/" + strings.ReplaceAll(c.name+"/"+name, " ", "-") + ":1"
				c.carry(t, &workbench{t: t, root: t.TempDir(), dir: t.TempDir()}, host+"/"+from.repository, to)
				got := arrived(t, to)
				if slices.ContainsFunc(got.configs, func(d digest.Digest) bool { return !slices.Contains(from.configs, d) }) || len(got.configs) == 0 {
					t.Errorf("configs %q, want of %q", got.configs, from.configs)
				}
				if c.keeps && (got.root != from.root || len(got.configs) != len(from.configs)) {
					t.Errorf("came as %s with %d platforms, went as %s with %d", got.root, len(got.configs), from.root, len(from.configs))
				}
			})
		}
	}
}

// pushed is an image in a registry.
type pushed struct {
	repository string
	root       digest.Digest   // of the manifest or index
	configs    []digest.Digest // of each platform
}

// roundTripImages pushes one of every kind of image that goes round.
func (w *workbench) roundTripImages(host string) map[string]pushed {
	w.t.Helper()
	w.write("Dockerfile", "FROM test/base\nRUN echo hello > /hello\nHEALTHCHECK CMD true\n")
	for name, attributes := range map[string]string{
		"gzip": "", "zstd": ",compression=zstd,force-compression=true",
		"docker-types": ",oci-mediatypes=false",
	} {
		w.ok("build", "-q", "-o", "type=image,name="+host+"/"+name+",push=true"+attributes, ".")
	}
	w.importTar("arm", "--platform", "linux/arm64")
	w.ok("push", "-q", w.tag("arm", host+"/arm"))
	w.ok("manifest", "create", host+"/index", host+"/gzip", host+"/arm")
	w.ok("manifest", "push", "-q", host+"/index")
	w.output("skopeo", "--insecure-policy", "copy", "-q", "--all", "--format=v2s2", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+host+"/index", "docker://"+host+"/docker-list")

	out := map[string]pushed{}
	for _, repository := range []string{"gzip", "zstd", "docker-types", "index", "docker-list"} {
		p := arrived(w.t, host+"/"+repository)
		p.repository = repository
		out[strings.ReplaceAll(repository, "-", " ")] = p
	}
	if n := len(out["index"].configs); n != 2 {
		w.t.Fatalf("the index has %d platforms", n)
	}
	return out
}

// arrived is what a new machine gets of an image: every platform of it, with
// layers that have their diffIDs.
func arrived(t testing.TB, name string) pushed {
	t.Helper()
	w := &workbench{t: t, root: t.TempDir(), dir: t.TempDir()}
	data := []byte(w.ok("manifest", "inspect", name))
	var doc struct {
		Manifests []ocispec.Descriptor
		Config    ocispec.Descriptor
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	w.ok("pull", "-q", name)
	s, err := store.Open(w.root)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	entry, err := s.Resolve(name)
	if err != nil {
		t.Fatal(err)
	}
	p := pushed{root: entry.Desc.Digest}
	if doc.Config.Digest != "" {
		p.configs = []digest.Digest{checkLayers(t, s, entry.Desc)}
		return p
	}
	for _, d := range doc.Manifests {
		one := strings.TrimSpace(w.ok("pull", "-q", "--platform", image.FormatPlatform(*d.Platform), name))
		entry, err := s.Resolve(one)
		if err != nil {
			t.Fatal(err)
		}
		p.configs = append(p.configs, checkLayers(t, s, entry.Desc))
	}
	return p
}

// checkLayers compares every layer of an image with the diffIDs of its config,
// whose digest it returns.
func checkLayers(t testing.TB, s *store.Store, desc ocispec.Descriptor) digest.Digest {
	t.Helper()
	img, err := s.Image(desc, image.HostPlatform())
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range img.Manifest.Layers {
		r, err := s.OpenBlob(l)
		if err != nil {
			t.Fatal(err)
		}
		plain, _, err := layer.Decompress(r)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := digest.FromReader(plain); err != nil || got != img.Config.RootFS.DiffIDs[i] {
			t.Errorf("layer %d has diffID %s, want %s (%v)", i, got, img.Config.RootFS.DiffIDs[i], err)
		}
		plain.Close()
		r.Close()
	}
	return img.ID()
}

// TestStoreInPlace: other tools read the state directory itself.
func TestStoreInPlace(t *testing.T) {
	testutil.Require(t, "skopeo", "umoci")
	w := newBench(t)
	w.ok("tag", "test/base", "app:1")
	w.output("skopeo", "--insecure-policy", "copy", "-q", "oci:"+w.root+":docker.io/library/app:1", "dir:"+t.TempDir())
	if got := w.output("umoci", "ls", "--layout", w.root); got != "docker.io/library/app:1\ndocker.io/test/base:latest\n" {
		t.Errorf("umoci ls: %q", got)
	}
	bundle := filepath.Join(t.TempDir(), "bundle")
	w.output("umoci", "unpack", "--image", w.root+":docker.io/library/app:1", bundle)
	if !exists(bundle + "/rootfs/bin/busybox") {
		t.Error("umoci unpacks something else")
	}
}
