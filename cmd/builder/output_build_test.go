// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"builder/image"
	"builder/internal/testutil"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layoutOf is an image layout on disk.
type layoutOf struct {
	t   *testing.T
	dir string
}

func (l layoutOf) read(path string, into any) []byte {
	l.t.Helper()
	data, err := os.ReadFile(filepath.Join(l.dir, path))
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return data
}

func (l layoutOf) blob(d digest.Digest, into any) {
	l.t.Helper()
	if got := digest.FromBytes(l.read("blobs/sha256/"+d.Encoded(), into)); got != d {
		l.t.Errorf("blob %s has digest %s", d, got)
	}
}

// root is the only row of the index.
func (l layoutOf) root() ocispec.Descriptor {
	l.t.Helper()
	var idx ocispec.Index
	l.read("index.json", &idx)
	if len(idx.Manifests) != 1 {
		l.t.Fatalf("%d rows in the index", len(idx.Manifests))
	}
	return idx.Manifests[0]
}

func (l layoutOf) manifest() ocispec.Manifest {
	l.t.Helper()
	var m ocispec.Manifest
	l.blob(l.root().Digest, &m)
	return m
}

// TestOutputForms builds one image in several forms: each has what was asked
// for, the base image's layer is touched only by force-compression, and
// nothing is compressed twice.
func TestOutputForms(t *testing.T) {
	testutil.Require(t, "skopeo")
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nRUN echo new > /new\nCMD [\"cat\", \"/new\"]\n")
	const gzip, zstd = ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd
	forms := []struct {
		name, attributes string
		layers           []string
	}{
		{"plain", "", []string{gzip, gzip}},
		{"zstd", ",compression=zstd", []string{gzip, zstd}},
		{"all", ",compression=zstd,compression-level=3,force-compression=true", []string{zstd, zstd}},
		{"estargz", ",compression=estargz,force-compression=true", []string{gzip, gzip}},
		{"tar", ",compression=uncompressed", []string{gzip, ocispec.MediaTypeImageLayer}},
		{"stored", ",compression-level=0", []string{gzip, gzip}},
		{"docker", ",oci-mediatypes=false,force-compression=true", []string{image.MediaTypeDockerLayerGzip, image.MediaTypeDockerLayerGzip}},
		{"dockerzstd", ",oci-mediatypes=false,compression=zstd", []string{image.MediaTypeDockerLayerGzip, image.MediaTypeDockerLayer + ".zstd"}},
		{"notes", ",annotation.a=1,annotation-manifest-descriptor.b=2", []string{gzip, gzip}},
	}
	args := []string{"."}
	for _, f := range forms {
		args = append(args, "-o", "type=oci,tar=false,dest="+f.name+f.attributes)
	}
	// gzip (twice), zstd of two levels, eStargz, tar, and stored.
	if s := w.stats(args...); s["layersWritten"] != 6 {
		t.Errorf("%d layers written, want one for each compression", s["layersWritten"])
	}
	var base digest.Digest
	for _, f := range forms {
		l := layoutOf{t, filepath.Join(w.dir, f.name)}
		m := l.manifest()
		var types []string
		for _, desc := range m.Layers {
			types = append(types, desc.MediaType)
		}
		if !slices.Equal(types, f.layers) {
			t.Errorf("%s: layers %v, want %v", f.name, types, f.layers)
		}
		if base == "" {
			base = m.Layers[0].Digest
		}
		if kept := m.Layers[0].Digest == base; kept == (f.name == "all" || f.name == "estargz") {
			t.Errorf("%s: the base image's layer is kept: %t", f.name, kept)
		}
		if toc := m.Layers[1].Annotations["containerd.io/snapshot/stargz/toc.digest"]; (toc != "") != (f.name == "estargz") {
			t.Errorf("%s: digest of a table of contents %q", f.name, toc)
		}
		if f.name == "notes" && (m.Annotations["a"] != "1" || l.root().Annotations["b"] != "2") {
			t.Errorf("annotations %v and %v", m.Annotations, l.root().Annotations)
		}
		if !strings.HasPrefix(f.name, "docker") { // skopeo's transport has no docker types
			w.output("skopeo", "--insecure-policy", "copy", "-q", "oci:"+l.dir+":latest", "dir:"+t.TempDir())
		}
	}
	for _, f := range forms {
		if err := os.RemoveAll(filepath.Join(w.dir, f.name)); err != nil {
			t.Fatal(err)
		}
	}
	if s := w.stats(args...); s["layersWritten"] != 0 {
		t.Errorf("%d layers written again", s["layersWritten"])
	}
	// Each form runs.
	for _, f := range forms {
		w.ok("build", "-q", "-t", f.name, "-o", "type=image,unpack=true"+f.attributes, ".")
		if got := w.ok("run", "--rm", f.name); got != "new\n" {
			t.Errorf("%s: run prints %q", f.name, got)
		}
	}
}

// TestOutputTools has other tools read what outputs are.
func TestOutputTools(t *testing.T) {
	testutil.Require(t, "skopeo", "umoci", "podman")
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nRUN echo new > /new\n")
	w.ok("build", "-t", "docker.io/team/out:1", "-o", "type=oci,dest=a/oci.tar", "-o", "type=docker,dest=docker.tar", "-o", "type=docker,tar=false,dest=dir", ".")
	for _, src := range []string{"oci-archive:" + w.dir + "/a/oci.tar:1", "docker-archive:" + w.dir + "/docker.tar:docker.io/team/out:1", "oci:" + w.dir + "/dir:1"} {
		w.output("skopeo", "--insecure-policy", "copy", "-q", src, "dir:"+t.TempDir())
	}
	bundle := filepath.Join(t.TempDir(), "bundle")
	w.output("umoci", "unpack", "--image", w.dir+"/dir:1", bundle)
	if data, err := os.ReadFile(filepath.Join(bundle, "rootfs/new")); err != nil || string(data) != "new\n" {
		t.Errorf("umoci unpacks %q (%v)", data, err)
	}
	if got := w.output("podman", "--root", t.TempDir(), "--runroot", t.TempDir(), "--storage-driver", "vfs", "load", "-q", "-i", w.dir+"/docker.tar"); !strings.Contains(got, "docker.io/team/out:1") {
		t.Errorf("podman load: %s", got)
	}
}

// TestOutputSameBytes: with SOURCE_DATE_EPOCH, two state directories give the
// same bytes of every output, also where one had built without it before.
func TestOutputSameBytes(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base.tar")
	newBench(t).ok("save", "-o", base, "test/base")
	names := []string{"oci.tar", "docker.tar", "estargz.tar", "zstd.tar", "fs.tar"}
	sums := map[string][32]byte{}
	for round := range 2 {
		w := &workbench{t: t, root: t.TempDir(), dir: t.TempDir()}
		w.ok("load", "-i", base)
		w.write("Dockerfile", "FROM test/base\nCOPY f /x/f\nRUN echo 1 > /made && mkdir /dir && ln /made /dir/link\nENV A=1\n")
		w.write("f", "data")
		if round == 1 {
			w.ok("build", ".")
		}
		w.ok("build", "-t", "r", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "-o", "type=oci,dest=oci.tar", "-o", "type=docker,dest=docker.tar",
			"-o", "type=oci,dest=estargz.tar,compression=estargz,force-compression=true", "-o", "type=oci,dest=zstd.tar,compression=zstd,force-compression=true",
			"-o", "type=tar,dest=fs.tar", "-o", "type=local,dest=out", ".")
		for _, name := range names {
			sum := sha256.Sum256([]byte(w.read(name)))
			if old, ok := sums[name]; ok && old != sum {
				t.Errorf("%s: two state directories, two archives", name)
			}
			sums[name] = sum
		}
		for _, name := range []string{"out/x/f", "out/made", "out/dir"} {
			if fi, err := os.Stat(filepath.Join(w.dir, name)); err != nil || fi.ModTime().Unix() != 1700000000 {
				t.Errorf("%s is not of SOURCE_DATE_EPOCH (%v)", name, err)
			}
		}
	}
	w := newBench(t)
	w.write("Dockerfile", "FROM scratch\nCOPY f /\n")
	w.write("f", "data")
	w.ok("build", "-o", "type=oci,tar=false,dest=a,source-date-epoch=1600000000", "-o", "type=oci,tar=false,dest=b", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", ".")
	for name, want := range map[string]int64{"a": 1600000000, "b": 1700000000} {
		l := layoutOf{t, filepath.Join(w.dir, name)}
		var config image.Config
		l.blob(l.manifest().Config.Digest, &config)
		if config.Created.Unix() != want || config.History[0].Created.Unix() != want {
			t.Errorf("%s: created %s, history %s, want %s", name, config.Created, config.History[0].Created, time.Unix(want, 0))
		}
	}
	if r := w.run("build", "-o", "type=image,rewrite-timestamp=true", "."); r.code != 0 || !strings.Contains(r.stderr, "rewrite-timestamp=true does nothing") {
		t.Errorf("rewrite-timestamp without an epoch: %+v", r)
	}
}

func TestOutputLocal(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", `FROM test/base AS files
RUN mkdir -p /d/sub && echo a > /d/a && chown 1000:50 /d/a && chmod 4750 /d/a && ln /d/a /d/sub/b && ln -s a /d/l && mkdir -m 700 /d/private
FROM scratch
COPY --from=files /d /
`)
	w.write("out/keep", "kept")
	w.write("out/sub/other", "kept")
	w.write("out/a/in-the-way", "")
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(w.dir, "out/private")); err != nil {
		t.Fatal(err)
	}
	w.ok("build", "-o", "out", ".")
	fi, err := os.Stat(filepath.Join(w.dir, "out/a"))
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); st.Uid != uint32(os.Getuid()) || st.Gid != uint32(os.Getgid()) || st.Mode&0o7777 != 0o4750 {
		t.Errorf("owner %d:%d, mode %o", st.Uid, st.Gid, st.Mode)
	}
	if other, err := os.Stat(filepath.Join(w.dir, "out/sub/b")); err != nil || !os.SameFile(fi, other) {
		t.Errorf("a hard link is none (%v)", err)
	}
	if link, err := os.Readlink(filepath.Join(w.dir, "out/l")); err != nil || link != "a" {
		t.Errorf("symbolic link to %q (%v)", link, err)
	}
	if fi, err := os.Lstat(filepath.Join(w.dir, "out/private")); err != nil || !fi.IsDir() || fi.Mode().Perm() != 0o700 {
		t.Errorf("what was a symbolic link is %v (%v)", fi, err)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("written through a symbolic link: %v (%v)", left, err)
	}
	if w.read("out/keep") != "kept" || w.read("out/sub/other") != "kept" {
		t.Error("what was there is gone")
	}
	w.ok("build", "-o", "type=local,dest=out,mode=delete", ".")
	if got := w.output("find", w.dir+"/out", "-mindepth", "1", "-printf", "%P "); len(strings.Fields(got)) != 5 || exists(w.dir+"/out/keep") || exists(w.dir+"/out/sub/other") {
		t.Errorf("after mode=delete: %s", got)
	}
	w.ok("build", "-o", "type=local,dest=split,platform-split=true", ".")
	if dir := strings.ReplaceAll(image.FormatPlatform(image.HostPlatform()), "/", "_"); w.read("split/"+dir+"/a") != "a\n" {
		t.Error("no directory for the platform")
	}
}

// TestOutputThroughLink: a symbolic link as dest stays one.
func TestOutputThroughLink(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	w.write("sub/real.tar", "old")
	if err := os.Symlink("sub/real.tar", filepath.Join(w.dir, "link.tar")); err != nil {
		t.Fatal(err)
	}
	w.ok("build", "-o", "type=tar,dest=link.tar", ".")
	if link, err := os.Readlink(filepath.Join(w.dir, "link.tar")); err != nil || link != "sub/real.tar" || w.read("sub/real.tar") == "old" {
		t.Errorf("link to %q (%v), the file is of %d bytes", link, err, len(w.read("sub/real.tar")))
	}
}

func TestOutputPlatforms(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\nCOPY both /\n")
	for _, name := range []string{"amd64", "arm64", "both"} {
		w.write(name, name)
	}
	args := []string{"build", "--platform", "linux/amd64,linux/arm64", "--annotation", "index:i=1", "--annotation", "index-descriptor:d=1", "--annotation", "manifest[linux/arm64]:m=arm", "--annotation", "m=all"}
	w.ok(append(args, "-o", "out", "-o", "type=tar,dest=fs.tar", "-o", "type=oci,tar=false,dest=oci", "-o", "type=image,oci-mediatypes=true", ".")...)
	if w.read("out/linux_amd64/arch") != "amd64" || w.read("out/linux_arm64/arch") != "arm64" {
		t.Error("the platforms' files are not apart")
	}
	if got := w.output("tar", "-tf", w.dir+"/fs.tar"); got != "linux_amd64/\nlinux_amd64/arch\nlinux_amd64/both\nlinux_arm64/\nlinux_arm64/arch\nlinux_arm64/both\n" {
		t.Errorf("tar of\n%s", got)
	}
	l := layoutOf{t, filepath.Join(w.dir, "oci")}
	var idx ocispec.Index
	l.blob(l.root().Digest, &idx)
	if idx.Annotations["i"] != "1" || l.root().Annotations["d"] != "1" || len(idx.Manifests) != 2 {
		t.Errorf("index %+v, named by %+v", idx, l.root())
	}
	for _, m := range idx.Manifests {
		want := map[string]string{"amd64": "all", "arm64": "arm"}[m.Platform.Architecture]
		var manifest ocispec.Manifest
		if l.blob(m.Digest, &manifest); manifest.Annotations["m"] != want {
			t.Errorf("%s: annotations %v", m.Platform.Architecture, manifest.Annotations)
		}
	}
	w.fails(1, []string{"/arch is in both linux/amd64 and linux/arm64"}, "build", "--platform", "linux/amd64,linux/arm64", "-o", "type=local,dest=one,platform-split=false", ".")
	if got := w.output("find", w.dir+"/one", "-mindepth", "1"); got != "" {
		t.Errorf("a failed output leaves\n%s", got)
	}
}

func TestOutputPush(t *testing.T) {
	testutil.Require(t, "docker-registry", "skopeo")
	host := startRegistry(t)
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nRUN echo new > /new\nCMD [\"cat\", \"/new\"]\n")
	name := host + "/team/app"
	w.ok("build", "-t", name+":1", "-t", name+":2", "--push", "--metadata-file", "meta", "--iidfile", "id", ".")
	var meta struct {
		Digest     digest.Digest      `json:"containerimage.digest"`
		Config     digest.Digest      `json:"containerimage.config.digest"`
		Descriptor ocispec.Descriptor `json:"containerimage.descriptor"`
		Name       string             `json:"image.name"`
	}
	layoutOf{t, w.dir}.read("meta", &meta)
	if meta.Name != name+":1,"+name+":2" || meta.Digest != meta.Descriptor.Digest || meta.Config.String() != w.read("id") || meta.Descriptor.Platform == nil {
		t.Errorf("metadata %+v, ID %s", meta, w.read("id"))
	}
	for _, ref := range []string{name + ":1", name + ":2", name + "@" + meta.Digest.String()} {
		w.output("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "docker://"+ref, "dir:"+t.TempDir())
	}
	// By digest alone, without a tag and not stored; and more names.
	w.ok("build", "-o", "type=image,name="+host+"/only,push=true,push-by-digest=true,store=false,annotation.x=y", "--metadata-file", "meta", ".")
	layoutOf{t, w.dir}.read("meta", &meta)
	if meta.Name != host+"/only@"+meta.Digest.String() {
		t.Errorf("name of what was pushed by digest: %s", meta.Name)
	}
	w.fails(1, []string{"no such"}, "inspect", meta.Name)
	other := &workbench{t: t, root: t.TempDir(), dir: t.TempDir()}
	other.ok("pull", meta.Name)
	if got := other.ok("run", "--rm", meta.Name); got != "new\n" {
		t.Errorf("run prints %q", got)
	}
	other.fails(1, []string{"not found"}, "pull", host+"/only")
	w.ok("build", "-q", "-o", "type=image,name=named:1,name-canonical=true,dangling-name-prefix=dangling", "--metadata-file", "meta", ".")
	layoutOf{t, w.dir}.read("meta", &meta)
	for _, ref := range []string{"named:1", "named@" + meta.Digest.String(), "dangling@" + meta.Digest.String()} {
		w.ok("inspect", ref)
	}
	w.fails(1, []string{"output type=image: push 127.0.0.1:1/x:latest", "connection refused"}, "build", "-t", "127.0.0.1:1/x", "--push", ".")
}

// TestOutputFails: a full disk is told, and nothing is left of the output.
func TestOutputFails(t *testing.T) {
	w := newBench(t)
	small := t.TempDir()
	w.output("mount", "-t", "tmpfs", "-o", "size=256k", "small", small)
	t.Cleanup(func() { syscall.Unmount(small, 0) })
	w.write("Dockerfile", "FROM test/base\n")
	if err := os.WriteFile(filepath.Join(small, "old.tar"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{"type=oci,dest=" + small + "/old.tar", "type=tar,dest=" + small + "/new.tar", "type=local,dest=" + small + "/dir", small} {
		w.fails(1, []string{"no space left on device", small}, "build", "-o", out, ".")
	}
	if got := w.output("find", small, "-mindepth", "1", "-printf", "%P "); got != "old.tar dir " && got != "dir old.tar " {
		t.Errorf("left: %s", got)
	}
	if data, err := os.ReadFile(filepath.Join(small, "old.tar")); err != nil || string(data) != "old" {
		t.Errorf("the file that was there is %q (%v)", data, err)
	}
}

// TestOutputKilled: whatever happens to the process, a file is there whole or
// not at all.
func TestOutputKilled(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\n")
	w.ok("build", ".")
	w.write("out.tar", "old")
	cmd := w.command("build", "-o", "type=tar,dest=out.tar", ".")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the output", func() bool {
		temp, err := filepath.Glob(filepath.Join(w.dir, ".out.tar.*"))
		return err == nil && len(temp) > 0 || w.read("out.tar") != "old"
	})
	cmd.Process.Kill()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if data := w.read("out.tar"); data != "old" {
		w.output("tar", "-tf", w.dir+"/out.tar") // it was whole before the signal came
	}
}
