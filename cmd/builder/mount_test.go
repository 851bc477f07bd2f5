// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMount mounts an image, which stays what it is and where it is until it is
// unmounted, whatever is removed.
func TestMount(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nRUN echo kept > /kept\n")
	w.ok("build", "-t", "app", ".")
	path := strings.TrimSpace(w.ok("mount", "app"))
	t.Cleanup(func() { w.run("unmount", "--all") })
	if again := strings.TrimSpace(w.ok("mount", "app:latest")); again != path {
		t.Errorf("mounted at %s and again at %s", path, again)
	}
	if data, err := os.ReadFile(filepath.Join(path, "kept")); err != nil || string(data) != "kept\n" {
		t.Errorf("%q, %v", data, err)
	}
	if err := os.WriteFile(filepath.Join(path, "new"), nil, 0o600); err == nil {
		t.Error("it can be written to")
	}
	if got := w.ok("mount"); got != "app "+path+"\n" {
		t.Errorf("mounts: %q", got)
	}
	if got := w.ok("mount", "--format", "{{.Path}}"); got != path+"\n" {
		t.Errorf("format: %q", got)
	}
	w.fails(1, []string{"it is mounted at " + path}, "rmi", "-f", "app")
	w.ok("prune", "--all", "--force")
	if data, err := os.ReadFile(filepath.Join(path, "kept")); err != nil || string(data) != "kept\n" {
		t.Errorf("after prune: %q, %v", data, err)
	}
	w.checkWhole()
	w.fails(1, []string{"nothing", "not found"}, "mount", "nothing")
	w.fails(1, []string{"it is not mounted"}, "unmount", "test/base")
	w.fails(2, []string{"--all"}, "unmount")
	if got := w.ok("unmount", "app"); got != "app\n" {
		t.Errorf("unmount says %q", got)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the mount point is left")
	}
	if got := w.ok("mount"); got != "" {
		t.Errorf("mounts: %q", got)
	}
	w.ok("rmi", "app")
	w.ok("prune", "--all", "--force")
	w.checkWhole()
}
