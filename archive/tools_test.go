// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"builder/image"
	"builder/internal/testutil"
	"builder/layer"
	"builder/store"
)

// saved is an image that other tools are to read, in every form.
type saved struct {
	store *store.Store
	image Image
	id    string
	dir   string // of the files oci, docker, legacy and of the directory dir
}

// save writes an image of a gzip and a plain layer.
func save(t *testing.T) *saved {
	t.Helper()
	s := openStore(t)
	desc := addImage(t, s, false, image.HostPlatform(),
		layerSpec{rootLayer(t, "a"), layer.Gzip}, layerSpec{rootLayer(t, "b"), layer.Uncompressed})
	img, err := s.Image(desc, image.HostPlatform())
	if err != nil {
		t.Fatal(err)
	}
	v := &saved{s, Image{Desc: desc, Names: []string{"docker.io/library/tools:1.0"}}, img.ID().Encoded(), t.TempDir()}
	for name, f := range formats {
		if err := f.save(t.Context(), s, v.path(name), []Image{v.image}); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

func (v *saved) path(name string) string { return filepath.Join(v.dir, name) }

// skopeoNames are the ways to name the saved images to skopeo.
func (v *saved) skopeoNames() []string {
	return []string{
		"oci-archive:" + v.path("oci"), "oci-archive:" + v.path("oci") + ":1.0",
		"oci-archive:" + v.path("docker"),
		"docker-archive:" + v.path("docker"), "docker-archive:" + v.path("docker") + ":tools:1.0",
		"docker-archive:" + v.path("legacy"), "docker-archive:" + v.path("legacy") + ":docker.io/library/tools:1.0",
		"oci:" + v.path("dir"), "oci:" + v.path("dir") + ":1.0",
	}
}

func TestSkopeoReads(t *testing.T) {
	testutil.Require(t, "skopeo")
	v := save(t)
	for _, name := range v.skopeoNames() {
		// The copy verifies digests and diffIDs; the config is the image.
		out := filepath.Join(t.TempDir(), "out")
		run(t, "skopeo", "--insecure-policy", "copy", "-q", name, "dir:"+out)
		if _, err := os.Stat(filepath.Join(out, v.id)); err != nil {
			t.Errorf("%s: no config %s: %v", name, v.id, list(t, out))
		}
	}
	if err := v.store.Tag(v.image.Desc, v.image.Names...); err != nil {
		t.Fatal(err)
	}
	got := run(t, "skopeo", "inspect", "oci:"+v.store.Path()+":docker.io/library/tools:1.0")
	if !strings.Contains(got, v.image.Desc.Digest.String()) {
		t.Errorf("in the store itself skopeo reads %s", got)
	}
}

func TestSkopeoWrites(t *testing.T) {
	testutil.Require(t, "skopeo")
	v := save(t)
	from := "oci-archive:" + v.path("oci")
	for _, tt := range []struct {
		to    string
		flags []string
		names []string
	}{
		{"oci-archive:%:docker.io/library/x:2", nil, []string{"docker.io/library/x:2"}},
		{"oci-archive:%:x", nil, nil},
		{"oci-archive:%", nil, nil},
		{"docker-archive:%:x:2", nil, []string{"docker.io/library/x:2"}},
		{"docker-archive:%", nil, nil},
		{"oci:%:quay.io/x/y:latest", nil, []string{"quay.io/x/y:latest"}},
		{"oci:%:x", []string{"--dest-compress", "--dest-compress-format=zstd"}, nil},
		{"oci:%:x", []string{"--format=v2s2"}, nil},
	} {
		out := filepath.Join(t.TempDir(), "out")
		to := strings.Replace(tt.to, "%", out, 1)
		args := append([]string{"--insecure-policy", "copy", "-q"}, tt.flags...)
		if b, err := exec.Command("skopeo", append(args, from, to)...).CombinedOutput(); err != nil {
			if slices.Contains(tt.flags, "--format=v2s2") {
				continue // the transport has no docker types
			}
			t.Errorf("skopeo copy to %s: %v\n%s", to, err, b)
			continue
		}
		into := openStore(t)
		load := loadFile
		if strings.HasPrefix(to, "oci:") {
			load = loadDir
		}
		loaded, err := load(t.Context(), into, out)
		if err != nil {
			t.Errorf("%s: %v", to, err)
			continue
		}
		img := checkImage(t, into, loaded[0].Desc)
		if !slices.Equal(loaded[0].Names, tt.names) || img.ID().Encoded() != v.id {
			t.Errorf("%s: names %q, ID %s, want %q, %s", to, loaded[0].Names, img.ID(), tt.names, v.id)
		}
	}
}

func TestUmociReads(t *testing.T) {
	testutil.Require(t, "umoci", "root")
	v := save(t)
	bundle := filepath.Join(t.TempDir(), "bundle")
	run(t, "umoci", "unpack", "--image", v.path("dir")+":1.0", bundle)
	for _, name := range []string{"a", "b"} {
		data, err := os.ReadFile(filepath.Join(bundle, "rootfs", "etc", name))
		if err != nil || !bytes.HasPrefix(data, []byte(name+"\n")) {
			t.Errorf("etc/%s: %q %v", name, data[:min(len(data), 10)], err)
		}
	}
	// umoci writes a layout with the tag alone as name.
	run(t, "umoci", "config", "--image", v.path("dir")+":1.0", "--tag", "new", "--config.user", "7:7")
	into := openStore(t)
	loaded, err := loadDir(t.Context(), into, v.path("dir"))
	if err != nil {
		t.Fatal(err)
	}
	users := map[string]bool{}
	for _, l := range loaded {
		users[checkImage(t, into, l.Desc).Config.Config.User] = true
	}
	if len(loaded) != 2 || !users["7:7"] || !users[""] {
		t.Errorf("loaded %v with users %v", loaded, users)
	}
}

func TestPodman(t *testing.T) {
	testutil.Require(t, "podman", "root")
	v := save(t)
	dir := t.TempDir()
	podman := func(args ...string) string {
		return run(t, "podman", append([]string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs"}, args...)...)
	}
	for _, name := range []string{"oci", "docker", "legacy"} {
		out := podman("load", "-q", "-i", v.path(name))
		if !strings.Contains(out, "docker.io/library/tools:1.0") {
			t.Errorf("%s: podman load prints %q", name, out)
		}
		if got := podman("images", "-q", "--no-trunc", "tools:1.0"); !strings.Contains(got, v.id) {
			t.Errorf("%s: podman has %q, want %s", name, got, v.id)
		}
		if name != "legacy" {
			podman("rmi", "-af")
		}
	}
	for _, format := range []string{"docker-archive", "oci-archive", "oci-dir"} {
		out := filepath.Join(t.TempDir(), "out")
		podman("save", "-q", "-o", out, "--format", format, "docker.io/library/tools:1.0")
		into := openStore(t)
		load := loadFile
		if format == "oci-dir" {
			load = loadDir
		}
		loaded, err := load(t.Context(), into, out)
		if err != nil {
			t.Errorf("%s: %v", format, err)
			continue
		}
		img := checkImage(t, into, loaded[0].Desc)
		// Podman writes the configs of OCI images anew.
		if !slices.Equal(loaded[0].Names, v.image.Names) || (img.ID().Encoded() != v.id && format == "docker-archive") {
			t.Errorf("%s: %q %s", format, loaded[0].Names, img.ID())
		}
	}
}

func TestDocker(t *testing.T) {
	daemon := testutil.StartDocker(t)
	docker := func(args ...string) string { return daemon.Run(t, args...) }
	v := save(t)
	for _, name := range []string{"docker", "legacy"} {
		if out := docker("load", "-i", v.path(name)); out != "Loaded image: tools:1.0\n" {
			t.Errorf("%s: docker load prints %q", name, out)
		}
		if got := docker("images", "-q", "--no-trunc"); got != "sha256:"+v.id+"\n" {
			t.Errorf("%s: docker has %q, want %s", name, got, v.id)
		}
		if name == "docker" {
			docker("rmi", "tools:1.0")
		}
	}
	docker("tag", "tools:1.0", "other/tools:2")
	out := filepath.Join(t.TempDir(), "out.tar")
	docker("save", "-o", out, "tools:1.0", "other/tools:2")
	into := openStore(t)
	loaded, err := loadFile(t.Context(), into, out)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range loaded {
		names = append(names, l.Names...)
		if img := checkImage(t, into, l.Desc); img.ID().Encoded() != v.id {
			t.Errorf("ID %s, want %s", img.ID(), v.id)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"docker.io/library/tools:1.0", "docker.io/other/tools:2"}) {
		t.Errorf("names %q", names)
	}
}

// The images of docker's own manifest.json are those of the image layout
// beside it.
func TestCombined(t *testing.T) {
	v := save(t)
	data, err := os.ReadFile(v.path("docker"))
	if err != nil {
		t.Fatal(err)
	}
	var images []dockerImage
	if err := json.Unmarshal([]byte(fileIn(t, data, dockerFile)), &images); err != nil {
		t.Fatal(err)
	}
	if len(images) != 1 || images[0].Config != "blobs/sha256/"+v.id || !slices.Equal(images[0].RepoTags, []string{"docker.io/library/tools:1.0"}) {
		t.Errorf("manifest.json: %+v", images)
	}
	for _, l := range images[0].Layers {
		if fileIn(t, data, l) == "" {
			t.Errorf("%s is missing", l)
		}
	}
	if got := fileIn(t, data, repositoriesFile); !strings.HasPrefix(got, `{"docker.io/library/tools":{"1.0":"`) {
		t.Errorf("repositories: %s", got)
	}
}
