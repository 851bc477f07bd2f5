// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"builder/internal/testutil"
)

// joinedBench is a bench whose program is two in one.
func joinedBench(t *testing.T) *workbench {
	t.Helper()
	if os.Getenv("BUILDER_TEST_PROGRAM") == "" {
		t.Skip("this test's own program isn't two in one: make test has the other")
	}
	return newBench(t)
}

// begun runs a command and says how many programs were begun one after another in its
// process, and whether one of them was the whole one, the only one with a registry client.
func (w *workbench) begun(cmd *exec.Cmd) (r result, programs int, whole bool) {
	w.t.Helper()
	cmd.Env = append(cmd.Env, "GODEBUG=inittrace=1")
	r = w.finish(cmd)
	var rest strings.Builder
	for line := range strings.Lines(r.stderr) {
		if !strings.HasPrefix(line, "init ") {
			rest.WriteString(line)
		}
		if strings.HasPrefix(line, "init runtime @") {
			programs++
		}
		whole = whole || strings.HasPrefix(line, "init github.com/regclient/")
	}
	r.stderr = rest.String()
	return r, programs, whole
}

// TestProgramsOfCommands begins each command: with the program that has it, and no other
// before.
func TestProgramsOfCommands(t *testing.T) {
	w := joinedBench(t)
	front := 0
	for _, c := range commands() {
		r, programs, whole := w.begun(w.command(c.name, "--help"))
		if programs != 1 {
			t.Errorf("%s: %d programs are begun, want 1: is the command missing in WHOLE of the Makefile?", c.name, programs)
		}
		if c.short != "" && (r.code != 0 || !strings.HasPrefix(r.stdout, "Usage: builder ")) {
			t.Errorf("%s --help: code %d, %s", c.name, r.code, r.stdout)
		}
		if !whole {
			front++
		}
	}
	if front < 30 {
		t.Errorf("the front program has %d commands, want most", front)
	}
	for _, args := range [][]string{{"ps"}, {"run", "--rm", "test/base", "true"}, {"images"}, {"inspect", "test/base"}, {"container", "ls"}, {"volume", "ls"}, {"network", "ls"}} {
		if r, programs, whole := w.begun(w.command(args...)); r.code != 0 || programs != 1 || whole {
			t.Errorf("%v: code %d, %d programs, the whole one is %t, want the front one alone\n%s", args, r.code, programs, whole, r.stdout)
		}
	}
	for _, args := range [][]string{{"--debug", "df"}, {"image", "ls"}, {"--root", w.root, "build", "--help"}} {
		if r, programs, _ := w.begun(w.command(args...)); r.code != 0 || programs > 2 {
			t.Errorf("%v: code %d, %d programs\n%s", args, r.code, programs, r.stderr)
		}
	}
}

// TestFrontLeavesToWhole has commands of the front program need what only the whole one
// has: it does them as if nothing had been begun, and nobody finds its variable.
func TestFrontLeavesToWhole(t *testing.T) {
	w := joinedBench(t)
	testutil.Require(t, "docker-registry")
	t.Cleanup(func() {
		w.command("rm", "-fa").Run()
		waitFor(t, "the monitor's end", func() bool { return len(w.monitors()) == 0 })
	})
	ref := startRegistry(t) + "/base:1"
	w.ok("tag", "test/base", ref)
	w.ok("push", ref)
	w.ok("untag", "test/base", ref)
	w.write("cdi/ours.json", `{"cdiVersion": "0.6.0", "kind": "example.com/thing", "devices": [{"name": "one", "containerEdits": {"env": ["ONE=1"]}}]}`)
	sees := []string{"sh", "-c", "env; cat; exit 7"}
	for _, args := range [][]string{
		{"--pull", "always", "-v", "/anonymous", ref},
		{"--device", "example.com/thing=one", "--cdi-config-dir", "cdi", "test/base"},
	} {
		cmd := w.command(append(append([]string{"run", "-i", "--rm", "--name", "once", "--env-host"}, args...), sees...)...)
		cmd.Stdin = strings.NewReader("what it reads\n")
		if r, programs, _ := w.begun(cmd); r.code != 7 || programs != 2 || !strings.HasSuffix(r.stdout, "what it reads\n") || strings.Contains(r.stdout, "WHOLE") {
			t.Errorf("%v: code %d, %d programs, want 7 and 2\n%s%s", args, r.code, programs, r.stdout, r.stderr)
		}
	}
	if out := w.ok("volume", "ls", "-q"); out != "" {
		t.Errorf("volumes are left: %s", out)
	}
	if out := w.ok("events", "--since", "1h", "--until", "0s", "--filter", "event=create", "--filter", "type=container"); strings.Count(out, "\n") != 2 {
		t.Errorf("two containers were made:\n%s", out)
	}

	// What the whole program starts hasn't the variable.
	w.ok("run", "-d", "--name", "kept", "--pull", "always", ref, "sleep", "1000")
	for role, pid := range w.monitors() {
		environ, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
		if err != nil || strings.Contains(string(environ), "WHOLE") {
			t.Errorf("the %s's variables: %q (%v)", role, environ, err)
		}
	}
	// Layers and archives of a compression that the front program hasn't.
	w.write("Dockerfile", "FROM test/base\nRUN echo data > /file\n")
	w.ok("build", "-t", "z", "-o", "type=oci,dest=z.tar,compression=zstd,force-compression=true", ".")
	other := &workbench{t: t, root: t.TempDir(), dir: w.dir}
	other.ok("load", "-i", "z.tar")
	for i, want := range []int{2, 1} {
		if r, programs, _ := other.begun(other.command("run", "--rm", "z", "cat", "/file")); r.stdout != "data\n" || programs != want {
			t.Errorf("run %d of an image of zstd layers: %q, %d programs, want %d\n%s", i, r.stdout, programs, want, r.stderr)
		}
	}
	var archive bytes.Buffer
	tw := tar.NewWriter(&archive)
	if err := errors.Join(tw.WriteHeader(&tar.Header{Name: "streamed", Mode: 0o600, Size: 4}), second(tw.Write([]byte("text"))), tw.Close()); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"zstd", "xz", "gzip", "cat"} {
		compress := exec.Command(program)
		compress.Stdin = bytes.NewReader(archive.Bytes())
		data, err := compress.Output()
		if err != nil {
			t.Fatal(err)
		}
		cmd := w.command("cp", "-", "kept:/tmp/")
		cmd.Stdin = bytes.NewReader(data)
		if r, _, _ := w.begun(cmd); r.code != 0 || w.ok("exec", "kept", "cat", "/tmp/streamed") != "text" {
			t.Errorf("cp of an archive by %s: code %d\n%s", program, r.code, r.stderr)
		}
	}

	t.Setenv("BUILDER_MAX_USED", "1MB")
	if r, programs, _ := w.begun(w.command("cp", "kept:/etc/passwd", "copy")); r.code != 0 || programs != 1 {
		t.Errorf("cp out of a container: code %d, %d programs\n%s", r.code, programs, r.stderr)
	}
	if r, programs, whole := w.begun(w.command("cp", "copy", "kept:/copy")); r.code != 0 || programs != 2 || !whole {
		t.Errorf("cp where there are bounds: code %d, %d programs\n%s", r.code, programs, r.stderr)
	}
	if out := w.ok("exec", "kept", "cat", "/copy"); !strings.Contains(out, "root:x:0:0") {
		t.Errorf("copied is %q", out)
	}
}

// TestFrontAlone executes the front program by itself, as make build leaves it: what it
// can't do it says, and does not try for ever.
func TestFrontAlone(t *testing.T) {
	w := joinedBench(t)
	cmd := w.command("df")
	cmd.Path = filepath.Join(filepath.Dir(program(t)), "front")
	if r, programs, _ := w.begun(cmd); r.code != 1 || programs != 2 || !strings.Contains(r.stderr, errWhole.Error()) {
		t.Errorf("code %d, %d programs, want 1 and 2: %s", r.code, programs, r.stderr)
	}
}

func second[T any](_ T, err error) error { return err }
