// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"builder/container"
	"builder/internal/testutil"
)

// newLifeBench is newBench whose containers are removed at the end, and with
// them the monitor.
func newLifeBench(t testing.TB) *workbench {
	t.Helper()
	w := newBench(t)
	t.Cleanup(func() {
		w.command("rm", "-fa").Run()
		waitFor(t, "the monitor's end", func() bool { return len(w.monitors()) == 0 })
	})
	return w
}

// monitors are the processes of the monitor and its keeper, by their roles.
func (w *workbench) monitors() map[string]int {
	out := map[string]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range stats {
		data, _ := os.ReadFile(name)
		words := strings.Split(string(data), "\x00")
		if len(words) < 4 || words[1] != "--root" || words[2] != w.root || words[3] != "monitor" {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(name, "/")[2])
		if len(words) > 4 && words[4] == "--kept" {
			out["monitor"] = pid
		} else {
			out["keeper"] = pid
		}
	}
	return out
}

// field is one word of inspect.
func (w *workbench) field(name, template string) string {
	w.t.Helper()
	return strings.TrimSpace(w.ok("inspect", "-f", template, name))
}

func (w *workbench) waitField(name, template, want string) {
	w.t.Helper()
	var r result
	defer func() {
		if w.t.Failed() {
			w.t.Logf("last: %+v", r)
		}
	}()
	waitFor(w.t, fmt.Sprintf("%s of %s being %s", template, name, want), func() bool {
		r = w.run("inspect", "-f", template, name)
		return r.code == 0 && strings.TrimSpace(r.stdout) == want
	})
}

const counting = `trap 'echo term; exit 7' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done`

func TestLifeCycle(t *testing.T) {
	w := newLifeBench(t)
	id := strings.TrimSpace(w.ok("run", "-d", "--name", "web", "--label", "a=b", "test/base", "sh", "-c", counting))
	if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(id) {
		t.Fatalf("run -d prints %q", id)
	}
	if got := w.field("web", "{{.State.Status}} {{.Id}} {{index .Config.Labels \"a\"}}"); got != "running "+id+" b" {
		t.Errorf("inspect says %q", got)
	}
	if got := w.ok("ps", "--format", "{{.Names}} {{.State}}", "--filter", "label=a=b"); got != "web running\n" {
		t.Errorf("ps says %q", got)
	}
	w.fails(125, []string{`"web" is in use`}, "run", "-d", "--name", "web", "test/base", "true")
	w.fails(1, []string{"is running"}, "rm", "web")
	w.ok("rename", "web", "site")
	w.fails(1, []string{"no such container: web"}, "stop", "web")
	w.ok("pause", "site")
	if got := w.field("site", "{{.State.Status}} {{.State.Paused}}"); got != "paused true" {
		t.Errorf("a paused one is %q", got)
	}
	before := w.ok("logs", "site")
	time.Sleep(50 * time.Millisecond)
	if after := w.ok("logs", "site"); after != before {
		t.Error("a paused container goes on writing")
	}
	w.fails(1, []string{"is paused"}, "exec", "site", "true")
	w.ok("unpause", "site")
	waitFor(t, "more output", func() bool { return len(w.ok("logs", "site")) > len(before) })
	w.ok("stop", "site")
	if got := w.field("site", "{{.State.Status}} {{.State.ExitCode}}"); got != "exited 7" {
		t.Errorf("a stopped one is %q", got)
	}
	if out := w.ok("wait", "site"); out != "7\n" {
		t.Errorf("wait of an ended container prints %q", out)
	}
	w.ok("start", "site")
	w.ok("restart", "-t", "5", "site")
	if got := w.field("site", "{{.State.Status}}"); got != "running" {
		t.Errorf("after restart it is %q", got)
	}
	w.ok("kill", "-s", "KILL", "site")
	w.waitField("site", "{{.State.Status}} {{.State.ExitCode}}", "exited 137")
	w.fails(1, []string{"not running"}, "kill", "site")
	w.ok("rm", "site")
	if left, _ := filepath.Glob(filepath.Join(w.root, "containers", "*")); len(left) > 0 {
		t.Errorf("left after rm: %v", left)
	}
	var actions []string
	for line := range strings.Lines(w.ok("events", "--stream=false", "--filter", "container="+id, "--format", "{{.Action}}")) {
		actions = append(actions, strings.TrimSpace(line))
	}
	want := "create start rename pause unpause kill die stop start kill die stop start restart kill die destroy"
	if got := strings.Join(actions, " "); got != want {
		t.Errorf("events are %q, want %q", got, want)
	}
}

func TestCreateAndStart(t *testing.T) {
	w := newLifeBench(t)
	file := filepath.Join(w.dir, "cid")
	id := strings.TrimSpace(w.ok("create", "-i", "--cidfile", file, "--name", "made", "test/base", "sh", "-c", "cat; exit 3"))
	if data, err := os.ReadFile(file); err != nil || string(data) != id {
		t.Errorf("--cidfile has %q (%v)", data, err)
	}
	if got := w.field("made", "{{.State.Status}}"); got != "created" {
		t.Errorf("a made container is %q", got)
	}
	w.fails(125, []string{"--cidfile"}, "run", "--cidfile", file, "test/base", "true")
	cmd := w.command("start", "-ai", "made")
	cmd.Stdin = strings.NewReader("through it\n")
	if r := w.finish(cmd); r.stdout != "through it\n" || r.code != 3 {
		t.Errorf("start -ai: code %d, %q %q", r.code, r.stdout, r.stderr)
	}
	// What can't be started stays created, and says why.
	w.fails(127, []string{"nothere"}, "run", "-d", "--name", "bad", "test/base", "nothere")
	if got := w.field("bad", "{{.State.Status}} {{.State.ExitCode}}"); got != "created 127" {
		t.Errorf("one that can't be started is %q", got)
	}
	w.fails(127, []string{"nothere"}, "run", "-d", "--rm", "--name", "gone", "test/base", "nothere")
	w.fails(1, []string{"gone"}, "inspect", "gone")
}

func TestRestartPolicies(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "twice", "--restart", "on-failure:2", "test/base", "sh", "-c", "echo run; exit 4")
	w.ok("run", "-d", "--name", "ended", "--restart", "on-failure", "test/base", "true")
	w.ok("run", "-d", "--name", "ever", "--restart", "always", "test/base", "sh", "-c", "echo run; sleep 0.05")
	w.waitField("twice", "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}", "exited 2 4")
	if out := w.ok("logs", "twice"); out != "run\nrun\nrun\n" {
		t.Errorf("it ran as %q", out)
	}
	w.waitField("ended", "{{.State.Status}} {{.RestartCount}}", "exited 0")
	waitFor(t, "three runs", func() bool { return strings.Count(w.ok("logs", "ever"), "run") >= 3 })
	w.ok("stop", "-t", "1", "ever")
	if got := w.field("ever", "{{.State.Status}}"); got != "exited" {
		t.Errorf("a stopped one is %q", got)
	}
	n := strings.Count(w.ok("logs", "ever"), "run")
	time.Sleep(300 * time.Millisecond)
	if again := strings.Count(w.ok("logs", "ever"), "run"); again != n {
		t.Error("it is started again after stop")
	}
	// In the pause before a restart: restart ends the pause, kill the restarts.
	w.ok("run", "-d", "--name", "flap", "--restart", "always", "-v", w.dir+":/d", "test/base", "sh", "-c", "echo run; [ -e /d/ready ] && sleep 1000")
	waitFor(t, "five runs", func() bool { return strings.Count(w.ok("logs", "flap"), "run") >= 5 })
	w.waitField("flap", "{{.State.Status}}", "restarting") // the pause is 1.6 s by now
	if err := os.WriteFile(filepath.Join(w.dir, "ready"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	w.ok("restart", "-t", "0", "flap")
	n = strings.Count(w.ok("logs", "flap"), "run")
	if got := w.field("flap", "{{.State.Status}}"); got != "running" || n != 6 {
		t.Errorf("restarted in the pause it is %q, in run %d", got, n)
	}
	if got := w.field("flap", "{{.RestartCount}}"); got != "0" {
		t.Errorf("a restart that was asked for counts: %s", got)
	}
	w.ok("run", "-d", "--name", "broken", "--restart", "always", "test/base", "false")
	waitFor(t, "four restarts", func() bool { return w.field("broken", "{{.RestartCount}} {{.State.Status}}") == "4 restarting" })
	if got := w.field("broken", "{{.State.Running}} {{.State.Restarting}} {{.State.Pid}}"); got != "true true 0" { // docker's
		t.Errorf("between two runs it is %s", got)
	}
	w.ok("kill", "broken")
	w.waitField("broken", "{{.State.Status}} {{.RestartCount}}", "exited 4")
}

// TestMonitorKilled kills the monitor, and then the keeper too, while
// containers write and end: none ends because of that, nothing of the output is
// lost or doubled, and exit codes are true.
func TestMonitorKilled(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "count", "test/base", "sh", "-c", counting)
	w.ok("run", "-dit", "--name", "term", "test/base", "sh", "-c", "read x; echo got $x; exit 9")
	rounds := 10
	if n, err := strconv.Atoi(os.Getenv("BUILDER_KILLS")); err == nil {
		rounds = n
	}
	for i := range rounds {
		name := fmt.Sprintf("e%d", i)
		w.ok("run", "-d", "--name", name, "test/base", "sh", "-c", fmt.Sprintf("sleep 0.0%d; exit %d", i%10, i%200))
		m := w.monitors()
		if m["monitor"] != 0 { // it may just be started again
			syscall.Kill(m["monitor"], syscall.SIGKILL)
		}
		if i%3 == 2 && m["keeper"] != 0 {
			syscall.Kill(m["keeper"], syscall.SIGKILL)
		}
		if out := w.ok("ps", "--filter", "name=count", "--format", "{{.State}}"); out != "running\n" {
			t.Fatalf("round %d: ps says %q", i, out)
		}
		w.ok("wait", name)
		// Without keeper and monitor nobody learns how it ends. The keeper may
		// have started a monitor before it was killed, which then has none.
		if i%3 == 2 || m["keeper"] == 0 {
			w.ok("rm", "-f", name)
			continue
		}
		w.waitField(name, "{{.State.Status}} {{.State.ExitCode}}", fmt.Sprintf("exited %d", i%200))
		w.ok("rm", name)
	}
	w.ok("stop", "count")
	checkCounted(t, w.ok("logs", "count"))
}

// checkCounted looks for all lines of the script counting, which was stopped.
func checkCounted(t *testing.T, log string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(log), "\n")
	for i, line := range lines[:len(lines)-1] {
		if line != strconv.Itoa(i+1) {
			t.Fatalf("line %d is %q", i+1, line)
		}
	}
	if last := lines[len(lines)-1]; last != "term" {
		t.Errorf("the last line is %q", last)
	}
}

// TestCommandKilled kills commands whose containers the kernel doesn't end with
// them, as their processes have changed their user: whoever asks next ends them.
func TestCommandKilled(t *testing.T) {
	w := newLifeBench(t)
	for _, next := range [][]string{{"stop", "-t", "0", "fg"}, {"kill", "fg"}, {"rm", "-f", "fg"}, {"start", "fg"}, {"restart", "-t", "0", "fg"}} {
		cmd := w.command("run", "--name", "fg", "test/base", "sh", "-c",
			"mkdir -p /etc; echo d:x:7:7::/:/bin/sh > /etc/passwd; exec su -s /bin/sh -c 'exec sleep 1000' d")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var pid int
		waitFor(t, "the container", func() bool {
			out := w.run("inspect", "-f", "{{.State.Pid}}", "fg")
			pid, _ = strconv.Atoi(strings.TrimSpace(out.stdout))
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			return pid > 0 && string(comm) == "sleep\n"
		})
		cmd.Process.Kill()
		cmd.Wait()
		start := container.StartTime(pid)
		if start == 0 {
			t.Fatal("the container has ended with its command")
		}
		out := w.run(next...)
		if container.StartTime(pid) == start {
			t.Errorf("%v: %+v; the process is there", next, out)
		}
		if next[0] != "kill" && out.code != 0 {
			t.Errorf("%v: %+v", next, out)
		}
		if next[0] == "start" || next[0] == "restart" {
			w.waitField("fg", "{{.State.Status}}", "running")
		}
		w.run("rm", "-f", "fg")
	}
}

// TestTerminalOutlivesMonitor attaches to a terminal whose monitor was killed.
func TestTerminalOutlivesMonitor(t *testing.T) {
	w := newLifeBench(t)
	testutil.Require(t, "script")
	w.ok("run", "-dit", "--name", "term", "test/base", "sh", "-c", "read x; echo got $x; exit 9")
	syscall.Kill(w.monitors()["monitor"], syscall.SIGKILL)
	exe := program(t)
	cmd := exec.Command("script", "-qec", exe+" attach term", "/dev/null")
	cmd.Env = w.command().Env
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out syncBuffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the answer", func() bool {
		fmt.Fprint(stdin, "hey\n")
		time.Sleep(50 * time.Millisecond)
		return strings.Contains(out.String(), "got hey")
	})
	stdin.Close()
	cmd.Wait()
	w.waitField("term", "{{.State.Status}} {{.State.ExitCode}}", "exited 9")
}

func TestLogs(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "talk", "test/base", "sh", "-c", "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done; printf end")
	w.ok("wait", "talk")
	r := w.run("logs", "talk")
	if r.stdout != "out 1\nout 2\nout 3\nout 4\nout 5\nend" || r.stderr != "err 1\nerr 2\nerr 3\nerr 4\nerr 5\n" {
		t.Errorf("logs: %q and %q", r.stdout, r.stderr)
	}
	if r := w.run("logs", "-n", "3", "talk"); strings.Count(r.stdout+r.stderr, "\n") != 2 || !strings.Contains(r.stdout, "end") {
		t.Errorf("logs -n 3: %q and %q", r.stdout, r.stderr)
	}
	if r := w.run("logs", "-t", "-n", "1", "talk"); !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z end$`).MatchString(r.stdout) {
		t.Errorf("logs -t: %q", r.stdout)
	}
	if r := w.run("logs", "--until", "1h", "talk"); r.stdout+r.stderr != "" {
		t.Errorf("logs of an hour ago: %q", r.stdout)
	}
	// Followed from before the first line to the end, by a slow reader too.
	w.ok("run", "-d", "--name", "long", "test/base", "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done")
	out := w.ok("logs", "-f", "long")
	if n := strings.Count(out, "\n"); n != 20000 || !strings.HasSuffix(out, "line 20000\n") {
		t.Errorf("logs -f: %d lines", n)
	}
	// Rotated: the last lines are there, and the files are bounded.
	w.ok("run", "-d", "--name", "big", "--log-opt", "max-size=20k", "--log-opt", "max-file=2", "test/base", "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done")
	w.ok("wait", "big")
	out = w.ok("logs", "big")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	first, _ := strconv.Atoi(strings.TrimPrefix(lines[0], "line "))
	if !strings.HasSuffix(out, "line 20000\n") || len(lines) < 100 || len(lines) > 15000 || first+len(lines)-1 != 20000 {
		t.Errorf("a rotated log has %d lines from %q to %q", len(lines), lines[0], lines[len(lines)-1])
	}
	w.ok("run", "--name", "quiet", "--log-driver", "none", "test/base", "echo", "x")
	w.fails(1, []string{"--log-driver none"}, "logs", "quiet")
	// What ran in the foreground is there too.
	w.ok("run", "--name", "fore", "test/base", "echo", "seen")
	if out := w.ok("logs", "fore"); out != "seen\n" {
		t.Errorf("logs of a foreground container: %q", out)
	}
}

// TestAttachRedraws attaches twice by terminals of one size: the program hears
// each time that it is to draw its screen.
func TestAttachRedraws(t *testing.T) {
	w := newLifeBench(t)
	testutil.Require(t, "script")
	exe := program(t)
	w.ok("run", "-dit", "--name", "screen", "test/base", "sh", "-c", "trap 'echo winch' WINCH; echo ready; while :; do sleep 0.02; done")
	waitFor(t, "the trap", func() bool { return strings.Contains(w.ok("logs", "screen"), "ready") })
	config := t.TempDir()
	t.Setenv("DOCKER_CONFIG", config)
	for i, keys := range [][]byte{{16, 17}, {1, 'b'}} {
		if i == 1 {
			if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(`{"detachKeys": "ctrl-a,b", "psFormat": "{{.Names}} is {{.State}}", "networksFormat": "{{.Name}}!"}`), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		before := strings.Count(w.ok("logs", "screen"), "winch")
		cmd := exec.Command("script", "-qec", "stty cols 80 rows 24; exec "+exe+" attach screen", "/dev/null")
		cmd.Env = w.command().Env
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, fmt.Sprintf("SIGWINCH of attachment %d", i), func() bool { return strings.Count(w.ok("logs", "screen"), "winch") > before })
		if _, err := stdin.Write(keys); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 1 { // docker's
			t.Errorf("attachment %d, left by the keys: code %d", i, code)
		}
	}
	// What else docker's config file says.
	if out := w.ok("ps") + w.ok("network", "ls") + w.ok("ps", "--format", "{{.Names}}"); out != "screen is running\nbridge!\nhost!\nnone!\nscreen\n" {
		t.Errorf("with formats in docker's config file: %q", out)
	}
}

// TestExecDetach leaves a command that was executed in a container by keys: it goes on,
// and is not held up by a terminal that nobody reads.
func TestExecDetach(t *testing.T) {
	w := newLifeBench(t)
	testutil.Require(t, "script")
	w.ok("run", "-d", "--name", "box", "test/base", "sleep", "1000")
	if got := w.field("box", "{{json .ExecIDs}}"); got != "[]" {
		t.Errorf("before, there is executed %s", got)
	}
	const loop = "echo $$ > /pid; stty -echo; read x; echo $x > /typed; line=$(head -c 500 /dev/zero | tr '\\0' x); while :; do echo $line; echo >> /lines; sleep 0.01; done"
	cmd := exec.Command("script", "-qec", "exec "+program(t)+` exec -it --detach-keys ctrl-a,d box sh -c "$LOOP"`, "/dev/null")
	cmd.Env = append(w.command().Env, "LOOP="+loop)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	written := func() int { return strings.Count(w.run("exec", "box", "cat", "/lines").stdout, "\n") }
	if _, err := stdin.Write([]byte("a\x01bc\n")); err != nil { // only the beginning of the keys
		t.Fatal(err)
	}
	waitFor(t, "the loop", func() bool { return written() > 0 })
	if got := w.ok("exec", "box", "cat", "/typed"); got != "a\x01bc\n" {
		t.Errorf("typed was %q", got)
	}
	ids := w.field("box", "{{range .ExecIDs}}{{.}} {{end}}")
	if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(ids) {
		t.Errorf("what is executed is %q", ids)
	}
	if _, err := stdin.Write([]byte{1, 'd'}); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(out.String(), "read escape sequence") { // docker's
		t.Errorf("left by the keys: code %d, %q", code, out.String())
	}
	const buffer = 64 << 10 // more than a terminal keeps
	before := written()
	waitFor(t, "lines that nobody sees", func() bool { return written() > before+buffer/500 })
	if got := w.field("box", "{{range .ExecIDs}}{{.}} {{end}}"); got != ids {
		t.Errorf("after it was left, there is executed %q, not %q", got, ids)
	}
	holders := func() int {
		out, _ := exec.Command("pgrep", "-fc", w.root+" hold-terminal").Output()
		n, _ := strconv.Atoi(strings.TrimSpace(string(out)))
		return n
	}
	if n := holders(); n != 1 {
		t.Errorf("%d processes hold the terminal", n)
	}
	w.ok("exec", "box", "sh", "-c", "kill -9 $(cat /pid)")
	waitFor(t, "the terminal to be let go", func() bool { return holders() == 0 })
	if got := w.field("box", "{{json .ExecIDs}}"); got != "[]" {
		t.Errorf("after its end there is executed %s", got)
	}
	events := w.ok("events", "--stream=false", "--filter", "event=exec_detach", "--format", "{{.Action}} {{.Actor.Attributes.execID}}")
	if events != "exec_detach "+ids+"\n" {
		t.Errorf("left was %q", events)
	}
	// In the background, with a terminal too.
	w.ok("exec", "-dt", "box", "sleep", "333")
	w.ok("exec", "-d", "box", "sleep", "334")
	if got := len(strings.Fields(w.field("box", "{{range .ExecIDs}}{{.}} {{end}}"))); got != 2 || holders() != 1 {
		t.Errorf("in the background there are %d, and %d terminals are held", got, holders())
	}
	w.ok("exec", "box", "sh", "-c", "kill -9 $(pidof sleep | tr ' ' '\\n' | grep -v '^1$')")
	waitFor(t, "the end of those", func() bool { return holders() == 0 })
	for range 3 {
		w.ok("exec", "-d", "box", "true")
	}
	w.ok("exec", "-d", "box", "sleep", "335")
	if noted, err := filepath.Glob(filepath.Join(w.root, "containers", w.field("box", "{{.Id}}"), "exec", "*")); err != nil || len(noted) > 4 {
		t.Errorf("noted are %q, %v", noted, err)
	}
	w.fails(125, []string{"--detach-keys", "unknown key"}, "exec", "-it", "--detach-keys", "ctrl-A", "box", "true")
}

func TestAttach(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-di", "--name", "echo", "test/base", "sh", "-c", "while read x; do echo said $x; [ $x = end ] && exit 6; done")
	cmd := w.command("attach", "echo")
	cmd.Stdin = strings.NewReader("one\nend\n")
	if r := w.finish(cmd); r.code != 6 || r.stdout != "said one\nsaid end\n" {
		t.Errorf("attach: code %d, %q %q", r.code, r.stdout, r.stderr)
	}
	w.fails(1, []string{"not running"}, "attach", "echo")
	w.ok("run", "-dit", "--name", "term", "test/base", "sleep", "1000")
	w.fails(1, []string{"no terminal"}, "attach", "term")
	w.ok("top", "term")
	w.ok("cp", "term:/bin/busybox", filepath.Join(w.dir, "copy"))
	w.ok("cp", filepath.Join(w.dir, "copy"), "term:/copy")
	w.fails(2, []string{"is after --until"}, "events", "--since", "1s", "--until", "1h")
	if all := w.ok("events", "--since", "0", "--until", "0s"); !strings.Contains(all, " container create ") || w.ok("events", "--until", "0s") != all {
		t.Errorf("all events are %q", all)
	}
	if out := w.ok("events", "--since", "1h", "--until", "0s", "--filter", "event=attach", "--filter", "event=top", "--filter", "event=archive-path", "--filter", "event=extract-to-dir", "--format", "{{.Action}} {{.Actor.Attributes.name}}"); out != "attach echo\ntop term\narchive-path term\nextract-to-dir term\n" {
		t.Errorf("events: %q", out)
	}
	// Signals go to the process.
	w.ok("run", "-d", "--name", "sig", "test/base", "sh", "-c", "trap 'echo int; exit 5' INT; while :; do sleep 0.02; done")
	cmd = w.command("attach", "--no-stdin", "sig")
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 || out.String() != "int\n" {
		t.Errorf("attach after SIGINT: code %d, %q", code, out.String())
	}
}

func TestExecCommand(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "cc", "-e", "A=container", "-w", "/tmp", "test/base", "sleep", "1000")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"cc", "sh", "-c", "echo $A; pwd"}, "container\n/tmp\n"},
		{[]string{"-e", "A=exec", "-w", "/etc", "-u", "user", "cc", "sh", "-c", "echo $A $HOME; pwd; id -un"}, "exec /home/user\n/etc\nuser\n"},
		{[]string{"cc", "cat"}, ""},
	} {
		if out := w.ok(append([]string{"exec"}, tt.args...)...); out != tt.want {
			t.Errorf("exec %v: %q, want %q", tt.args, out, tt.want)
		}
	}
	cmd := w.command("exec", "-i", "cc", "sh", "-c", "cat; exit 9")
	cmd.Stdin = strings.NewReader("in")
	if r := w.finish(cmd); r.code != 9 || r.stdout != "in" {
		t.Errorf("exec -i: code %d, %q", r.code, r.stdout)
	}
	w.ok("exec", "-d", "cc", "sh", "-c", "sleep 0.1; echo later > /tmp/later; sleep 1000")
	waitFor(t, "what runs in the background", func() bool { return w.run("exec", "cc", "cat", "/tmp/later").stdout == "later\n" })
	w.fails(127, []string{"nothere"}, "exec", "cc", "nothere")
	w.fails(126, []string{"/etc"}, "exec", "cc", "/etc")
	w.fails(1, []string{"no such container"}, "exec", "x", "true")
	w.ok("stop", "-t", "0", "cc")
	w.fails(1, []string{"not running"}, "exec", "cc", "true")
}

func TestHealth(t *testing.T) {
	w := newLifeBench(t)
	w.write("Dockerfile", "FROM test/base\nHEALTHCHECK --interval=50ms --retries=2 CMD test -e /tmp/well && echo fine\nCMD [\"sleep\", \"1000\"]\n")
	w.ok("build", "-t", "checked", ".")
	w.ok("run", "-d", "--name", "hh", "checked")
	w.waitField("hh", "{{.State.Health.Status}}", "unhealthy")
	if ps := w.ok("ps"); !strings.Contains(ps, "(unhealthy)") {
		t.Errorf("ps: %s", ps)
	}
	w.ok("exec", "hh", "touch", "/tmp/well")
	w.waitField("hh", "{{.State.Health.Status}} {{.State.Health.FailingStreak}}", "healthy 0")
	var state struct {
		State struct {
			Health struct{ Log []struct{ Output string } }
		}
	}
	var list []json.RawMessage
	if err := json.Unmarshal([]byte(w.ok("inspect", "hh")), &list); err != nil || json.Unmarshal(list[0], &state) != nil {
		t.Fatal(err)
	}
	if log := state.State.Health.Log; len(log) == 0 || len(log) > 5 || log[len(log)-1].Output != "fine\n" {
		t.Errorf("the log of checks is %+v", log)
	}
	for _, tt := range []struct{ name, flag, want string }{
		{"times", "--health-interval=1h", `{"Test":["CMD-SHELL","test -e /tmp/well && echo fine"],"Interval":3600000000000,"Retries":2}`},
		{"no", "--no-healthcheck", `{"Test":["NONE"]}`},
	} {
		w.ok("run", "-d", "--name", tt.name, tt.flag, "checked")
		if got := w.field(tt.name, "{{json .Config.Healthcheck}}"); got != tt.want {
			t.Errorf("%s: the check is %s, want %s", tt.flag, got, tt.want)
		}
	}
	w.ok("run", "-d", "--name", "only", "--health-retries=5", "test/base", "sleep", "1000")
	if got := w.field("only", "{{json .Config.Healthcheck}}"); got != `{"Retries":5}` {
		t.Errorf("without a command the check is %s", got)
	}
	for _, name := range []string{"no", "only"} {
		if got := w.field(name, "{{json .State.Health}}"); got != "null" {
			t.Errorf("%s: without health check: %s", name, got)
		}
	}
	w.ok("run", "-d", "--name", "slow", "--health-cmd", "sleep 10", "--health-timeout", "50ms", "checked")
	w.waitField("slow", "{{.State.Health.Status}}", "unhealthy")
}

// TestUnhealthy has something done to containers that become unhealthy.
func TestUnhealthy(t *testing.T) {
	w := newLifeBench(t)
	start := func(name, action string, more ...string) (begun string) {
		t.Helper()
		args := append([]string{"run", "-d", "--name", name, "--health-cmd", "test ! -e /ill", "--health-interval", "50ms", "--health-retries", "2", "--health-on-failure", action}, more...)
		w.ok(append(args, "test/base", "sh", "-c", "rm -f /ill; trap 'exit 3' TERM; while :; do sleep 0.01; done")...)
		w.waitField(name, "{{.State.Health.Status}}", "healthy")
		begun = w.field(name, "{{.State.StartedAt}}")
		w.ok("exec", name, "touch", "/ill")
		return begun
	}
	start("none", "none")
	w.waitField("none", "{{.State.Status}} {{.State.Health.Status}}", "running unhealthy")
	start("kill", "kill")
	w.waitField("kill", "{{.State.Status}} {{.State.ExitCode}}", "exited 137")
	start("stop", "stop", "--restart", "always")
	w.waitField("stop", "{{.State.Status}} {{.State.ExitCode}}", "exited 3")
	start("again", "kill", "--restart", "on-failure")
	w.waitField("again", "{{.RestartCount}} {{.State.Health.Status}}", "1 healthy")
	first := start("restart", "restart")
	waitFor(t, "the restart", func() bool { return w.field("restart", "{{.State.StartedAt}}") != first })
	w.waitField("restart", "{{.State.Status}} {{.State.Health.Status}} {{.RestartCount}}", "running healthy 1")

	// While somebody stops it nothing else is done to it, and what a monitor was killed
	// before is done by the next one.
	w.ok("run", "-d", "--name", "drains", "--health-cmd", "test ! -e /ill", "--health-interval", "50ms", "--health-retries", "1", "--health-on-failure", "restart",
		"test/base", "sh", "-c", "trap 'touch /ill; sleep 1; exit 5' TERM; while :; do sleep 0.01; done")
	w.waitField("drains", "{{.State.Health.Status}}", "healthy")
	w.ok("stop", "-t", "60", "drains")
	w.waitField("drains", "{{.State.Status}} {{.State.ExitCode}}", "exited 5")
	w.ok("run", "-d", "--name", "late", "--health-cmd", "test ! -e /ill", "--health-interval", "50ms", "--health-retries", "1", "--health-on-failure", "restart",
		"test/base", "sh", "-c", "rm -f /ill; trap 'sleep 2; exit 3' TERM; while :; do sleep 0.01; done")
	w.waitField("late", "{{.State.Health.Status}}", "healthy")
	first = w.field("late", "{{.State.StartedAt}}")
	w.ok("exec", "late", "touch", "/ill")
	w.waitField("late", "{{.State.Health.Status}}", "unhealthy") // its process takes a while to end
	w.withoutMonitor(func() {})
	waitFor(t, "the restart by the next monitor", func() bool { return w.field("late", "{{.State.StartedAt}}") != first })
	w.waitField("late", "{{.State.Status}}", "running")

	// In the foreground too.
	r := w.run("run", "--rm", "--health-cmd", "false", "--health-interval", "50ms", "--health-retries", "1", "--health-on-failure", "stop", "test/base", "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.01; done")
	if r.code != 3 {
		t.Errorf("in the foreground: %+v", r)
	}
	w.fails(125, []string{"--restart"}, "run", "--restart", "always", "--health-cmd", "false", "--health-on-failure", "restart", "test/base", "true")
}

func TestWrongLifeCycle(t *testing.T) {
	w := newLifeBench(t)
	for _, tt := range []struct {
		code int
		word string
		args []string
	}{
		{125, "--restart", []string{"run", "-d", "--restart", "sometimes", "test/base"}},
		{125, "--rm and --restart", []string{"run", "-d", "--rm", "--restart", "always", "test/base"}},
		{125, "--log-driver", []string{"run", "--log-driver", "syslog", "test/base"}},
		{125, "--log-opt", []string{"run", "--log-opt", "tag=x", "test/base"}},
		{125, "--stop-signal", []string{"run", "--stop-signal", "NOPE", "test/base"}},
		{125, "--detach-keys", []string{"run", "--detach-keys", "ctrl-?", "test/base"}},
		{125, "--name", []string{"run", "--name", "a b", "test/base"}},
		{125, "--health-retries", []string{"run", "--health-retries", "-1", "test/base"}},
		{2, "--filter", []string{"ps", "--filter", "color=red"}},
		{2, "--filter", []string{"ps", "--filter", "status=happy"}},
		{2, "--signal", []string{"kill", "-s", "NOPE", "x"}},
		{2, "name a container", []string{"stop"}},
		{1, "no such container", []string{"stop", "x"}},
		{1, "no such container", []string{"logs", "x"}},
		{2, "--tail", []string{"logs", "-n", "some", "x"}},
		{2, "--since", []string{"logs", "--since", "yesterday", "x"}},
		{1, "no such container", []string{"start", "x"}},
		{1, "no such container", []string{"wait", "x"}},
		{1, "no such container", []string{"rename", "x", "yy"}},
		{2, "attach to one", []string{"start", "-a", "x", "y"}},
		{2, "not both", []string{"stop", "--all", "x"}},
	} {
		w.fails(tt.code, []string{tt.word}, tt.args...)
	}
	w.ok("rm", "-f", "x")
	w.ok("stop", "-i", "x")
}

// TestWaitCondition waits for other things than the end.
func TestWaitCondition(t *testing.T) {
	w := newLifeBench(t)
	w.ok("create", "--name", "cc", "--health-cmd", "test -e /well", "--health-interval", "50ms", "--health-retries", "1", "test/base", "sleep", "1000")
	// waiting waits beside what is done meanwhile.
	waiting := func(condition string, do ...string) {
		t.Helper()
		ended := make(chan result)
		go func() { ended <- w.run("wait", "--condition", condition, "cc") }()
		time.Sleep(time.Second) // it waits by then, or finds it done
		w.ok(do...)
		if r := <-ended; r.code != 0 || r.stdout != "" {
			t.Errorf("%s: %+v", condition, r)
		}
	}
	waiting("created", "ps")
	waiting("running", "start", "cc")
	waiting("unhealthy", "ps")
	waiting("healthy", "exec", "cc", "touch", "/well")
	waiting("paused", "pause", "cc")
	waiting("running", "unpause", "cc")
	waiting("removed", "rm", "-f", "cc")
	w.run("run", "--name", "cc", "test/base", "sh", "-c", "exit 3")
	if out := w.ok("wait", "--condition", "exited", "cc"); out != "3\n" {
		t.Errorf("of its end it says %q", out)
	}
	ended := make(chan result)
	go func() { ended <- w.run("wait", "--condition", "running", "cc") }()
	w.ok("rm", "cc")
	if r := <-ended; r.code != 1 || !strings.Contains(r.stderr, "cc") {
		t.Errorf("of one that was removed: %+v", r)
	}
	w.fails(2, []string{"--condition", "healthy"}, "wait", "--condition", "tired", "cc")
}

// TestAllEvents holds what is told of images, networks and volumes.
func TestAllEvents(t *testing.T) {
	w, _ := newNetBench(t)
	w.write("Dockerfile", "FROM test/base\nVOLUME /data\nLABEL kind=try\n")
	w.ok("build", "-t", "app", ".")
	id := w.field("app", "{{.Id}}")
	w.ok("tag", "app", "other")
	w.ok("save", "-o", "app.tar", "app")
	w.ok("rmi", "other")
	w.ok("network", "create", "near")
	w.ok("network", "create", "far")
	w.ok("volume", "create", "kept")
	w.ok("volume", "create", "kept") // it is there
	w.ok("run", "--name", "one", "--rm", "--network", "near", "-v", "kept:/kept:ro", "app", "true")
	w.ok("run", "-d", "--name", "two", "--network", "near", "test/base", "sleep", "1000")
	w.ok("network", "connect", "far", "two")
	w.ok("network", "disconnect", "near", "two")
	w.ok("exec", "two", "true")
	w.ok("export", "-o", "two.tar", "two")
	w.withoutMonitor(func() { syscall.Kill(w.pid("two"), syscall.SIGKILL) })
	w.waitField("two", "{{.State.Status}}", "exited")
	w.ok("rm", "two")
	w.ok("network", "rm", "near", "far")
	w.ok("volume", "rm", "kept")
	w.ok("rmi", "-f", "app")
	w.ok("load", "-i", "app.tar")
	show := func(kind string, filters ...string) string {
		args := []string{"events", "--since", "1h", "--stream=false", "--filter", "type=" + kind, "--format", "{{.Action}} {{.Actor.Attributes.name}}"}
		for _, f := range filters {
			args = append(args, "--filter", f)
		}
		return strings.Join(strings.Fields(w.ok(args...)), " ")
	}
	for _, tc := range []struct{ got, want string }{
		{show("image", "image=app"), "tag app:latest save app:latest untag app:latest load app:latest"},
		{show("image", "image=other"), "tag other:latest untag other:latest"},
		{show("image", "event=delete"), "delete sha256:" + strings.TrimPrefix(w.field("app", "{{.Id}}"), "sha256:")},
		{show("network"), "create near create far connect near disconnect near connect near connect far disconnect near disconnect far destroy near destroy far"},
		{show("volume", "volume=kept"), "create <no value> mount <no value> unmount <no value> destroy <no value>"},
		{show("volume", "event=destroy"), "destroy <no value> destroy <no value>"}, // the anonymous one
		{show("container", "container=one"), "create one attach one start one die one destroy one"},
		{show("container", "container=two"), "create two start two exec_create: true two exec_start: true two exec_die two export two die two destroy two"},
		{show("image", "label=kind=try"), "tag app:latest tag other:latest save app:latest untag other:latest untag app:latest delete " + id + " load app:latest"},
	} {
		if tc.got != tc.want {
			t.Errorf("got  %s\nwant %s", tc.got, tc.want)
		}
	}
	out := w.ok("events", "--since", "1h", "--stream=false", "--filter", "volume=kept", "--filter", "event=mount", "--format", "{{.Type}} {{.ID}} {{index .Actor.Attributes \"destination\"}} {{index .Actor.Attributes \"read/write\"}}")
	if out != "volume kept /kept false\n" {
		t.Errorf("of the mount is told %q", out)
	}
}
