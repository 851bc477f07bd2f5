// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bufio"
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
	for _, tt := range []struct {
		args []string
		want int
	}{{[]string{"--debug", "df"}, 2}, {[]string{"image", "ls"}, 1}, {[]string{"image", "prune", "-f"}, 2}, {[]string{"container", "prune", "-f"}, 1}, {[]string{"--root", w.root, "build", "--help"}, 2}} {
		if r, programs, _ := w.begun(w.command(tt.args...)); r.code != 0 || programs != tt.want {
			t.Errorf("%v: code %d, %d programs, want %d\n%s", tt.args, r.code, programs, tt.want, r.stderr)
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
	for _, program := range []string{"zstd", "xz", "gzip", "cat"} {
		var archive bytes.Buffer
		tw := tar.NewWriter(&archive)
		if err := errors.Join(tw.WriteHeader(&tar.Header{Name: "streamed", Mode: 0o600, Size: int64(len(program))}), second(tw.Write([]byte(program))), tw.Close()); err != nil {
			t.Fatal(err)
		}
		compress := exec.Command(program)
		compress.Stdin = &archive
		data, err := compress.Output()
		if err != nil {
			t.Fatal(err)
		}
		cmd := w.command("cp", "-", "kept:/tmp/")
		cmd.Stdin = bytes.NewReader(data)
		if r, programs, _ := w.begun(cmd); r.code != 0 || programs != 2 || w.ok("exec", "kept", "cat", "/tmp/streamed") != program {
			t.Errorf("cp of an archive by %s: code %d, %d programs\n%s", program, r.code, programs, r.stderr)
		}
	}

	// What a flag names is read once, and what is told is told once.
	w.ok("save", "-o", "base.tar", "test/base")
	w.write("Dockerfile", "FROM scratch\nCOPY base.tar /\n")
	w.ok("build", "-t", "arm", "--platform", "linux/arm64", "-o", "type=oci,dest=arm.tar,compression=zstd,force-compression=true", ".")
	fresh := &workbench{t: t, root: t.TempDir(), dir: w.dir}
	for _, name := range []string{"base.tar", "z.tar", "arm.tar"} {
		fresh.ok("load", "-i", name)
	}
	cmd := fresh.command("run", "--rm", "--oom-kill-disable", "--env-file", "/dev/stdin", "-v", "/anonymous", "--mount", "type=image,src=z,dst=/z", "test/base", "sh", "-c", "echo $A; cat /z/file")
	cmd.Stdin = strings.NewReader("A=1\n")
	if r, programs, _ := fresh.begun(cmd); r.stdout != "1\ndata\n" || programs != 2 || strings.Count(r.stderr, "oom-kill-disable") != 1 {
		t.Errorf("with an image to mount: %q, %d programs\n%s", r.stdout, programs, r.stderr)
	}
	if out := fresh.ok("events", "--since", "1h", "--until", "0s", "--filter", "type=volume", "--filter", "event=create"); strings.Count(out, "\n") != 1 {
		t.Errorf("one volume was made:\n%s", out)
	}
	if r, programs, _ := fresh.begun(fresh.command("create", "arm", "/none")); r.code != 0 || programs != 2 || strings.Count(r.stderr, "is for linux/arm64") != 1 {
		t.Errorf("an image for another platform: code %d, %d programs\n%s", r.code, programs, r.stderr)
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

// TestWholeDiesWithParent holds that a process that has become the whole program ends with
// its parent, if that was asked for, and has kept its name.
func TestWholeDiesWithParent(t *testing.T) {
	w := joinedBench(t)
	testutil.Require(t, "setpriv")
	w.ok("create", "--name", "idle", "test/base")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close() // until then the command has something to wait for
	cmd := w.command()
	cmd.Path, cmd.Args = lookPath(t, "sh"), []string{"sh", "-c", `setpriv --pdeathsig KILL "$0" cp - idle:/tmp/ <&3 & echo $!; wait`, program(t)}
	cmd.ExtraFiles = []*os.File{read}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	proc := func(file string) string {
		data, _ := os.ReadFile("/proc/" + strings.TrimSpace(line) + "/" + file)
		return string(data)
	}
	waitFor(t, "the whole program", func() bool { return strings.HasPrefix(proc("environ"), wholeVariable+"=") })
	if got, want := strings.TrimSpace(proc("comm")), filepath.Base(program(t)); got != want {
		t.Errorf("it is called %q, want %q", got, want)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "its end", func() bool {
		status := proc("status")
		return status == "" || strings.Contains(status, "State:\tZ")
	})
	_ = cmd.Wait()
}
