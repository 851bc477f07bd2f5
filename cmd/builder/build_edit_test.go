// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"builder/internal/testutil"
)

// configOf is the config of an image.
func (w *workbench) configOf(name string) (c struct {
	Created string
	Config  struct {
		Env    []string
		Labels map[string]string
	}
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
		Layers  []string
	}
	History []struct{ Created, CreatedBy string }
}) {
	w.t.Helper()
	var all []json.RawMessage
	if err := json.Unmarshal([]byte(w.ok("inspect", name)), &all); err != nil || len(all) != 1 {
		w.t.Fatalf("inspect %s: %v, %d images", name, err, len(all))
	}
	if err := json.Unmarshal(all[0], &c); err != nil {
		w.t.Fatal(err)
	}
	return c
}

func TestEditedImage(t *testing.T) {
	w := newBench(t)
	w.write("base/Dockerfile", "FROM test/base\nENV KEEP=1 DROP=2\nLABEL keep=1 drop=2\n")
	w.ok("build", "-t", "parent", "base")
	w.write("args", "# comment\n\nFROM_FILE=file\nBOTH=file\n")
	w.write("Dockerfile", `FROM nowhere:0
ARG FROM_FILE
ARG BOTH
RUN echo "$FROM_FILE $BOTH" > /args
RUN echo gone > /gone; mkdir /d; echo d > /d/f
RUN rm /gone /etc/group; echo e > /d/e
`)
	args := []string{"build", "--from", "parent", "--build-arg-file", "args", "--build-arg", "BOTH=flag", "--unsetenv", "DROP", "--unsetlabel", "drop", "--label", "flag=x", "--label", "empty"}
	w.ok(append(args, "-t", "edited", ".")...)
	c := w.configOf("edited")
	if env := strings.Join(c.Config.Env, " "); !strings.Contains(env, "KEEP=1") || strings.Contains(env, "DROP") {
		t.Errorf("environment %q", env)
	}
	if l := c.Config.Labels; l["keep"] != "1" || l["flag"] != "x" || len(l) != 3 {
		t.Errorf("labels %v", l)
	}
	if got := w.ok("run", "--rm", "edited", "cat", "/args"); got != "file flag\n" {
		t.Errorf("arguments %q", got)
	}

	// One layer holds what the three steps made, and nothing of what is gone.
	w.ok(append(args, "--squash", "-t", "squashed", "-o", "type=oci,dest=squashed.tar", "--load", ".")...)
	if n := w.layers("squashed"); n != 2 {
		t.Errorf("%d layers, want the base image's and one", n)
	}
	if got := w.ok("run", "--rm", "squashed", "sh", "-c", "cat /d/e /d/f /args; ls /gone /etc/group 2>&1 | wc -l"); got != "e\nd\nfile flag\n2\n" {
		t.Errorf("squashed: %q", got)
	}
	dir := unpackArchive(t, filepath.Join(w.dir, "squashed.tar"))
	out, err := exec.Command("sh", "-c", "cd "+dir+"/blobs/sha256 && for f in *; do tar -tzf $f 2>/dev/null | grep gone; done; true").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("a layer has what was removed: %s %v", out, err)
	}
	if s := w.stats(append(args[1:], "--squash", "-t", "squashed", ".")...); s["cached"] != s["steps"] || s["layersWritten"] != 0 {
		t.Errorf("again: %v", s)
	}
	if len(strings.Split(strings.TrimSpace(w.ok("history", "-q", "squashed")), "\n")) != len(strings.Split(strings.TrimSpace(w.ok("history", "-q", "edited")), "\n")) {
		t.Error("squashing changes the number of lines of the history")
	}

	// The time of everything, whatever the clock says.
	var ids []string
	for range 2 {
		w.ok(append(args, "--no-cache", "--timestamp", "1234567890", "--omit-history", "-t", "dated", "--iidfile", "id", ".")...)
		ids = append(ids, w.ok("images", "-q", "--no-trunc", "dated"))
	}
	if ids[0] != ids[1] {
		t.Errorf("two builds with --timestamp: %v", ids)
	}
	if c := w.configOf("dated"); c.Created != "2009-02-13T23:31:30Z" {
		t.Errorf("created %s", c.Created)
	}
	if got := w.ok("run", "--rm", "dated", "stat", "-c", "%Y", "/d/f"); got != "1234567890\n" {
		t.Errorf("time of a file %q", got)
	}
	if out := w.ok("history", "-q", "dated"); strings.TrimSpace(out) != "" {
		t.Errorf("history is there:\n%s", out)
	}
}

// layers is the number of an image's layers.
func (w *workbench) layers(name string) int {
	c := w.configOf(name)
	return len(c.RootFS.DiffIDs) + len(c.RootFS.Layers)
}

func TestNoCacheFilter(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base AS one\nRUN echo 1 > /a\nFROM test/base AS two\nRUN echo 2 > /b\nFROM test/base\nCOPY --from=one /a /\nCOPY --from=two /b /\n")
	w.ok("build", ".")
	if s := w.stats("--no-cache-filter", "ONE,three", "."); s["steps"] != 4 || s["cached"] != 3 {
		t.Errorf("%d of %d steps cached, want 3 of 4: stage one runs, what is copied from it is the same", s["cached"], s["steps"])
	}
}

func TestSourceDateEpoch(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "ARG SOURCE_DATE_EPOCH=1000000000\nFROM test/base\nRUN touch /x\n")
	w.ok("build", "-t", "dated", ".")
	if c := w.configOf("dated"); c.Created != "2001-09-09T01:46:40Z" {
		t.Errorf("created %s by the ARG's default", c.Created)
	}
	w.ok("build", "-t", "dated", "--build-arg", "SOURCE_DATE_EPOCH=1100000000", ".")
	if c := w.configOf("dated"); c.Created != "2004-11-09T11:33:20Z" {
		t.Errorf("created %s by the build argument", c.Created)
	}
	w.ok("build", "-t", "dated", "--build-arg", "SOURCE_DATE_EPOCH=context", ".")
	if c := w.configOf("dated"); strings.HasPrefix(c.Created, "20") && c.Created < "2025" {
		t.Errorf("created %s by a directory, which has no time", c.Created)
	}
	w.fails(1, []string{"SOURCE_DATE_EPOCH", `"soon"`, "seconds since 1970"}, "build", "--build-arg", "SOURCE_DATE_EPOCH=soon", ".")
}

// TestRefusedFlags holds that no flag of a peer is accepted and ignored.
func TestRefusedFlags(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\n")
	for _, f := range refusedByBuild {
		w.fails(2, []string{"--" + f.name, "not supported", f.why}, "build", "--"+f.name+"=other", ".")
		for _, v := range f.harmless {
			w.ok("build", "--"+f.name+"="+v, ".")
		}
	}
	for _, bad := range [][]string{
		{"unsetenv", "A=b"}, {"unsetlabel", ""}, {"label", "=x"}, {"timestamp", "now"}, {"timestamp", "-1"}, {"build-arg", "=x"},
		{"build-arg-file", "nowhere"}, {"build-arg-file", "Dockerfile"}, {"retry", "-1"}, {"retry-delay", "x"}, {"platform", "linux/amd64,"},
		{"build-arg", "BUILDKIT_MULTI_PLATFORM=maybe"}, {"pull", "sometimes"},
	} {
		w.fails(2, []string{"--" + bad[0]}, "build", "--"+bad[0]+"="+bad[1], ".")
	}
	w.write("Missing", "FROM 127.0.0.1:1/missing\n")
	w.fails(1, []string{"Missing:1", "--pull=never"}, "build", "--pull=never", "-f", "Missing", ".")
	w.fails(1, []string{"Missing:1", "127.0.0.1:1"}, "build", "--pull", "--retry=0", "-f", "Missing", ".")
	w.fails(2, []string{"--timestamp", "SOURCE_DATE_EPOCH"}, "build", "--timestamp=1", "--build-arg=SOURCE_DATE_EPOCH=1", ".")
}

func TestUnusedArgs(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "ARG GLOBAL\nFROM test/base AS other\nARG COLOUR\nFROM test/base\n")
	quiet := w.run("build", "--build-arg", "GLOBAL=1", "--build-arg", "COLOUR=red", "--build-arg", "http_proxy=x", "--build-arg", "TARGETARCH=x", "--build-arg", "BUILDKIT_INLINE_CACHE=0", ".")
	if quiet.code != 0 || strings.Contains(quiet.stderr, "not used") || strings.Contains(quiet.stderr, "no effect") {
		t.Errorf("exit code %d\n%s", quiet.code, quiet.stderr)
	}
	r := w.run("build", "--build-arg", "COLOR=red", "--build-arg", "BUILDKIT_INLINE_CACHE=1", ".")
	for _, word := range []string{"COLOR is not used", "did you mean COLOUR", "BUILDKIT_INLINE_CACHE has no effect"} {
		if !strings.Contains(r.stderr, word) {
			t.Errorf("no %q in\n%s", word, r.stderr)
		}
	}
}

// TestSourceDateEpochOf takes the time from where the files come.
func TestSourceDateEpochOf(t *testing.T) {
	w, git, web := newBench(t), testutil.NewGitServer(t), newWebServer(t)
	const committed, modified = "2023-11-14T22:13:20Z", "2006-01-02T15:04:05Z" // what the servers say
	git.Repository(t, "r").Commit("Dockerfile", "ARG SOURCE_DATE_EPOCH=context\nFROM test/base\nCOPY Dockerfile /\n")
	web.put("/c.tar", tarOf(t, "Dockerfile", "FROM test/base\nCOPY Dockerfile /\n"))
	web.put("/f", "f")
	w.write("Dockerfile", "FROM test/base\n")
	w.write("Stage", "ARG SOURCE_DATE_EPOCH=when\nFROM scratch AS when\nARG FILE=none\nADD "+web.URL+"/$FILE /\nFROM test/base\nLABEL a=$SOURCE_DATE_EPOCH\n")
	for _, tt := range []struct {
		want string
		args []string
	}{
		{committed, []string{git.RepositoryURL("r")}},
		{committed, []string{"--build-arg", "SOURCE_DATE_EPOCH=context", git.RepositoryURL("r")}},
		{modified, []string{"--build-arg", "SOURCE_DATE_EPOCH=context", web.URL + "/c.tar"}},
		{committed, []string{"--build-arg", "SOURCE_DATE_EPOCH=src", "--build-context", "src=" + git.RepositoryURL("r"), "."}},
		{modified, []string{"-f", "Stage", "--build-arg", "FILE=f", "."}},
	} {
		w.ok(append([]string{"build", "-t", "dated"}, tt.args...)...)
		if c := w.configOf("dated"); c.Created != tt.want {
			t.Errorf("%q: created %s, want %s", tt.args, c.Created, tt.want)
		}
	}
	for source, word := range map[string]string{
		"ARG SOURCE_DATE_EPOCH=a\nFROM test/base AS a\nFROM scratch\n":                           "must be FROM scratch",
		"ARG SOURCE_DATE_EPOCH=a\nFROM scratch AS a\nFROM scratch\n":                             "no remote ADD",
		"ARG SOURCE_DATE_EPOCH=a\nFROM scratch AS a\nADD Dockerfile /\nFROM scratch\n":           "exactly one ADD",
		"ARG SOURCE_DATE_EPOCH=a\nFROM scratch AS a\nCOPY Dockerfile /\nFROM scratch\n":          "can't have COPY",
		"ARG SOURCE_DATE_EPOCH=a\nFROM scratch AS a\nADD " + web.URL + "/none /\nFROM scratch\n": "404 Not Found",
		"ARG SOURCE_DATE_EPOCH=b\nFROM scratch AS a\n":                                           "the name of a named context or a stage",
	} {
		w.write("Bad", source)
		w.fails(1, []string{"Bad", "SOURCE_DATE_EPOCH", word}, "build", "-f", "Bad", ".")
	}
}

func TestIgnoreFile(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nCOPY . /c\n")
	w.write(".dockerignore", "a\n")
	w.write("Dockerfile.dockerignore", "b\n")
	w.write("other", "c\nDockerfile*\nother\n.dockerignore\n")
	for _, name := range []string{"a", "b", "c"} {
		w.write(name, name)
	}
	w.ok("build", "--ignorefile", "other", "-t", "app", ".")
	if got := w.ok("run", "--rm", "app", "ls", "/c"); got != "a\nb\n" {
		t.Errorf("copied %q", got)
	}
	w.fails(1, []string{"--ignorefile", `"none"`, "not there"}, "build", "--ignorefile", "none", ".")
}
