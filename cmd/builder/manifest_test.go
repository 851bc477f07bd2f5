// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"builder/image"
	"builder/internal/testutil"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An empty list is added to, each entry as the flags say; its entries go one by
// one.
func TestManifestAddRemove(t *testing.T) {
	w := newBench(t)
	w.importTar("amd", "--platform", "linux/amd64", "--change", "LABEL x=amd")
	w.importTar("arm", "--platform", "linux/arm64", "--change", "LABEL x=arm")
	if r := w.run("manifest", "exists", "list"); r.code != 1 || r.stderr != "" {
		t.Errorf("exists before: %+v", r)
	}
	w.ok("manifest", "create", "list")
	w.ok("manifest", "exists", "list")
	if r := w.run("manifest", "exists", "amd"); r.code != 1 {
		t.Errorf("exists of an image: %+v", r)
	}
	if got := w.index("list"); len(got.Manifests) != 0 {
		t.Errorf("an empty list has %+v", got.Manifests)
	}
	w.fails(1, []string{"names no image"}, "manifest", "push", "list", "127.0.0.1:1/x")
	w.ok("manifest", "add", "list", "amd")
	w.ok("manifest", "add", "--arch", "arm", "--variant", "v6", "--os-features", "f", "--annotation", "k=v", "list", "arm")
	idx := w.index("list")
	if got := platformsOf(idx); got != "linux/amd64 linux/arm/v6" || idx.Manifests[1].Annotations["k"] != "v" || strings.Join(idx.Manifests[1].Platform.OSFeatures, " ") != "f" {
		t.Errorf("added: %s %+v", got, idx)
	}
	var detail []manifestDetail
	if err := json.Unmarshal([]byte(w.ok("manifest", "inspect", "--verbose", "list")), &detail); err != nil || len(detail) != 2 {
		t.Fatalf("inspect --verbose: %v %+v", err, detail)
	}
	one := idx.Manifests[1]
	if d := detail[1]; d.Ref != "docker.io/library/list:latest@"+one.Digest.String() || d.Descriptor.Digest != one.Digest ||
		digest.FromBytes(d.Raw) != one.Digest || d.OCIManifest == nil || d.SchemaV2Manifest != nil {
		t.Errorf("inspect --verbose: %+v", d)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal([]byte(w.ok("manifest", "inspect", "list", "arm")), &m); err != nil || m.Config.Digest.String() != strings.TrimSpace(w.ok("images", "-q", "--no-trunc", "arm")) {
		t.Errorf("inspect of an image in the list: %v %+v", err, m)
	}

	w.ok("manifest", "annotate", "--index", "--annotation", "a=b", "--subject", "amd", "list")
	if idx := w.index("list"); idx.Annotations["a"] != "b" || idx.Subject == nil || idx.Subject.Digest != idx.Manifests[0].Digest {
		t.Errorf("annotate --index: %+v", idx)
	}
	w.ok("manifest", "remove", "list", "amd")
	if got := platformsOf(w.index("list")); got != "linux/arm/v6" {
		t.Errorf("after remove by name: %s", got)
	}
	after := strings.TrimSpace(w.ok("manifest", "remove", "list", one.Digest.String()))
	if got := w.index("list"); len(got.Manifests) != 0 || after != w.digestOf("list") {
		t.Errorf("after remove by digest: %s %+v", after, got)
	}
	if got := w.ok("images", "--filter", "dangling=true", "-q"); got != "" {
		t.Errorf("what the list was is left: %q", got)
	}
}

// digestOf is the digest of what a name means in the store.
func (w *workbench) digestOf(name string) string {
	w.t.Helper()
	return strings.TrimSpace(w.ok("images", "--digests", "--format", "{{.Digest}}", name))
}

// index is a list as manifest inspect shows it.
func (w *workbench) index(name string) ocispec.Index {
	w.t.Helper()
	var idx ocispec.Index
	if err := json.Unmarshal([]byte(w.ok("manifest", "inspect", name)), &idx); err != nil {
		w.t.Fatal(err)
	}
	return idx
}

// tag gives an image another name, which it returns.
func (w *workbench) tag(from, to string) string {
	w.t.Helper()
	w.ok("tag", from, to)
	return to
}

func platformsOf(idx ocispec.Index) string {
	var out []string
	for _, d := range idx.Manifests {
		p := d.Platform.OS + "/" + d.Platform.Architecture
		if d.Platform.Variant != "" {
			p += "/" + d.Platform.Variant
		}
		out = append(out, p)
	}
	return strings.Join(out, " ")
}

func TestManifest(t *testing.T) {
	w := newBench(t)
	w.importTar("amd", "--platform", "linux/amd64", "--change", "LABEL x=amd")
	arm := w.importTar("arm", "--platform", "linux/arm64", "--change", "LABEL x=arm")
	if got := w.ok("manifest", "create", "--annotation", "a=b=c", "list:1", "amd", arm); got != "Created manifest list docker.io/library/list:1\n" {
		t.Errorf("create prints %q", got)
	}
	idx := w.index("list:1")
	if got := platformsOf(idx); got != "linux/amd64 linux/arm64" || idx.MediaType != ocispec.MediaTypeImageIndex || idx.Annotations["a"] != "b=c" {
		t.Errorf("created: %s %+v", got, idx)
	}
	for arch, label := range map[string]string{"amd64": "amd", "arm64": "arm"} {
		if got := w.ok("inspect", "--platform", "linux/"+arch, "-f", "{{.Config.Labels.x}}", "list:1"); got != label+"\n" {
			t.Errorf("the list's image for %s: %q", arch, got)
		}
	}

	w.importTar("third", "--platform", "linux/amd64", "--change", "LABEL x=third")
	w.ok("manifest", "create", "--amend", "list:1", "third", "arm")
	w.ok("manifest", "annotate", "--arch", "arm", "--variant", "v7", "--os-version", "1", "--os-features", "f,g", "--annotation", "k=v", "list:1", "third")
	idx = w.index("list:1")
	if got := platformsOf(idx); got != "linux/amd64 linux/arm64 linux/arm/v7" {
		t.Errorf("amended: %s", got)
	}
	if d := idx.Manifests[2]; d.Annotations["k"] != "v" || d.Platform.OSVersion != "1" || strings.Join(d.Platform.OSFeatures, " ") != "f g" {
		t.Errorf("annotated: %+v", d)
	}
	w.ok("manifest", "annotate", "--variant", "v6", "list:1", idx.Manifests[2].Digest.String())
	if got := platformsOf(w.index("list:1")); got != "linux/amd64 linux/arm64 linux/arm/v6" || w.index("list:1").Annotations["a"] != "b=c" {
		t.Errorf("annotated by digest: %s", got)
	}
	if got := w.ok("images", "--filter", "dangling=true", "-q"); got != "" {
		t.Errorf("what the list was is left: %q", got)
	}

	// All platforms of an index, or this machine's.
	w.ok("manifest", "create", "--all", "copy", "list:1")
	if got := platformsOf(w.index("copy")); got != "linux/amd64 linux/arm64 linux/arm/v6" {
		t.Errorf("--all: %s", got)
	}
	w.ok("manifest", "create", "one", "list:1")
	if got := platformsOf(w.index("one")); got != "linux/"+runtime.GOARCH {
		t.Errorf("without --all: %s", got)
	}

	for _, tt := range []struct {
		code int
		word string
		args []string
	}{
		{2, "usage: builder manifest", nil},
		{2, `there is no "x"`, []string{"x"}},
		{2, "usage: builder manifest", []string{"create"}},
		{1, "list:1 is there already: --amend", []string{"create", "list:1", "amd"}},
		{1, "amd is an image, not a manifest list", []string{"create", "--amend", "amd", "arm"}},
		{1, "lower case", []string{"create", "L", "amd"}},
		{1, "has a digest", []string{"create", "l@" + arm, "amd"}},
		{1, "connection refused", []string{"create", "l", "127.0.0.1:1/x"}},
		{2, "want KEY=VALUE", []string{"create", "--annotation", "x", "l", "amd"}},
		{2, "unknown flag", []string{"create", "--x", "l", "amd"}},
		{2, "usage: builder manifest", []string{"add", "list:1"}},
		{2, "--os-features", []string{"add", "--features", "f", "list:1", "amd"}},
		{1, "amd is an image, not a manifest list", []string{"add", "amd", "arm"}},
		{1, "nothing:latest: not found", []string{"add", "nothing", "arm"}},
		{1, "list:1 has no image test/base", []string{"remove", "list:1", "test/base"}},
		{2, "say which image", []string{"annotate", "--os", "linux", "list:1"}},
		{2, "it needs --index", []string{"annotate", "--subject", "amd", "list:1", "arm"}},
		{2, "only --annotation and --subject", []string{"annotate", "--index", "--os", "linux", "list:1"}},
		{1, "it can't refer to itself", []string{"annotate", "--index", "--subject", "list:1", "list:1"}},
		{1, "nothing:latest: not found", []string{"annotate", "--index", "--subject", "nothing", "list:1"}},
		{2, "--all=false", []string{"push", "--all=false", "list:1"}},
		{1, "list:1 has no image test/base", []string{"inspect", "list:1", "test/base"}},
		{2, "say what to set", []string{"annotate", "list:1", "amd"}},
		{1, "list:1 has no image test/base", []string{"annotate", "--os", "linux", "list:1", "test/base"}},
		{1, "nothing:latest: not found", []string{"annotate", "--os", "linux", "list:1", "nothing"}},
		{1, "nothing:latest: not found", []string{"annotate", "--os", "linux", "nothing", "amd"}},
		{1, "amd is an image, not a manifest list", []string{"annotate", "--os", "linux", "amd", "amd"}},
		{1, "connection refused", []string{"inspect", "127.0.0.1:1/x"}},
		{1, "not a manifest list", []string{"push", "amd"}},
		{1, "lower case", []string{"push", "list:1", "docker://X"}},
		{1, "connection refused", []string{"push", "list:1", "127.0.0.1:1/x"}},
		{1, "amd is an image, not a manifest list", []string{"rm", "amd"}},
		{1, "nothing:latest: not found", []string{"rm", "nothing"}},
	} {
		w.fails(tt.code, []string{tt.word}, append([]string{"manifest"}, tt.args...)...)
	}
	if got := w.ok("manifest", "rm", "copy", "one"); got != "Untagged: copy:latest\nUntagged: one:latest\n" {
		t.Errorf("rm prints %q", got)
	}
	w.ok("inspect", "amd", "arm", "third", "list:1") // are left
}

func TestManifestPush(t *testing.T) {
	testutil.Require(t, "docker-registry", "skopeo")
	host := startRegistry(t)
	w := newBench(t)
	w.importTar("amd", "--platform", "linux/amd64", "--change", "LABEL x=amd")
	w.importTar("arm", "--platform", "linux/arm64", "--change", "LABEL x=arm")
	w.ok("manifest", "create", "list", "amd", "arm")
	digest := strings.TrimSpace(w.ok("manifest", "push", "-q", "--purge", "list", "docker://"+host+"/team/list:1"))
	if !regexp.MustCompile(`^sha256:[0-9a-f]{64}$`).MatchString(digest) {
		t.Errorf("push prints %q", digest)
	}
	w.fails(1, []string{"no such"}, "inspect", "list")

	// Another tool reads each platform.
	for _, arch := range []string{"amd64", "arm64"} {
		got := w.output("skopeo", "--override-arch", arch, "inspect", "--tls-verify=false", "--format", "{{.Architecture}} {{.Labels.x}}", "docker://"+host+"/team/list@"+digest)
		if strings.TrimSpace(got) != arch+" "+arch[:3] {
			t.Errorf("skopeo reads of %s: %q", arch, got)
		}
	}
	// Of docker's manifests the list is docker's.
	for _, arch := range []string{"amd", "arm"} {
		w.ok("push", "-q", w.tag(arch, host+"/team/oci:"+arch))
		w.output("skopeo", "--insecure-policy", "copy", "-q", "--override-arch", arch+"64", "--src-tls-verify=false", "--dest-tls-verify=false", "--format", "v2s2", "docker://"+host+"/team/oci:"+arch, "docker://"+host+"/team/docker:"+arch)
	}
	w.ok("manifest", "create", "--insecure", "docker", host+"/team/docker:amd", host+"/team/docker:arm")
	if idx := w.index("docker"); idx.MediaType != image.MediaTypeDockerManifestList || platformsOf(idx) != "linux/amd64 linux/arm64" {
		t.Errorf("a list of docker's manifests: %+v", idx)
	}
	file := filepath.Join(w.dir, "digest")
	pushed := strings.TrimSpace(w.ok("manifest", "push", "-q", "--tls-verify=false", "--digestfile", file, "docker", host+"/team/docker:list"))
	if data, err := os.ReadFile(file); err != nil || string(data) != pushed {
		t.Errorf("--digestfile: %q %v, want %q", data, err, pushed)
	}
	if got := w.output("skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+host+"/team/docker@"+pushed); !strings.Contains(got, image.MediaTypeDockerManifestList) {
		t.Errorf("skopeo reads %s", got)
	}

	// A list of what is in the registry, from a machine that has nothing.
	other := &workbench{t: t, root: t.TempDir(), dir: t.TempDir()}
	if got := platformsOf(other.index(host + "/team/list:1")); got != "linux/amd64 linux/arm64" {
		t.Errorf("inspect in the registry: %s", got)
	}
	if blobs, _ := filepath.Glob(filepath.Join(other.root, "blobs/sha256/*")); len(blobs) > 0 {
		t.Errorf("inspect keeps %q", blobs)
	}
	name := host + "/team/copy:2"
	other.ok("manifest", "create", "--all", name, host+"/team/list:1")
	other.ok("manifest", "push", name)
	w.output("skopeo", "--insecure-policy", "copy", "-q", "--all", "--src-tls-verify=false", "docker://"+name, "dir:"+t.TempDir())
	// Of an index of which one platform is here, not all can be taken.
	third := &workbench{t: t, root: t.TempDir(), dir: t.TempDir()}
	third.ok("pull", "-q", name)
	third.fails(1, []string{"not every platform of it is in the image store"}, "manifest", "create", "--all", "l", name)
	third.fails(1, []string{"push", "not found"}, "manifest", "push", name)
	third.ok("manifest", "create", "l", name)
	if got := platformsOf(third.index("l")); got != "linux/"+runtime.GOARCH {
		t.Errorf("of a part: %s", got)
	}
}
