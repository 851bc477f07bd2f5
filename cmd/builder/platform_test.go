// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"builder/container"
	"builder/internal/testutil"
	"builder/mount"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// manifests are the platforms of an image's index and the digests of their
// manifests, read from an OCI layout directory.
func manifests(t *testing.T, dir string) map[string]ocispec.Descriptor {
	t.Helper()
	read := func(name string, v any) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, v); err != nil {
			t.Fatal(err)
		}
	}
	var top, index ocispec.Index
	read("index.json", &top)
	if len(top.Manifests) != 1 || top.Manifests[0].MediaType != ocispec.MediaTypeImageIndex {
		t.Fatalf("the layout holds %+v, want one index", top.Manifests)
	}
	read("blobs/sha256/"+top.Manifests[0].Digest.Encoded(), &index)
	out := map[string]ocispec.Descriptor{}
	for _, m := range index.Manifests {
		out[m.Platform.OS+"/"+m.Platform.Architecture] = m
	}
	return out
}

// unpackArchive unpacks a tar into a new directory.
func unpackArchive(t *testing.T, archive string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("tar", "-xf", archive, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// TestPlatforms builds for two platforms: RUN stays on the build platform, so
// no emulator is needed, and its stage runs once for both.
func TestPlatforms(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", `FROM --platform=$BUILDPLATFORM test/base AS build
RUN echo built > /out
FROM --platform=$BUILDPLATFORM test/base AS cross
ARG TARGETARCH
RUN echo "for $TARGETARCH" > /arch
FROM scratch
COPY --from=build /out /out
COPY --from=cross /arch /arch
`)
	stats := w.stats("-t", "multi", "--platform", "linux/amd64,linux/arm64", "-o", "type=oci,dest=multi.tar", ".")
	// Of ten steps the second platform finds the shared RUN done, or waits for it.
	if stats["steps"] != 8 || stats["cached"] != 2 {
		t.Errorf("%d steps, %d cached, want 8 and 2: the stage that does not know the target runs once, and so does its COPY", stats["steps"], stats["cached"])
	}
	found := manifests(t, unpackArchive(t, filepath.Join(w.dir, "multi.tar")))
	if len(found) != 2 || found["linux/amd64"].Digest == found["linux/arm64"].Digest {
		t.Errorf("manifests %v", found)
	}
	again := w.stats("-t", "multi", "--platform", "linux/arm64", "--platform", "linux/amd64", "-o", "type=oci,dest=again.tar", ".")
	if again["cached"] != again["steps"] {
		t.Errorf("again: %d of %d steps cached", again["cached"], again["steps"])
	}
	for platform, m := range manifests(t, unpackArchive(t, filepath.Join(w.dir, "again.tar"))) {
		if m.Digest != found[platform].Digest {
			t.Errorf("%s: another manifest in another order", platform)
		}
	}
}

func fdName(f *os.File) string { return strconv.Itoa(int(f.Fd())) }

// registerEmulator makes programs for arm64 run, through Debian's qemu, for as
// long as the test runs.
func registerEmulator(t *testing.T) {
	t.Helper()
	testutil.Require(t, "root", "qemu-aarch64-static")
	if container.CanExecute("arm64") == nil {
		return
	}
	// The kernel forgets the handlers with the last mount (Linux 6.7).
	fs, err := mount.FS{Type: "binfmt_misc"}.Open()
	if err != nil {
		t.Fatal(err)
	}
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Fatal(err)
	}
	const name = "builder-test-arm64"
	dir := "/proc/self/fd/" + fdName(fs)
	rule := ":" + name + `:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:` + qemu + ":OCF"
	if err := os.WriteFile(dir+"/register", []byte(rule), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(os.WriteFile(dir+"/"+name, []byte("-1"), 0), fs.Close()); err != nil {
			t.Error(err)
		}
	})
}

func TestEmulatedRun(t *testing.T) {
	w := newBench(t)
	registerEmulator(t)
	w.write("main.go", `package main

import (
	"os"
	"runtime"
)

func main() {
	if err := os.WriteFile("/ran-on", []byte(runtime.GOARCH), 0o644); err != nil {
		os.Exit(1)
	}
}
`)
	compile := exec.Command("go", "build", "-o", "prog", "main.go")
	compile.Dir = w.dir
	compile.Env = append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0", "GO111MODULE=off")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.write("Dockerfile", "FROM scratch\nCOPY prog /prog\nRUN [\"/prog\"]\n")
	w.ok("build", "--platform", "linux/arm64", "-o", "out", ".")
	if got, err := os.ReadFile(filepath.Join(w.dir, "out", "ran-on")); err != nil || string(got) != "arm64" {
		t.Errorf("ran on %q, %v", got, err)
	}
}

func TestNamedContexts(t *testing.T) {
	w := newBench(t)
	w.write("lib/a", "from the directory")
	w.write("lib/skip", "")
	w.write("lib/.dockerignore", "skip\n")
	w.write("Dockerfile", `FROM lib AS files
FROM test/base AS tool
RUN echo original > /tool
FROM base:1 AS last
COPY --from=lib / /all/
COPY --from=tool /tool /tool
COPY --from=files /a /b
RUN --mount=from=lib,target=/m cat /m/a > /c
`)
	w.write("tool/Dockerfile", "FROM test/base\nRUN echo replaced > /tool\n")
	w.ok("build", "-t", "tool", "tool")
	w.ok("save", "--format", "oci-archive", "-o", "tool.tar", "tool")
	layout := unpackArchive(t, filepath.Join(w.dir, "tool.tar"))
	args := []string{"--build-context", "lib=lib", "--build-context", "base:1=docker-image://test/base", "--build-context", "Tool=oci-layout://" + layout, "."}
	w.ok(append([]string{"build", "-o", "out"}, args...)...)
	for name, want := range map[string]string{"all/a": "from the directory", "tool": "replaced\n", "b": "from the directory", "c": "from the directory"} {
		if got, err := os.ReadFile(filepath.Join(w.dir, "out", name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := os.Stat(filepath.Join(w.dir, "out/all/skip")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that the context's own .dockerignore excludes: %v", err)
	}
	if s := w.stats(append([]string{"-t", "x"}, args...)...); s["cached"] != s["steps"] || s["steps"] != 4 {
		t.Errorf("%d of %d steps cached, want 4 of 4", s["cached"], s["steps"])
	}
	// The context's files are all there is of an image that is FROM it.
	w.ok(append([]string{"build", "--target", "files", "-t", "files"}, args...)...)
	if out := w.ok("history", "-q", "--no-trunc", "files"); strings.Count(out, "\n") != 1 {
		t.Errorf("history of an image of files alone:\n%s", out)
	}
	w.write("lib/a", "changed")
	if s := w.stats(append([]string{"-t", "x"}, args...)...); s["cached"] != 0 {
		t.Errorf("%d of %d steps cached after a change of what the first one copies", s["cached"], s["steps"])
	}
	for _, bad := range []struct {
		value string
		words []string
	}{
		{"lib", []string{"NAME=SOURCE"}},
		{"=x", []string{"NAME=SOURCE"}},
		{"lib=", []string{"NAME=SOURCE"}},
		{"UP/../x=lib", []string{"invalid image reference"}},
		{"lib=nowhere", []string{`"nowhere"`, "no such file"}},
		{"lib=Dockerfile", []string{"not a directory"}},
		{"lib=docker-image://Not/Valid", []string{"lower case"}},
		{"lib=oci-layout://lib", []string{"no OCI image layout"}},
		{"lib=oci-layout://" + layout + "@sha256:12", []string{"digest"}},
		{"lib=ftp://x/y", []string{"ftp://"}},
		{"lib::linux/=lib", []string{"invalid platform"}},
	} {
		w.fails(2, append(bad.words, "--build-context"), "build", "--build-context", bad.value, ".")
	}
	w.fails(1, []string{"Dockerfile:", "named context lib", `no image with the tag "other"`}, "build", "--build-context", "lib=oci-layout://"+layout+":other", ".")
}

// TestForeignBase holds that fetching a base image for another platform leaves
// its name usable on this one.
func TestForeignBase(t *testing.T) {
	testutil.Require(t, "docker-registry")
	from := newBench(t)
	host := startRegistry(t)
	from.write("Dockerfile", "FROM --platform=$BUILDPLATFORM test/base AS b\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch\nFROM test/base\nCOPY --from=b /arch /\n")
	from.ok("build", "--platform", "linux/amd64,linux/arm64", "-t", host+"/multi:1", ".")
	from.ok("push", host+"/multi:1")

	w := newBench(t)
	w.write("Dockerfile", "FROM "+host+"/multi:1\nLABEL a=b\n")
	w.ok("build", "--platform", "linux/arm64", "-o", "out", ".")
	if got, err := os.ReadFile(filepath.Join(w.dir, "out/arch")); err != nil || string(got) != "arm64\n" {
		t.Errorf("files of %q, %v", got, err)
	}
	if got := w.ok("run", "--rm", host+"/multi:1", "cat", "/arch"); got != "amd64\n" {
		t.Errorf("run has %q", got)
	}
	w.ok("build", "--platform", "linux/arm64,linux/amd64", "-t", "both", ".")
	w.ok("build", "-o", "out", ".")
	if got, err := os.ReadFile(filepath.Join(w.dir, "out/arch")); err != nil || string(got) != "amd64\n" {
		t.Errorf("files of %q, %v", got, err)
	}
}

// TestLoadPlatform loads one platform of an archive of several, compressed in
// each way.
func TestLoadPlatform(t *testing.T) {
	testutil.Require(t, "gzip", "zstd", "xz")
	w := newBench(t)
	w.write("Dockerfile", "FROM --platform=$BUILDPLATFORM test/base AS b\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch\nFROM scratch\nCOPY --from=b /arch /\n")
	archive := filepath.Join(w.dir, "multi.tar")
	w.ok("build", "--platform", "linux/amd64,linux/arm64", "-t", "multi", "-o", "type=oci,dest="+archive, ".")
	for _, pack := range []string{"", "gzip", "zstd", "xz"} {
		name := archive
		if pack != "" {
			name += "." + pack
			out, err := exec.Command("sh", "-c", pack+" -c < "+archive+" > "+name).CombinedOutput()
			if err != nil {
				t.Fatalf("%s: %v\n%s", pack, err, out)
			}
		}
		other := &workbench{t: t, root: t.TempDir(), dir: w.dir}
		other.ok("load", "-q", "--platform", "linux/arm64", "-i", name)
		if got := other.ok("inspect", "-f", "{{.Architecture}}", "multi"); got != "arm64\n" {
			t.Errorf("%s: loaded for %q", pack, got)
		}
		other.checkWhole()
	}
	other := &workbench{t: t, root: t.TempDir(), dir: w.dir}
	other.fails(1, []string{"incomplete for linux/s390x"}, "load", "--platform", "linux/s390x", "-i", archive)
	other.fails(2, []string{"--platform"}, "load", "--platform", "linux/", "-i", archive)
}

// TestRunPlatform runs images for this platform and others: as asked, or with a
// warning.
func TestRunPlatform(t *testing.T) {
	w := newLifeBench(t)
	host := startRegistry(t)
	w.write("Dockerfile", "FROM --platform=$BUILDPLATFORM test/base AS base\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch\n")
	ref := host + "/multi"
	w.ok("build", "-t", ref, "--platform", "linux/amd64,linux/arm64", "--push", ".")
	show := func(flags ...string) result {
		return w.run(append(append([]string{"run", "--rm"}, flags...), ref, "cat", "/arch")...)
	}
	check := func(r result, arch string, warned bool) {
		t.Helper()
		if r.code != 0 || r.stdout != arch+"\n" || strings.Contains(r.stderr, "is for linux/arm64, not for linux/amd64") != warned {
			t.Errorf("%+v, want %s, and a warning: %t", r, arch, warned)
		}
	}
	other, own := []string{"--platform", "linux/arm64"}, []string{"--platform", "linux/amd64"}
	check(show(), "amd64", false)
	check(show(other...), "arm64", false)
	// One platform is here, the other is fetched.
	w.ok("rmi", "-f", ref)
	w.ok("pull", "--platform", "linux/arm64", ref)
	w.fails(125, []string{ref}, "run", "--rm", "--pull", "never", "--platform", "linux/amd64", ref, "true")
	check(show(other...), "arm64", false)
	check(show(own...), "amd64", false)
	// An image for one platform, which isn't this machine's.
	w.ok("build", "-t", "foreign", "--platform", "linux/arm64", ".")
	if r := w.run("run", "--rm", "foreign", "cat", "/arch"); r.code != 0 || r.stdout != "arm64\n" || !strings.Contains(r.stderr, "is for linux/arm64, not for linux/amd64") {
		t.Errorf("unasked: %+v", r)
	}
	if r := w.run("run", "--rm", "--platform", "arm64", "foreign", "cat", "/arch"); r.code != 0 || r.stderr != "" {
		t.Errorf("asked: %+v", r)
	}
	w.fails(125, []string{"is for linux/arm64, not for linux/s390x"}, "run", "--rm", "--pull", "never", "--platform", "linux/s390x", "foreign", "true")
	w.ok("tag", "foreign", host+"/foreign")
	w.ok("push", host+"/foreign")
	w.fails(125, []string{"is for linux/arm64, not for linux/s390x"}, "run", "--rm", "--platform", "linux/s390x", host+"/foreign", "true")
	w.ok("tag", "foreign", "localhost:1/foreign")
	w.fails(125, []string{"is for linux/arm64", "can't be fetched"}, "run", "--rm", "--platform", "linux/s390x", "localhost:1/foreign", "true")
}
