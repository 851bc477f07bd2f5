// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"builder/internal/testutil"
)

// TestQuota bounds what the state directory takes: what nothing needs goes by
// itself, oldest use first, and what an image needs stays.
func TestQuota(t *testing.T) {
	w := newBench(t)
	for i := range 4 {
		w.write("Dockerfile", fmt.Sprintf("FROM test/base\nRUN head -c 3000000 /dev/urandom > /data && echo %d\n", i))
		w.ok("build", "-t", "app", ".")
	}
	before, _ := w.df()
	t.Setenv("BUILDER_MAX_USED", "10MB")
	w.write("Dockerfile", "FROM test/base\nRUN echo small > /x\n")
	w.ok("build", "-t", "small", ".")
	after, count := w.df()
	if after["Total"] > 10<<20 || before["Total"] < 20<<20 || count["Images"] != 3 {
		t.Errorf("%d bytes before and %d after, %d images; want at most 10 MB and three images", before["Total"], after["Total"], count["Images"])
	}
	if got := w.ok("run", "--rm", "app", "sh", "-c", "wc -c < /data"); got != "3000000\n" {
		t.Errorf("the image says %q", got)
	}
	w.checkWhole()
	t.Setenv("BUILDER_MAX_USED", "much")
	w.fails(2, []string{"BUILDER_MAX_USED=much", "want a size"}, "build", ".")
}

// TestNoRoom has little disk left: commands fail before they write, and say
// what to do.
func TestNoRoom(t *testing.T) {
	testutil.Require(t, "root")
	w := newBench(t)
	archive := filepath.Join(t.TempDir(), "base.tar")
	w.ok("save", "-o", archive, "test/base")
	small := &workbench{t: t, root: t.TempDir(), dir: w.dir}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=20m", "none", small.root).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v %s", err, out)
	}
	t.Cleanup(func() { exec.Command("umount", small.root).Run() })
	t.Setenv("BUILDER_MIN_FREE", "30MB")
	small.fails(1, []string{"BUILDER_MIN_FREE keeps", "hint: "}, "load", "-i", archive)
	t.Setenv("BUILDER_MIN_FREE", "12MB")
	small.ok("load", "-i", archive)
	small.write("Dockerfile", "FROM test/base\nRUN head -c 8000000 /dev/urandom > /data\nRUN echo more > /more\n")
	r := small.run("build", "-t", "app", ".")
	if r.code == 0 || !strings.Contains(r.stderr, "not enough free disk space") {
		t.Errorf("a build that leaves too little: %d %s", r.code, r.stderr)
	}
	small.checkWhole()
	t.Setenv("BUILDER_MIN_FREE", "")
	small.ok("prune", "--force")
	small.write("Dockerfile", "FROM test/base\nRUN echo small > /x\n")
	small.ok("build", "-t", "app", ".")
	// The disk is full in the middle: nothing half is kept, and with room again
	// the same command succeeds.
	small.write("Dockerfile", "FROM test/base\nRUN head -c 15000000 /dev/urandom > /data\n")
	for _, args := range [][]string{{"build", "-t", "big", "."}} {
		if r := small.run(args...); r.code == 0 || !strings.Contains(r.stderr, "no space left on device") {
			t.Errorf("%v on a full disk: %d %s", args, r.code, r.stderr)
		}
		small.ok("images")
		small.checkWhole()
	}
	if out, err := exec.Command("mount", "-o", "remount,size=100m", small.root).CombinedOutput(); err != nil {
		t.Fatalf("remount: %v %s", err, out)
	}
	small.ok("build", "-t", "big", ".")
	if got := small.ok("run", "--rm", "big", "sh", "-c", "wc -c < /data"); got != "15000000\n" {
		t.Errorf("the image says %q", got)
	}
	// Every command that writes much keeps to the bound, and the others go on.
	small.ok("run", "--name", "con", "big", "true")
	small.ok("load", "-i", archive)
	files := filepath.Join(t.TempDir(), "files.tar")
	small.ok("export", "-o", files, "con")
	const bound = "BUILDER_MIN_FREE keeps"
	t.Setenv("BUILDER_MIN_FREE", "1GB")
	for _, args := range [][]string{
		{"import", files, "imported"}, {"commit", "con", "committed"}, {"cp", archive, "con:/"}, {"load", "-i", archive},
		{"pull", "127.0.0.1:1/x"}, {"create", "127.0.0.1:1/x"}, {"build", "."},
	} {
		small.fails(1, []string{bound, "hint: "}, args...)
	}
	small.fails(125, []string{bound}, "run", "127.0.0.1:1/x")
	small.fails(1, []string{"not enough free disk space"}, "manifest", "create", "list")
	small.ok("run", "--rm", "big", "true")
	small.ok("cp", "con:/data", t.TempDir())
	small.ok("tag", "big", "large")
	small.ok("rm", "con")
	small.ok("rmi", "big", "large", "app", "test/base")
	small.ok("prune", "--all", "--force")
	small.checkWhole()
}
