// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"builder/internal/testutil"
)

// fail builds a Dockerfile whose last RUN fails and returns the ID under which
// what it left is kept.
func (w *workbench) fail(dockerfile string, args ...string) string {
	w.t.Helper()
	w.write("fail/Dockerfile", dockerfile)
	r := w.fails(1, []string{"hint: builder debug "}, append(append([]string{"build"}, args...), "fail")...)
	m := regexp.MustCompile(`hint: builder debug ([0-9a-f]{12}) `).FindStringSubmatch(r.stderr)
	if m == nil {
		w.t.Fatalf("no ID in\n%s", r.stderr)
	}
	return m[1]
}

// TestDebug looks at what a failed step left as the step saw it.
func TestDebug(t *testing.T) {
	w := newBench(t)
	w.write("fail/file", "of the context")
	w.write("tok", "a secret value")
	id := w.fail(`FROM test/base AS lib
RUN echo lib > /lib-file
FROM test/base
ARG A=1
ENV B=2
WORKDIR /work
RUN echo before > /before && chown user /work
USER user
RUN --network=none --mount=type=bind,target=/ctx --mount=type=bind,from=lib,source=/lib-file,target=/tmp/lib --mount=type=cache,id=d,target=/cache,uid=1000 \
    --mount=type=tmpfs,target=/t --mount=type=secret,id=tok,target=/s,uid=1000 --mount=type=secret,id=tok,env=TOK --mount=type=ssh <<EOF
echo partial > /work/partial
echo kept > /cache/kept
exit 9
EOF
`, "--secret", "id=tok,src=tok", "--cap-drop", "kill", "--add-host", "extra:192.0.2.5")
	const look = `echo $A $B $(pwd) $(id -u) $(hostname) ${TOK-none}
cat /before /work/partial /ctx/file /tmp/lib /cache/kept
ls /t /s 2>&1 | head -1
ls /sys/class/net
grep -c extra /etc/hosts
grep CapBnd /proc/self/status
touch /work/mine
`
	cmd := w.command("debug", id)
	cmd.Stdin = strings.NewReader(look)
	r := w.finish(cmd)
	want := "1 2 /work 1000 buildkitsandbox none\nbefore\npartial\nof the contextlib\nkept\nls: /s: No such file or directory\nlo\n1\nCapBnd:\t00000000a80425db\n"
	if r.stdout != want || r.code != 0 {
		t.Errorf("the shell ends with %d and says\n%s\nwant\n%s\n%s", r.code, r.stdout, want, r.stderr)
	}
	for _, word := range []string{"exit code 9", "fail/Dockerfile:9", "--secret id=tok, which is not given again", "RUN --network=none"} {
		if !strings.Contains(r.stderr, word) {
			t.Errorf("the message lacks %q:\n%s", word, r.stderr)
		}
	}
	out := w.ok("debug", "--secret", "id=tok,src=tok", id[:6], "sh", "-c", "cat /s; echo /$TOK; ls /work; touch /ctx/z 2>&1 | grep -o Read-only")
	if out != "a secret value/a secret value\npartial\nRead-only\n" {
		t.Errorf("with the secret given again: %q (what the first shell wrote must be gone)", out)
	}
	if out := w.ok("debug", "cat", "/work/partial"); out != "partial\n" {
		t.Errorf("a command on the last failed step says %q", out)
	}
	w.fails(7, nil, "debug", id, "sh", "-c", "exit 7")
	w.fails(127, []string{"nothere"}, "debug", id, "nothere")
	if ls := w.ok("debug", "ls"); !strings.Contains(ls, id) || !strings.Contains(ls, "fail/Dockerfile:9") {
		t.Errorf("debug ls says\n%s", ls)
	}
	w.fails(125, []string{"no such failed step: abcdef"}, "debug", "abcdef")
	w.fails(1, []string{"no such failed step"}, "debug", "rm", "abcdef")
	w.fails(2, []string{"--all"}, "debug", "rm")
	w.fails(2, []string{"not both"}, "debug", "rm", "--all", id)
	w.ok("debug", "rm", id)
	w.fails(125, []string{"no failed step is kept"}, "debug")
}

// TestDebugTerminal gives the shell a terminal and the step's own shell.
func TestDebugTerminal(t *testing.T) {
	w := newBench(t)
	testutil.Require(t, "script")
	id := w.fail("FROM test/base\nSHELL [\"/bin/busybox\", \"sh\", \"-uc\"]\nRUN echo x > /x; false\n")
	exe := program(t)
	cmd := exec.Command("script", "-qec", "stty rows 31 cols 71; "+exe+" debug "+id, filepath.Join(t.TempDir(), "log"))
	cmd.Env = w.command().Env
	cmd.Stdin = strings.NewReader("tty; stty size; cat /x; echo $TERM; exit 5\n")
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("exit code %d (%v), want 5", code, err)
	}
	for _, want := range []string{"/dev/", "31 71", "x\r\n", "xterm"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the terminal's output lacks %q:\n%s", want, out)
		}
	}
}

// TestFailedStepsAreBounded holds that ten failed steps are kept, that their
// file systems live and go with them, and that one in use stays.
func TestFailedStepsAreBounded(t *testing.T) {
	w := newBench(t)
	snapshots := func() int {
		all, err := filepath.Glob(filepath.Join(w.root, "snapshots", "[0-9a-f]*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	first := w.fail("FROM test/base\nRUN echo first > /x; exit 1\n")
	cmd := w.command("debug", first, "sh", "-c", "echo ready; cat /x; read line; cat /x")
	var out syncBuffer
	cmd.Stdout = &out
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the shell's start", func() bool { return strings.Contains(out.String(), "ready\nfirst\n") })
	before := snapshots()
	var last string
	for range 11 {
		last = w.fail("FROM test/base\nRUN echo next; exit 1\n")
	}
	if ls := w.ok("debug", "ls"); strings.Count(ls, "Dockerfile:2") != 11 || !strings.Contains(ls, first) {
		t.Errorf("ten and the one in use are kept, want 11:\n%s", ls)
	}
	if n := snapshots() - before; n != 10 {
		t.Errorf("%d snapshots more, want 10", n)
	}
	w.fails(1, []string{"in use"}, "debug", "rm", first)
	stdin.Write([]byte("go\n"))
	if err := cmd.Wait(); err != nil || strings.Count(out.String(), "first") != 2 {
		t.Errorf("the shell in use: %v, %q", err, out.String())
	}
	w.fail("FROM test/base\nRUN echo more; exit 1\n")
	if ls := w.ok("debug", "ls"); strings.Count(ls, "Dockerfile:2") != 10 || strings.Contains(ls, first) {
		t.Errorf("want the ten last:\n%s", ls)
	}
	// Collection keeps them, but for those that are old.
	w.write("image/Dockerfile", "FROM test/base\nRUN echo > /y\n")
	w.ok("build", "-t", "gone", "image")
	w.age(last)
	w.ok("rmi", "gone")
	if ls := w.ok("debug", "ls"); strings.Count(ls, "Dockerfile:2") != 9 || strings.Contains(ls, last) {
		t.Errorf("want nine, as one is more than a week old:\n%s", ls)
	}
	if out := w.ok("debug", "sh", "-c", "ls /bin/busybox"); out != "/bin/busybox\n" {
		t.Errorf("after a collection the last one says %q", out)
	}
	w.ok("debug", "rm", "--all")
	if left, _ := os.ReadDir(filepath.Join(w.root, "failed")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// age makes a failed step older than collections tolerate.
func (w *workbench) age(id string) {
	w.t.Helper()
	name := filepath.Join(w.root, "failed", id+".json")
	data, err := os.ReadFile(name)
	if err != nil {
		w.t.Fatal(err)
	}
	var step map[string]any
	if err := json.Unmarshal(data, &step); err != nil {
		w.t.Fatal(err)
	}
	step["created"] = "2020-01-02T03:04:05Z"
	if data, err = json.Marshal(step); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		w.t.Fatal(err)
	}
}
