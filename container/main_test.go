// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"builder/internal/testutil"
	"builder/mount"
)

// The test binary is also what runs in the containers: copied there as
// /bin/helper it does what helper_test.go offers.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "helper" {
		helper(os.Args[1:])
		return
	}
	Init()
	if h, err := theHost(); err == nil {
		h.cgroups.parent = testParent
	}
	code := m.Run()
	if c, err := newCgroups(); err == nil {
		// Fails if another run of these tests is under way.
		_ = removeCgroup(c.root, testParent)
		_ = removeCgroup(c.root, testParent+openSuffix)
		_ = removeCgroup(c.root, testParent+devicesSuffix)
	}
	os.Exit(code)
}

// image makes a directory that serves as an image: the helper, an empty /tmp
// and the entries of /etc that a small image has.
func image(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "image")
	for _, d := range []string{"bin", "etc", "tmp", "data/sub"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	exe, err := os.Executable()
	must(t, err)
	must(t, os.Link(exe, filepath.Join(dir, "bin/helper")))
	files := map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n# comment\nada:x:1000:1001:Ada:/home/ada:/bin/sh\nnohome:x:7:7\nbad:x:zero:0::/:\n12:x:77:77::/n12:\n",
		"etc/group":  "root:x:0:\nada:x:1001:\nwheel:x:10:root,ada\naudio:x:63:ada\nbadgroup:x:gid:\n12:x:88:\n",
	}
	for name, text := range files {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return dir
}

// rootOf mounts an overlay over an image.
func rootOf(t testing.TB, image string) (root *os.File, upper string) {
	t.Helper()
	dir := t.TempDir()
	upper = filepath.Join(dir, "upper")
	work := filepath.Join(dir, "work")
	must(t, os.Mkdir(upper, 0o755))
	must(t, os.Mkdir(work, 0o755))
	root, err := mount.Overlay{Lower: []string{image}, Upper: upper, Work: work, Volatile: true}.Open()
	must(t, err)
	t.Cleanup(func() { root.Close() })
	return root, upper
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var testID atomic.Int64

// newSpec is a Spec that runs the helper with args in a fresh container of a
// fresh image.
func newSpec(t testing.TB, args ...string) Spec {
	t.Helper()
	testutil.Require(t, "root")
	root, _ := rootOf(t, image(t))
	return Spec{ID: uniqueID(), Root: root, Args: append([]string{"/bin/helper"}, args...)}
}

const testParent = "builder-test"

func uniqueID() string {
	return fmt.Sprintf("test-%d-%d", os.Getpid(), testID.Add(1))
}

// carriers are what the tests run over.
func carriers() map[string]carrier {
	return map[string]carrier{"portable": portableCarrier, "copying": copyingCarrier, "fast": fastCarrier}
}

// eachCarrier runs a test over every carrier.
func eachCarrier(t *testing.T, f func(t *testing.T, run runner)) {
	testutil.Require(t, "root")
	h, err := theHost()
	must(t, err)
	for name, c := range carriers() {
		t.Run(name, func(t *testing.T) {
			f(t, runner{h, c})
		})
	}
}

// runner starts containers with one carrier.
type runner struct {
	host    *host
	carrier carrier
}

func (r runner) start(ctx context.Context, spec Spec) (*Process, error) {
	return r.host.start(ctx, spec, r.carrier)
}

// output runs a container and returns what it wrote to both streams.
func (r runner) output(t testing.TB, spec Spec) (string, error) {
	t.Helper()
	var out bytes.Buffer
	spec.Stdout, spec.Stderr = &out, &out
	p, err := r.start(t.Context(), spec)
	if err != nil {
		return "", err
	}
	err = p.Wait()
	return out.String(), err
}

// ok is output of a container that must end well.
func (r runner) ok(t testing.TB, spec Spec) string {
	t.Helper()
	var out bytes.Buffer
	spec.Stdout, spec.Stderr = &out, &out
	p, err := r.start(t.Context(), spec)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	if err := p.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return out.String()
}

// exitCode is the code in an ExitError or StartError, 0 for nil.
func exitCode(t testing.TB, err error) int {
	t.Helper()
	var exit *ExitError
	var start *StartError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	case errors.As(err, &start):
		return start.Code
	}
	t.Fatalf("error is neither an ExitError nor a StartError: %v", err)
	return -1
}

// field returns the value of a line "name: value".
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// errnoName is how the helper reports failures.
func errnoName(err error) string {
	var e unix.Errno
	if err == nil {
		return "ok"
	}
	if errors.As(err, &e) {
		return unix.ErrnoName(e)
	}
	return err.Error()
}
