// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"builder/internal/testutil"
)

// TestSecondBuildDoesNothing holds what "cached" means: no step runs, no file
// of the context is read, no layer is written, and the image is the same.
func TestSecondBuildDoesNothing(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", `FROM test/base AS build
WORKDIR /src
COPY a b /src/
RUN cat a b > c
FROM test/base
ENV X=1
COPY --from=build /src/c /c
RUN test "$(cat /c)" = 12
CMD ["cat", "/c"]
`)
	w.write("a", "1")
	w.write("b", "2")
	settle(t, w)
	first := w.stats("-t", "app", "--iidfile", "id1", ".")
	if first["steps"] != 5 || first["cached"] != 0 {
		t.Errorf("first build: %d steps, %d cached, want 5 and 0", first["steps"], first["cached"])
	}
	second := w.stats("-t", "app", "--iidfile", "id2", ".")
	want := map[string]int{"steps": 5, "cached": 5, "filesHashed": 0, "bytesHashed": 0, "layersWritten": 0}
	for k, v := range want {
		if second[k] != v {
			t.Errorf("second build: %s is %d, want %d", k, second[k], v)
		}
	}
	if a, b := w.read("id1"), w.read("id2"); a != b || a == "" {
		t.Errorf("the image changed: %q, then %q", a, b)
	}
	if r := w.run("build", "--iidfile", "id2", "--target", "none", "."); r.code == 0 {
		t.Error("a build of no stage succeeds")
	} else if _, err := os.Stat(filepath.Join(w.dir, "id2")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after a build that failed the file has the ID of another one: %v", err)
	}
	w.write("b", "3")
	third := w.stats("-t", "app", ".", "--build-arg", "UNUSED=1", "--target", "build")
	if third["filesHashed"] != 1 || third["cached"] != 1 {
		t.Errorf("one changed file: %d files hashed, %d steps cached, want 1 and 1", third["filesHashed"], third["cached"])
	}
}

// settle makes the context's files older than the index's clock can tell from
// now, so that their digests may be remembered.
func settle(t *testing.T, w *workbench) {
	t.Helper()
	probe := filepath.Join(w.dir, ".settle")
	var first syscall.Stat_t
	stamp := func(st *syscall.Stat_t) {
		if err := os.WriteFile(probe, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Stat(probe, st); err != nil {
			t.Fatal(err)
		}
		os.Remove(probe)
	}
	stamp(&first)
	waitFor(t, "the file system's clock moving on", func() bool {
		var now syscall.Stat_t
		stamp(&now)
		return now.Ctim.Nano()-first.Ctim.Nano() > 50_000_000
	})
}

func (w *workbench) read(name string) string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.dir, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(data)
}

// TestUnchangedStageIsAHit holds that COPY --from is keyed by what is copied.
func TestUnchangedStageIsAHit(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", `FROM test/base AS build
COPY in /in
RUN grep -c . /in > /out
FROM test/base
COPY --from=build /out /out
RUN cat /out > /copy
`)
	w.write("in", "one\n")
	w.stats("-t", "app", ".")
	w.write("in", "two\n")
	s := w.stats("-t", "app", ".")
	if s["steps"] != 4 || s["cached"] != 2 {
		t.Errorf("%d of %d steps cached, want 2 of 4: the file copied is the same", s["cached"], s["steps"])
	}
}

func TestWrongInput(t *testing.T) {
	w := newBench(t)
	w.write("file", "x")
	tests := []struct {
		name       string
		dockerfile string
		args       []string
		words      []string
	}{
		{"missing file", "FROM test/base\nCOPY nothere /\n", nil, []string{"Dockerfile:2", `"/nothere"`, "not found", ">>> COPY nothere"}},
		{"missing file excluded", "FROM test/base\nCOPY ignored.txt /\n", nil, []string{"Dockerfile:2", "ignored.txt", ".dockerignore"}},
		{"unknown instruction", "FROM test/base\nRUM true\n", nil, []string{"Dockerfile:2", "unknown instruction: RUM", "did you mean RUN"}},
		{"unknown flag of an instruction", "FROM test/base\nCOPY --form=a x /\n", nil, []string{"Dockerfile:2", "unknown flag: --form", "did you mean from"}},
		{"undefined stage as image", "FROM test/base\nCOPY --from=127.0.0.1:1/x /a /b\n", nil, []string{"Dockerfile:2", "127.0.0.1:1"}},
		{"stage defined later", "FROM test/base AS a\nCOPY --from=b /a /b\nFROM test/base AS b\nCOPY --from=a /x /\n", []string{"--target", "a"}, []string{"Dockerfile", "circular dependency"}},
		{"undefined target", "FROM test/base AS build\n", []string{"--target", "biuld"}, []string{`target stage "biuld"`, "did you mean build"}},
		{"bad expansion", "FROM test/base\nENV A=${B:?is needed}\n", nil, []string{"Dockerfile:2", "is needed"}},
		{"bad substitution", "FROM test/base\nENV A=${B!x}\n", nil, []string{"Dockerfile:2", "unsupported modifier"}},
		{"empty", "", nil, []string{"is empty"}},
		{"no FROM", "ARG X=1\n", nil, []string{"FROM"}},
		{"blank base", "ARG B\nFROM ${B}\n", nil, []string{"Dockerfile:2", "should not be blank"}},
		{"bad reference", "FROM Not/Valid\n", nil, []string{"Dockerfile:1", "lower case"}},
		{"bad port", "FROM test/base\nEXPOSE 99999999\n", nil, []string{"Dockerfile:2", "99999999"}},
		{"bad signal", "FROM test/base\nSTOPSIGNAL SIGNOPE\n", nil, []string{"Dockerfile:2", "SIGNOPE"}},
		{"bad stage index", "FROM test/base\nCOPY --from=7 /a /b\n", nil, []string{"Dockerfile:2", "invalid stage index 7"}},
		{"bad chmod", "FROM test/base\nCOPY --chmod=99 file /\n", nil, []string{"Dockerfile:2", "99"}},
		{"unreachable ADD", "FROM test/base\nADD http://127.0.0.1:1/x /\n", nil, []string{"Dockerfile:2", "fetch http://127.0.0.1:1/x", "connection refused"}},
		{"failing RUN", "FROM test/base\nRUN echo out; echo err >&2; exit 7\n", nil, []string{"Dockerfile:2", "exit code 7", "out", "err", ">>> RUN echo out"}},
		{"missing program", "FROM test/base\nRUN [\"/no/such\"]\n", nil, []string{"Dockerfile:2", "/no/such"}},
		{"unknown user", "FROM test/base\nUSER nobody-here\nRUN true\n", nil, []string{"Dockerfile:3", "nobody-here"}},
		{"foreign platform", "FROM scratch\nCOPY mips /sh\nRUN [\"/sh\"]\n", []string{"--platform", "linux/mips64"}, []string{"Dockerfile:3", "programs for mips64 can't run", "hint: install an emulator"}},
	}
	w.write(".dockerignore", "ignored.txt\n")
	w.write("ignored.txt", "")
	w.write("mips", "\x7fELF\x02\x02\x01"+strings.Repeat("\x00", 9)+"\x00\x02\x00\x08"+strings.Repeat("\x00", 60))
	if err := os.Chmod(filepath.Join(w.dir, "mips"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &workbench{t: t, root: w.root, dir: w.dir}
			w.write("Dockerfile", tt.dockerfile)
			w.fails(1, tt.words, append([]string{"build", "-t", "bad", "."}, tt.args...)...)
		})
	}
	if out := w.ok("images", "-q", "bad"); out != "" {
		t.Errorf("a failed build left an image: %s", out)
	}
	w.write("Dockerfile", "FROM test/base\nRUN true\n")
	w.ok("build", "-t", "good", ".")
}

func TestWrongFlags(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\n")
	tests := []struct {
		args  []string
		words []string
	}{
		{[]string{"bild", "."}, []string{`unknown command "bild"`}},
		{[]string{"build", "--nope", "."}, []string{"unknown flag: --nope"}},
		{[]string{"build"}, []string{"0 arguments given"}},
		{[]string{"build", ".", "."}, []string{"2 arguments given"}},
		{[]string{"build", "-t", "UPPER", "."}, []string{"--tag", "lower case"}},
		{[]string{"build", "--network", "bridge", "."}, []string{"--network", `"bridge"`}},
		{[]string{"build", "--shm-size", "lots", "."}, []string{"--shm-size", "lots"}},
		{[]string{"build", "--ulimit", "nofile", "."}, []string{"--ulimit", "nofile"}},
		{[]string{"build", "--add-host", "x", "."}, []string{"--add-host", `"x"`}},
		{[]string{"build", "--add-host", "x:y", "."}, []string{"--add-host", `"y"`}},
		{[]string{"build", "--platform", "a/b/c/d", "."}, []string{"--platform", "a/b/c/d"}},
		{[]string{"build", "--progress", "loud", "."}, []string{"--progress", "loud"}},
		{[]string{"build", "-o", "type=nope,dest=x", "."}, []string{"--output", `"nope"`}},
		{[]string{"build", "-o", "type=oci,dest=x,colour=red", "."}, []string{"--output", `"colour"`}},
		{[]string{"build", "-f", "-", "-"}, []string{"standard input"}},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			(&workbench{t: t, root: w.root, dir: w.dir}).fails(2, tt.words, tt.args...)
		})
	}
	w.fails(1, []string{"Dockerfile", "is not there", "hint:"}, "build", "-f", "other", ".")
	w.fails(1, []string{`"nodir"`, "no such file"}, "build", "nodir")
}

// TestDestinationLinks copies through links that lead out of the image: they
// stay in it, and loops are told.
func TestDestinationLinks(t *testing.T) {
	w := newBench(t)
	canary := t.TempDir()
	w.write("file", "x")
	w.write("Dockerfile", fmt.Sprintf(`FROM test/base
RUN ln -s %s /abs && ln -s ../../../../../..%s /up && ln -s loop /loop
COPY file /abs/one
COPY file /up/two
`, canary, canary))
	w.ok("build", "-t", "links", ".")
	if entries, _ := os.ReadDir(canary); len(entries) > 0 {
		t.Errorf("the build wrote to the host: %v", entries)
	}
	if out := w.ok("run", "--rm", "links", "cat", canary+"/one", canary+"/two"); out != "xx" {
		t.Errorf("in the image there is %q, want both files", out)
	}
	w.write("Dockerfile", "FROM test/base\nRUN ln -s loop /loop\nCOPY file /loop/x\n")
	w.fails(1, []string{"Dockerfile:3", "too many symbolic links"}, "build", ".")
}

// TestKilled kills builds with SIGKILL while a RUN runs and while a layer is
// written; the next build works and nothing is left of the dead one.
func TestKilled(t *testing.T) {
	w := newBench(t)
	for name, dockerfile := range map[string]string{
		"run":    "FROM test/base\nRUN --mount=type=cache,target=/c touch /c/begun; sleep 1000\n",
		"commit": "FROM test/base\nRUN --mount=type=cache,target=/c head -c 300000000 /dev/urandom > /big; touch /c/begun\nRUN sleep 1000\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := &workbench{t: t, root: w.root, dir: w.dir}
			os.RemoveAll(filepath.Join(w.root, "cache", "mounts"))
			w.write("Dockerfile", dockerfile)
			cmd := w.command("build", "-t", "killed", ".")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the step's start", func() bool {
				found, _ := filepath.Glob(filepath.Join(w.root, "cache", "mounts", "*", "begun"))
				return len(found) > 0
			})
			cmd.Process.Kill()
			cmd.Wait()
			waitFor(t, "the end of the killed build's processes", func() bool {
				out, _ := exec.Command("pgrep", "-f", "^sleep 1000").Output()
				return len(out) == 0
			})
			w.write("Dockerfile", "FROM test/base\nRUN echo works > /f\n")
			w.ok("build", "-t", "after", ".")
			if out := w.ok("run", "--rm", "after", "cat", "/f"); out != "works\n" {
				t.Errorf("after the kill /f is %q", out)
			}
			waitFor(t, "the removal of what was left", func() bool {
				w.ok("build", "-t", "after", ".")
				left, _ := filepath.Glob(filepath.Join(w.root, "tmp", "*"))
				return len(left) == 0
			})
			if out := w.ok("images", "-q", "killed"); out != "" {
				t.Errorf("the killed build left an image")
			}
			w.verify()
		})
	}
}

// verify recomputes the digest of every blob.
func (w *workbench) verify() {
	w.t.Helper()
	blobs, err := filepath.Glob(filepath.Join(w.root, "blobs", "sha256", "*"))
	if err != nil || len(blobs) == 0 {
		w.t.Fatalf("no blobs: %v", err)
	}
	out, err := exec.Command("sha256sum", blobs...).Output()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, l := range lines(string(out)) {
		sum, name, _ := strings.Cut(l, "  ")
		if filepath.Base(name) != sum {
			w.t.Errorf("blob %s has digest %s", filepath.Base(name), sum)
		}
	}
}

func TestInterrupted(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nRUN --mount=type=cache,target=/c touch /c/begun; trap '' INT TERM; sleep 1001\n")
	cmd := w.command("build", ".")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the step's start", func() bool {
		found, _ := filepath.Glob(filepath.Join(w.root, "cache", "mounts", "*", "begun"))
		return len(found) > 0
	})
	cmd.Process.Signal(os.Interrupt)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("exit code %d, want %d\n%s", code, exitInterrupted, &stderr)
	}
	if out, _ := exec.Command("pgrep", "-f", "^sleep 1001").Output(); len(out) > 0 {
		t.Errorf("the step's process outlives the build: %s", out)
	}
	if left, _ := filepath.Glob(filepath.Join(w.root, "tmp", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestFullDisk builds on a file system that is too small.
func TestFullDisk(t *testing.T) {
	w := newBench(t)
	testutil.Require(t, "mkfs.ext4")
	file := filepath.Join(t.TempDir(), "disk")
	if out, err := exec.Command("sh", "-c", "truncate -s 64M "+file+" && mkfs.ext4 -q "+file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	small := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", file, small).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", small).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	w = &workbench{t: t, root: filepath.Join(small, "state"), dir: w.dir}
	cmd := w.command("import", "-", "test/base")
	cmd.Stdin = bytes.NewReader(baseTar(t))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.write("Dockerfile", "FROM test/base\nRUN dd if=/dev/zero of=/big bs=1M count=200\n")
	w.fails(1, []string{"Dockerfile:2", "No space left on device"}, "build", "-t", "big", ".")

	big := filepath.Join(w.dir, "big")
	if err := os.WriteFile(big, make([]byte, 100_000_000), 0o600); err != nil {
		t.Fatal(err)
	}
	w.write("Dockerfile", "FROM test/base\nCOPY big /\n")
	w.fails(1, []string{"Dockerfile:2", "no space left on device"}, "build", "-t", "big", ".")

	// The files fit, their layer doesn't: what can't be compressed needs
	// room for blob and tree.
	if err := exec.Command("sh", "-c", "head -c 30000000 /dev/urandom > "+big).Run(); err != nil {
		t.Fatal(err)
	}
	w.fails(1, []string{"no space left on device"}, "build", "-t", "big", ".")
	os.Remove(big)

	w.write("Dockerfile", "FROM test/base\nRUN echo fits > /f\n")
	w.ok("build", "-t", "fits", ".")
	if out := w.ok("run", "--rm", "fits", "cat", "/f"); out != "fits\n" {
		t.Errorf("after the disk was full /f is %q", out)
	}
	if out := w.ok("images", "-q", "big"); out != "" {
		t.Error("a build that had no room left an image")
	}
	w.verify()
}

// TestTwoBuildsAtOnce builds the same in two processes: each step runs once.
func TestTwoBuildsAtOnce(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", `FROM test/base
RUN --mount=type=cache,target=/c sleep 0.5; echo one >> /c/count
RUN --mount=type=cache,target=/c echo two >> /c/count
`)
	cmds := []*exec.Cmd{w.command("build", "-q", "-t", "a", "."), w.command("build", "-q", "-t", "b", ".")}
	outs := make([]bytes.Buffer, len(cmds))
	for i, c := range cmds {
		c.Stdout, c.Stderr = &outs[i], os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range cmds {
		if err := c.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if outs[0].String() != outs[1].String() {
		t.Errorf("the images differ: %s and %s", &outs[0], &outs[1])
	}
	counts, err := filepath.Glob(filepath.Join(w.root, "cache", "mounts", "*", "count"))
	if err != nil || len(counts) != 1 {
		t.Fatalf("count files: %v %v", counts, err)
	}
	data, err := os.ReadFile(counts[0])
	if err != nil || string(data) != "one\ntwo\n" {
		t.Errorf("the steps ran as %q, want each once", data)
	}
}

// TestContexts builds from standard input, a tar and with a Dockerfile from
// elsewhere.
func TestContexts(t *testing.T) {
	w := newBench(t)
	w.write("ctx/file", "content")
	w.write("ctx/Dockerfile", "FROM test/base\nCOPY file /file\n")
	w.write("elsewhere/Other", "FROM test/base\nCOPY file /other\n")
	w.ok("build", "-t", "dir", "ctx")
	w.ok("build", "-t", "other", "-f", "elsewhere/Other", "ctx")
	stdin := func(data []byte, args ...string) result {
		cmd := w.command(args...)
		cmd.Stdin = bytes.NewReader(data)
		return w.finish(cmd)
	}
	for _, compress := range []string{"cat", "gzip", "xz", "zstd", "bzip2"} {
		archive, err := exec.Command("sh", "-c", "tar -C "+w.dir+"/ctx -c . | "+compress).Output()
		if err != nil {
			t.Fatal(err)
		}
		if r := stdin(archive, "build", "-t", "tar-"+compress, "-"); r.code != 0 {
			t.Errorf("%s: %s", compress, r.stderr)
		} else if out := w.ok("run", "--rm", "tar-"+compress, "cat", "/file"); out != "content" {
			t.Errorf("%s: /file is %q", compress, out)
		}
	}
	archive, err := exec.Command("tar", "-C", w.dir+"/ctx", "--owner=1000", "--group=50", "-c", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if r := stdin(archive, "build", "-t", "owned", "-"); r.code != 0 {
		t.Error(r.stderr)
	} else if out := w.ok("run", "--rm", "owned", "stat", "-c", "%u:%g", "/file"); out != "1000:50\n" {
		t.Errorf("a file of an archive has the owner %s, want the archive's", out)
	}
	if r := stdin([]byte("FROM test/base\nRUN echo hi > /hi\n"), "build", "-t", "nocontext", "-"); r.code != 0 {
		t.Error(r.stderr)
	}
	if r := stdin([]byte("FROM test/base\nCOPY x /\n"), "build", "-"); r.code != 1 || !strings.Contains(r.stderr, `"/x": not found`) {
		t.Errorf("COPY without a context: %d %s", r.code, r.stderr)
	}
	if r := stdin([]byte("FROM test/base\nCOPY file /\n"), "build", "-t", "x", "-f", "-", "ctx"); r.code != 0 {
		t.Error(r.stderr)
	}
	if r := stdin([]byte("\x1f\x8b but no gzip"), "build", "-"); r.code != 1 {
		t.Errorf("a broken archive: %d %s", r.code, r.stderr)
	}
}

// TestOutputs writes every kind of output and reads them with other tools.
func TestOutputs(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base AS base\nRUN mkdir /d && echo x > /d/f && ln /d/f /d/g && chmod 4755 /d/f\nFROM scratch\nCOPY --from=base /d /d\nCMD [\"/d/f\"]\n")
	w.ok("build", "-t", "out:1", "-o", "type=oci,dest=oci.tar", "-o", "type=docker,dest=docker.tar", "-o", "type=tar,dest=fs.tar", "-o", "local", "--load", ".")
	for _, name := range []string{"local/d/f", "local/d/g"} {
		if w.read(name) != "x\n" {
			t.Errorf("%s is %q", name, w.read(name))
		}
	}
	list, err := exec.Command("tar", "-tf", filepath.Join(w.dir, "fs.tar")).Output()
	if err != nil || !slices.Equal(lines(string(list)), []string{"d/", "d/f", "d/g"}) {
		t.Errorf("type=tar holds %q (%v)", list, err)
	}
	for _, src := range []string{"oci-archive:" + w.dir + "/oci.tar", "docker-archive:" + w.dir + "/docker.tar", "oci:" + w.root + ":docker.io/library/out:1"} {
		testutil.Require(t, "skopeo")
		out, err := exec.Command("skopeo", "inspect", "--config", src).Output()
		if err != nil {
			t.Errorf("skopeo inspect %s: %v", src, err)
			continue
		}
		var config struct{ Config struct{ Cmd []string } }
		if err := json.Unmarshal(out, &config); err != nil || !slices.Equal(config.Config.Cmd, []string{"/d/f"}) {
			t.Errorf("%s: CMD is %q (%v)", src, config.Config.Cmd, err)
		}
	}
	stdout := w.ok("build", "-o", "-", ".")
	if !strings.Contains(stdout, "d/f") {
		t.Error("-o - wrote no tar to standard output")
	}
	for _, c := range []string{"zstd", "uncompressed", "gzip"} {
		w.ok("build", "-o", "type=oci,dest="+c+".tar,compression="+c, ".")
		if out, err := exec.Command("skopeo", "copy", "oci-archive:"+w.dir+"/"+c+".tar", "dir:"+t.TempDir()).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", c, err, out)
		}
	}
}

// TestReproducible builds in two stores with SOURCE_DATE_EPOCH: same digest.
func TestReproducible(t *testing.T) {
	var ids []string
	base := filepath.Join(t.TempDir(), "base.tar")
	newBench(t).ok("save", "-o", base, "test/base")
	for range 2 {
		w := &workbench{t: t, root: t.TempDir(), dir: t.TempDir()}
		w.ok("load", "-i", base)
		w.write("Dockerfile", "FROM test/base\nWORKDIR /a/b\nCOPY f /x/y/f\nRUN echo 1 > /made && mkdir /dir\nENV A=1\n")
		w.write("f", "data")
		ids = append(ids, w.ok("build", "-q", "-t", "r", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "."))
	}
	if ids[0] != ids[1] || ids[0] == "" {
		t.Errorf("two stores, two images: %s", ids)
	}
}

func TestCacheMounts(t *testing.T) {
	w := newBench(t)
	w.write("seed/s", "seeded\n")
	w.write("Dockerfile", `FROM scratch AS seed
COPY seed /seed
FROM test/base
RUN --mount=type=cache,target=/c,uid=7,mode=0700 stat -c '%u %a' /c > /stat && echo 1 >> /c/n
RUN --mount=type=cache,id=other,from=seed,source=/seed,target=/c cat /c/s > /s
RUN --mount=type=tmpfs,target=/t,size=1m echo x > /t/x && df -k /t | tail -1 | awk '{print $2}' > /size
RUN --mount=type=bind,source=seed,target=/b cat /b/s > /b1 && ! touch /b/x
RUN --mount=type=bind,from=seed,source=seed/s,target=/one,rw echo more >> /one && cat /one > /b2
RUN ls -A /c /t /b /one 2>/dev/null | wc -l > /left
`)
	w.ok("build", "-t", "m", ".")
	want := "7 700\nseeded\n1024\nseeded\nseeded\nmore\n0\n"
	if out := w.ok("run", "--rm", "m", "cat", "/stat", "/s", "/size", "/b1", "/b2", "/left"); out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	w.write("seed/s", "changed\n")
	if s := w.stats("-t", "m", "."); s["cached"] != 1 {
		t.Errorf("%d steps cached after a bind mount's source changed, want 1", s["cached"])
	}
}
