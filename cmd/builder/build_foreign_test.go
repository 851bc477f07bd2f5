// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"builder/internal/testutil"
)

// foreignDockerfile has every instruction that BuildKit's digest is known of.
const foreignDockerfile = `ARG V=1
FROM BASE AS tools
ARG V
ARG W=2
ENV FOO="a b" BAR=$V
RUN echo "$FOO <&> $W" > /tool
RUN ["/bin/sh", "-c", "echo exec > /exec"]
WORKDIR rel
WORKDIR deeper
RUN --mount=type=cache,target=/root/.cache echo cached > /c1
RUN --mount=type=cache,id=other,target=/root/.cache,sharing=locked --mount=type=tmpfs,target=/scratch,size=1000000 echo cached > /c2
RUN --network=none echo none > /c3
RUN <<E
echo heredoc > /h1
echo more > /h2
E
RUN cat <<E > /h3
text
E
USER 1000:1000
WORKDIR /owned
USER 0
SHELL ["/bin/sh", "-e", "-c"]
RUN echo shell > /sh1
FROM BASE
COPY . /all/
COPY dir /d1
COPY dir/ /d2/
COPY a.txt b.txt package.json /three/
COPY a.txt package.json /two/
COPY package*.json /wild/
COPY *.txt /wild2/
COPY d*r /wild3/
COPY alink /al
COPY dirlink /dl
COPY --chown=1:2 a.txt /ch1
COPY --chown=5 a.txt /ch2
COPY --chmod=750 a.txt /cm1
COPY --chmod=u=rwX,go= dir /cm2
COPY dir/x dir /nested/
ADD t.tar /un/
ADD a.txt /ad
COPY a.tx[t] /bracket
COPY dir/su* /w4/
COPY dir/sub/y* /w5/
COPY d*/x dir/s*/y* /w6/
COPY dir/?* /w7/
COPY dir* alink /w8/
COPY --from=tools /tool /exec /usr/bin/
COPY --from=tools /h1 /h1
WORKDIR /end
COPY a.txt .
COPY b.txt sub/
RUN ls
FROM scratch AS s
COPY a.txt /
COPY b.txt package.json /x/
FROM s
COPY --from=1 /all /all
COPY --from=BASE /etc/passwd /etc/
FROM BASE
COPY --link a.txt /l1
COPY --link --from=tools /tool /l2
RUN --mount=type=secret,id=tok --mount=type=secret,id=tok2,env=TOK --mount=type=secret,id=x,target=/y,mode=444,required=false echo secret
RUN --mount=type=ssh echo ssh
RUN --mount=type=bind,target=/ctx ls /ctx
RUN --mount=type=bind,source=dir,target=/ctx --mount=type=bind,source=a.txt,target=/f --mount=from=tools,target=/t --mount=from=tools,source=/etc,target=/t2,rw ls /ctx
RUN --mount=type=cache,target=/c,ro --mount=from=tools,source=/tool,target=/b ls
COPY --from=tools --link /h1 /x
COPY --from=2 /x /xx
COPY --from=1 /end /e1
COPY --from=3 /all/a.txt /e2
`

// writeForeign makes the build context of foreignDockerfile in a directory.
func writeForeign(t *testing.T, dir, base string) {
	t.Helper()
	var archive bytes.Buffer
	tw := tar.NewWriter(&archive)
	if err := tw.WriteHeader(&tar.Header{Name: "x", Mode: 0o644, Size: 2, Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	tw.Write([]byte("x\n"))
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		name, data string
		mode       os.FileMode
	}{
		{"Dockerfile", string(bytes.ReplaceAll([]byte(foreignDockerfile), []byte("BASE"), []byte(base))), 0o644},
		{".dockerignore", "*.log\nskip\n!skip/keep\nDockerfile\n", 0o644},
		{"a.txt", "a\n", 0o644}, {"b.txt", "b\n", 0o600}, {"c.log", "c\n", 0o644}, {"dir/x", "x\n", 0o4755}, {"dir/sub/y z", "<&>\n", 0o644},
		{"skip/s", "s\n", 0o644}, {"skip/keep", "keep\n", 0o644}, {"package.json", "{}\n", 0o644}, {"package-lock.json", "{}\n", 0o644},
		{"t.tar", archive.String(), 0o644},
	} {
		name := filepath.Join(dir, f.name)
		err := os.MkdirAll(filepath.Dir(name), 0o755)
		if err == nil {
			err = os.WriteFile(name, []byte(f.data), f.mode)
		}
		if err == nil {
			err = os.Chmod(name, f.mode)
		}
		if err == nil && f.mode&0o4000 != 0 {
			err = os.Chmod(name, f.mode&0o777|os.ModeSetuid)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "dir/empty"), 0o755),
		os.Symlink("x", filepath.Join(dir, "dir/link")), os.Symlink("dir", filepath.Join(dir, "dirlink")),
		os.Symlink("a.txt", filepath.Join(dir, "alink")), os.Link(filepath.Join(dir, "dir/x"), filepath.Join(dir, "dir/hard")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestBuildKitDigests writes a cache of a build whose every step BuildKit has
// built too: each step's record has the digest that BuildKit's cache has for
// it, and so have the files of the build context.
//
// testdata/buildkit-cache.json was made by BuildKit's --export-cache
// type=local,mode=max of the same context, which BUILDER_WRITE_CONTEXT=DIR has
// this test write. Records without inputs that are of images, or of the files
// of stages, are left out: those of stages are not worked out here, and what
// there is of images depends on the base image.
func TestBuildKitDigests(t *testing.T) {
	testutil.Require(t, "root")
	if dir := os.Getenv("BUILDER_WRITE_CONTEXT"); dir != "" {
		writeForeign(t, dir, os.Getenv("BUILDER_WRITE_BASE"))
	}
	var want struct{ Steps, Contents []string }
	data, err := os.ReadFile("../../testdata/buildkit-cache.json")
	if err == nil {
		err = json.Unmarshal(data, &want)
	}
	if err != nil {
		t.Fatal(err)
	}
	w := newBench(t)
	writeForeign(t, w.dir, "test/base")
	cache := filepath.Join(t.TempDir(), "cache")
	w.ok("build", "-q", "--cache-to", "type=local,mode=max,dest="+cache, ".")
	l := layoutOf{t, cache}
	var config struct{ Records []struct{ Digest string } }
	l.blob(l.manifest().Config.Digest, &config)
	var have []string
	for _, r := range config.Records {
		have = append(have, r.Digest)
	}
	if len(want.Steps) < 45 || len(want.Contents) < 12 {
		t.Fatalf("%d steps and %d contents are recorded", len(want.Steps), len(want.Contents))
	}
	for _, d := range slices.Concat(want.Steps, want.Contents) {
		if !slices.Contains(have, d) {
			t.Errorf("BuildKit's cache has %s, ours has not", d)
		}
	}
}
