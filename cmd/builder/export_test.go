// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestExport writes a container's files as a tar, and makes an image of it.
func TestExport(t *testing.T) {
	w := newBench(t)
	w.ok("run", "--name", "made", "test/base", "sh", "-c", "echo new > /new; rm /etc/group; mkdir /d; ln -s new /link")
	archive := filepath.Join(w.dir, "made.tar")
	w.ok("export", "-o", archive, "made")
	out, err := exec.Command("tar", "tf", archive).Output()
	if err != nil {
		t.Fatal(err)
	}
	names := "\n" + string(out)
	for _, want := range []string{"\nnew\n", "\nd/\n", "\nlink\n", "\nbin/busybox\n", "\netc/passwd\n"} {
		if !strings.Contains(names, want) {
			t.Errorf("the tar lacks %q", want)
		}
	}
	if strings.Contains(names, "etc/group") || strings.Contains(names, ".wh.") {
		t.Error("the tar has what was removed")
	}
	w.ok("import", archive, "again")
	if got := w.ok("run", "--rm", "again", "/bin/sh", "-c", "cat /link; ls /etc/group /etc/passwd 2>/dev/null; true"); got != "new\n/etc/passwd\n" {
		t.Errorf("the image says %q", got)
	}
	w.fails(1, []string{"no such container"}, "export", "nothing")
	cmd := w.command("run", "--name", "runs", "-i", "test/base", "sh", "-c", "echo ready; read x")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := &syncBuffer{}
	cmd.Stdout = started
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the container's start", func() bool { return strings.Contains(started.String(), "ready") })
	w.ok("export", "-o", archive, "runs")
	stdin.Close()
	cmd.Wait()
	w.ok("export", "-o", archive, "runs")
}
