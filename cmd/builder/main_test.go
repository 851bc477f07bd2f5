// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"builder/container"
	"builder/internal/testutil"
)

// TestMain lets the test binary be builder itself: tests run it as a command
// of its own process, as users do.
func TestMain(m *testing.M) {
	container.Init()
	if os.Getenv("BUILDER_TEST_MAIN") != "" {
		main()
		return
	}
	code := m.Run()
	_ = os.RemoveAll(debianDir)
	os.Exit(code)
}

// program is the builder that is tested: the file that BUILDER_TEST_PROGRAM names, as
// make test does with the one that make build makes, or else the test's own, which is
// all of it but for being two programs in one.
func program(t testing.TB) string {
	t.Helper()
	if name := os.Getenv("BUILDER_TEST_PROGRAM"); name != "" {
		return name
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return self
}

// bench is a state directory and a directory to work in.
type workbench struct {
	t    testing.TB
	root string // state directory
	dir  string // working directory
	// netns is the network namespace that is the machine, "" for the real one.
	// In one that the test made containers have their own network by default.
	netns string
	// as makes a command; nil for the usual one.
	as func(args ...string) *exec.Cmd
}

// newBench makes a state directory with the image test/base in it: busybox
// and a few users.
func newBench(t testing.TB) *workbench {
	t.Helper()
	testutil.Require(t, "root", "busybox")
	w := &workbench{t: t, root: t.TempDir(), dir: t.TempDir()}
	cmd := w.command("import", "--change", `CMD ["/bin/sh"]`, "-", "test/base")
	cmd.Stdin = bytes.NewReader(baseTar(t))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("import base image: %v\n%s", err, out)
	}
	return w
}

// baseTar is a root file system of busybox alone.
var baseTar = func() func(t testing.TB) []byte {
	var once sync.Once
	var data []byte
	return func(t testing.TB) []byte {
		once.Do(func() { data = makeBase(t) })
		return data
	}
}()

func makeBase(t testing.TB) []byte {
	bin, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	list, err := exec.Command(bin, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	at := time.Unix(1700000000, 0)
	put := func(h tar.Header, data string) {
		h.ModTime, h.Size = at, int64(len(data))
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(tw, data)
	}
	for _, d := range []string{"bin", "etc", "home", "home/user", "proc", "sys", "dev", "usr", "usr/bin", "var"} {
		put(tar.Header{Name: d + "/", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	}
	put(tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, "")
	put(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, string(busybox))
	for _, name := range strings.Fields(string(list)) {
		if name != "busybox" {
			put(tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, "")
		}
	}
	put(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
	put(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, "root:x:0:\nuser:x:1000:\nstaff:x:50:user\n")
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// command is builder with the bench's state directory.
func (w *workbench) command(args ...string) *exec.Cmd {
	if w.as != nil {
		return w.as(args...)
	}
	words, network := append([]string{program(w.t)}, args...), "host"
	if w.netns != "" {
		words, network = append([]string{"nsenter", "--net=/run/netns/" + w.netns}, words...), ""
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "BUILDER_TEST_MAIN=1", "BUILDER_ROOT="+w.root, "BUILDER_PROGRESS=plain", "BUILDER_NETWORK="+network)
	cmd.Dir = w.dir
	return cmd
}

// result is how a command ended.
type result struct {
	code           int
	stdout, stderr string
}

func (w *workbench) run(args ...string) result {
	w.t.Helper()
	return w.finish(w.command(args...))
}

func (w *workbench) finish(cmd *exec.Cmd) result {
	w.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// ok runs a command that must succeed and returns its standard output.
func (w *workbench) ok(args ...string) string {
	w.t.Helper()
	r := w.run(args...)
	if r.code != 0 {
		w.t.Fatalf("builder %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// fails runs a command that must fail with a code and every one of the words
// in its messages.
func (w *workbench) fails(code int, words []string, args ...string) result {
	w.t.Helper()
	r := w.run(args...)
	if r.code != code {
		w.t.Errorf("builder %s: exit code %d, want %d\n%s", strings.Join(args, " "), r.code, code, r.stderr)
	}
	for _, word := range words {
		if !strings.Contains(r.stderr, word) {
			w.t.Errorf("builder %s: message lacks %q:\n%s", strings.Join(args, " "), word, r.stderr)
		}
	}
	if strings.Contains(r.stderr, "panic") || strings.Contains(r.stderr, "goroutine ") {
		w.t.Errorf("builder %s: panic\n%s", strings.Join(args, " "), r.stderr)
	}
	return r
}

// write makes a file of the working directory.
func (w *workbench) write(name, data string) {
	w.t.Helper()
	p := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// stats are the counts that builder --debug build tells.
func (w *workbench) stats(args ...string) map[string]int {
	w.t.Helper()
	r := w.run(append([]string{"--debug", "build"}, args...)...)
	if r.code != 0 {
		w.t.Fatalf("build: exit code %d\n%s", r.code, r.stderr)
	}
	return counts(w.t, r.stderr)
}

// counts finds them in what it printed.
func counts(t testing.TB, stderr string) map[string]int {
	t.Helper()
	i := strings.Index(stderr, `msg="build done"`)
	if i < 0 {
		t.Fatalf("no counts in\n%s", stderr)
	}
	out := map[string]int{}
	for _, m := range regexp.MustCompile(`(\w+)=(\d+)`).FindAllStringSubmatch(stderr[i:], -1) {
		out[m[1]], _ = strconv.Atoi(m[2])
	}
	return out
}

// waitFor waits until f is true, for at most a minute: it is how tests meet
// other processes, and no measure of time.
func waitFor(t testing.TB, what string, f func() bool) {
	t.Helper()
	// Not the test's own context: it is over when the test cleans up.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for !f() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s did not happen", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func lines(s string) []string { return strings.Split(strings.TrimSpace(s), "\n") }

// syncBuffer is a buffer that a process writes while a test reads.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
