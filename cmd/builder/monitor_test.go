// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"builder/container"
	"builder/supervisor"
)

// withoutMonitor kills the monitor, calls do while nobody holds the containers,
// and lets the keeper start it again.
func (w *workbench) withoutMonitor(do func()) {
	w.t.Helper()
	m := w.monitors()
	if m["keeper"] == 0 || m["monitor"] == 0 {
		w.t.Fatalf("there are only %v", m)
	}
	syscall.Kill(m["keeper"], syscall.SIGSTOP)
	defer syscall.Kill(m["keeper"], syscall.SIGCONT)
	syscall.Kill(m["monitor"], syscall.SIGKILL)
	waitFor(w.t, "the monitor's end", func() bool { return container.StartTime(m["monitor"]) == 0 })
	do()
}

// pid is that of a container's process 1.
func (w *workbench) pid(name string) int {
	w.t.Helper()
	pid, err := strconv.Atoi(w.field(name, "{{.State.Pid}}"))
	if err != nil || pid == 0 {
		w.t.Fatalf("container %s has process %d (%v)", name, pid, err)
	}
	return pid
}

// TestEndsWithoutMonitor has containers write and end while the monitor is dead:
// the next one has all of it, and how they ended.
func TestEndsWithoutMonitor(t *testing.T) {
	w := newLifeBench(t)
	const script = "echo before; while [ ! -e /go ]; do sleep 0.01; done; seq 1000; echo wrong >&2; exit 6"
	for name, flags := range map[string][]string{"pipes": nil, "term": {"-t"}, "again": {"--restart", "on-failure:1"}} {
		w.ok(append(append([]string{"run", "-d", "--name", name}, flags...), "test/base", "sh", "-c", script)...)
	}
	var pids []int
	for _, name := range []string{"pipes", "term", "again"} {
		waitFor(t, "the first line", func() bool { return strings.Contains(w.ok("logs", name), "before") })
		pids = append(pids, w.pid(name))
	}
	w.withoutMonitor(func() {
		for _, pid := range pids {
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/go", pid), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, pid := range pids {
			waitFor(t, "the container's end", func() bool { return container.StartTime(pid) == 0 })
		}
	})
	var want strings.Builder
	want.WriteString("before\n")
	for i := range 1000 {
		fmt.Fprintf(&want, "%d\n", i+1)
	}
	for name, times := range map[string]int{"pipes": 1, "term": 1, "again": 2} {
		w.waitField(name, "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}", fmt.Sprintf("exited 6 %d", times-1))
		r := w.run("logs", name)
		out := strings.ReplaceAll(r.stdout, "\r", "")
		wrong := r.stderr
		if name == "term" {
			out, wrong = strings.Replace(out, "wrong\n", "", 1), "wrong\n"
		}
		if out != strings.Repeat(want.String(), times) || wrong != strings.Repeat("wrong\n", times) {
			t.Errorf("%s: logs are %d bytes: %.100q, and %q", name, len(r.stdout), r.stdout, r.stderr)
		}
	}
	died := w.ok("events", "--since", "1h", "--stream=false", "--filter", "container=pipes", "--filter", "event=die", "--format", "{{.Actor.Attributes.exitCode}}")
	if died != "6\n" {
		t.Errorf("events of its end: %q", died)
	}
}

// TestMonitorForgotten kills the monitor together with what starts it again: a
// command that only looks brings it back.
func TestMonitorForgotten(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "writes", "test/base", "sh", "-c", "while :; do sleep 0.05; echo line; done")
	for _, look := range [][]string{{"ps"}, {"logs", "writes"}, {"inspect", "writes"}, {"exec", "writes", "true"}, {"top", "writes"}} {
		m := w.monitors()
		syscall.Kill(m["monitor"], syscall.SIGSTOP) // else it would take the keeper's place
		syscall.Kill(m["keeper"], syscall.SIGKILL)
		syscall.Kill(m["monitor"], syscall.SIGKILL)
		waitFor(t, "their end", func() bool { return len(w.monitors()) == 0 })
		w.ok(look...)
		if m := w.monitors(); len(m) != 2 {
			t.Errorf("after %v there are only %v", look, m)
		}
		before := strings.Count(w.ok("logs", "writes"), "line")
		waitFor(t, "more lines", func() bool { return strings.Count(w.ok("logs", "writes"), "line") > before })
	}
}

// TestKeeperKilled kills the keeper alone: the monitor takes its place, and starts
// another one. After that nothing is lost with a monitor. A second time, it is only
// not known how those end that the first monitor had started.
func TestKeeperKilled(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "count", "test/base", "sh", "-c", counting)
	w.ok("run", "-dt", "--name", "term", "test/base", "sh", "-c", "while [ ! -e /go ]; do sleep 0.01; done; echo got; exit 9")
	kill := func() {
		t.Helper()
		m := w.monitors()
		syscall.Kill(m["keeper"], syscall.SIGKILL)
		waitFor(t, "the monitor in the keeper's place", func() bool {
			now := w.monitors()
			return now["keeper"] == m["monitor"] && now["monitor"] != 0
		})
		w.ok("update", "--restart", "no", "count") // the new monitor has it
	}
	kill()
	pid := w.pid("term")
	w.withoutMonitor(func() {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/go", pid), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the container's end", func() bool { return container.StartTime(pid) == 0 })
	})
	w.waitField("term", "{{.State.Status}} {{.State.ExitCode}}", "exited 9")
	if out := w.ok("logs", "term"); out != "got\r\n" {
		t.Errorf("logs say %q", out)
	}
	kill()
	kill()
	w.ok("stop", "count")
	checkCounted(t, w.ok("logs", "count"))
}

// TestTakenOverLater has the log's place taken while the monitor is dead: what
// can't be taken over says why, and is as soon as it can be.
func TestTakenOverLater(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "bad", "test/base", "sh", "-c", counting)
	log := filepath.Join(w.root, "containers", w.field("bad", "{{.Id}}"), "log")
	w.withoutMonitor(func() {
		if err := os.Rename(log, log+".away"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(log, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	waitFor(t, "the monitor", func() bool { return w.monitors()["monitor"] != 0 })
	w.fails(1, []string{"be taken over", "not a directory"}, "stop", "bad")
	if out := w.ok("ps", "--format", "{{.State}}"); out != "running\n" {
		t.Errorf("ps says %q", out)
	}
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(log+".away", log); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "it being taken over", func() bool { return w.run("stop", "bad").code == 0 })
	lines := strings.Split(strings.TrimSpace(w.ok("logs", "bad")), "\n")
	if n := len(lines); lines[n-1] != "term" || lines[n-2] != strconv.Itoa(n-1) {
		t.Errorf("%d lines, the last are %q", n, lines[max(0, n-2):])
	}
}

// TestPausedWithoutMonitor stops a container's processes, and lets them go on, as
// a monitor does that is killed before it has said so.
func TestPausedWithoutMonitor(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "pa", "test/base", "sleep", "1000")
	dir := groupOf(t, w.pid("pa"))
	for value, status := range map[string]string{"1": "paused", "0": "running"} {
		w.withoutMonitor(func() {
			if err := os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte(value), 0); err != nil {
				t.Fatal(err)
			}
		})
		w.ok("update", "--restart", "no", "pa") // by the next monitor
		w.waitField("pa", "{{.State.Status}}", status)
	}
	w.ok("stop", "-t", "0", "pa")
}

// groupOf is the directory of a process's control group.
func groupOf(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
				if _, err := os.Stat(filepath.Join(root, name, "cgroup.freeze")); err == nil {
					return filepath.Join(root, name)
				}
			}
		}
	}
	t.Fatalf("process %d has no group of version 2: %s", pid, data)
	return ""
}

// TestEndWaitsForNobody ends containers whose output somebody else holds open, or
// doesn't read: the end is told and the container can be removed. Who reads later
// gets all.
func TestEndWaitsForNobody(t *testing.T) {
	w := newLifeBench(t)
	for _, tty := range []bool{false, true} {
		args := []string{"run", "-d", "--name", "slow"}
		if tty {
			args = append(args, "-t")
		}
		w.ok(append(args, "test/base", "sh", "-c", "while [ ! -e /go ]; do echo x; sleep 0.01; done; yes | head -c 3000000; sleep 1000")...)
		pid := w.pid("slow")
		held, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/1", pid), os.O_WRONLY|syscall.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		attached := w.command("attach", "--no-stdin", "slow")
		out, err := attached.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := attached.Start(); err != nil {
			t.Fatal(err)
		}
		first := make([]byte, 1)
		if _, err := io.ReadFull(out, first); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/go", pid), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		log := filepath.Join(w.root, "containers", w.field("slow", "{{.Id}}"), "log", "1.1")
		var size int64
		waitFor(t, "the container waiting for its viewer", func() bool {
			before := size
			if st, err := os.Stat(log); err == nil {
				size = st.Size()
			}
			return size > 1<<18 && size == before
		})
		w.ok("stop", "-t", "0", "slow")
		if st := w.field("slow", "{{.State.Status}} {{.State.ExitCode}}"); st != "exited 137" {
			t.Errorf("it is %s", st)
		}
		logged := w.ok("logs", "slow")
		w.ok("rm", "slow")
		seen, err := io.ReadAll(out)
		if err != nil {
			t.Fatal(err)
		}
		if attached.Wait(); attached.ProcessState.ExitCode() != 137 {
			t.Errorf("attach ended with %d", attached.ProcessState.ExitCode())
		}
		seen = append(first, seen...)
		if len(seen) < 1<<18 || !bytes.HasSuffix([]byte(logged), seen) {
			t.Errorf("terminal %v: of %d bytes logged the viewer has seen %d", tty, len(logged), len(seen))
		}
		held.Close()
	}
}

// TestProbeEndsWithMonitor kills the monitor while a check runs, which nobody
// would end otherwise.
func TestProbeEndsWithMonitor(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "hh", "--health-cmd", "sleep 1000", "--health-interval", "50ms", "test/base", "sleep", "1000")
	state := filepath.Join(w.root, "containers", w.field("hh", "{{.Id}}"), "state.json")
	var st supervisor.State
	read := func() bool {
		data, err := os.ReadFile(state)
		return err == nil && json.Unmarshal(data, &st) == nil && st.Health != nil && st.Health.Pid != 0
	}
	waitFor(t, "a check", read)
	w.withoutMonitor(func() {
		if container.StartTime(st.Health.Pid) != st.Health.PidStart {
			t.Error("the check has ended with the monitor")
		}
	})
	waitFor(t, "the check's end", func() bool { return container.StartTime(st.Health.Pid) != st.Health.PidStart })
	before := st.Health.Pid
	waitFor(t, "another check", func() bool { return read() && st.Health.Pid != before })
}

// TestFollowWithoutMonitor follows the log of a container that ends while the
// monitor is dead, and is started again by the next one.
func TestFollowWithoutMonitor(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "ff", "--restart", "always", "test/base", "sh", "-c", "while [ ! -e /go ]; do sleep 0.01; done; rm /go; echo round")
	pid := w.pid("ff")
	var out syncBuffer
	follow := w.command("logs", "-f", "ff")
	follow.Stdout = &out
	w.withoutMonitor(func() {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/go", pid), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the container's end", func() bool { return container.StartTime(pid) == 0 })
		if err := follow.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond) // it has looked by then
	})
	w.waitField("ff", "{{.State.Status}}", "running")
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/go", w.pid("ff")), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "both rounds", func() bool { return out.String() == "round\nround\n" })
	w.ok("rm", "-f", "ff")
	follow.Wait()
}

// TestLeavingViewers has viewers come and go while a container writes: neither the
// monitor nor a command in the foreground minds.
func TestLeavingViewers(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "yes", "test/base", "yes")
	monitor := w.monitors()["monitor"]
	for range 4 {
		var viewers []*exec.Cmd
		for range 4 {
			cmd := w.command("attach", "--no-stdin", "yes")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(out, make([]byte, 100)); err != nil {
				t.Error(err)
			}
			go io.Copy(io.Discard, out) // else the container waits, and the others too
			viewers = append(viewers, cmd)
		}
		for _, cmd := range viewers {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	if now := w.monitors()["monitor"]; now != monitor {
		t.Errorf("the monitor was %d and is %d", monitor, now)
	}
	// The reader of the command's own output goes while another one looks on.
	cmd := w.command("run", "--name", "fg", "test/base", "sh", "-c", "trap '' PIPE; while :; do echo x; sleep 0.01; done")
	var said syncBuffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	attached := w.command("attach", "--no-stdin", "fg")
	attached.Stderr = &said
	seen, err := attached.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := attached.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(seen, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	out.Close()
	if _, err := io.ReadFull(seen, make([]byte, 100)); err != nil {
		t.Errorf("what the other one sees then: %v\n%s", err, said.String())
	}
	if st := w.field("fg", "{{.State.Status}}"); st != "running" {
		t.Errorf("it is %s", st)
	}
	w.ok("stop", "-t", "0", "fg")
	io.Copy(io.Discard, seen)
	attached.Wait()
	cmd.Wait()
}

// TestKeeperKilledQuiet kills the keeper of containers of which one writes nothing
// more, and of which one ends when the monitor is killed after that.
func TestKeeperKilledQuiet(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "quiet", "test/base", "sh", "-c", "exec >/dev/null; while [ ! -e /go ]; do sleep 0.01; done; echo tail >&2; exit 4")
	m := w.monitors()
	syscall.Kill(m["keeper"], syscall.SIGKILL)
	waitFor(t, "the monitor in the keeper's place", func() bool {
		now := w.monitors()
		return now["keeper"] == m["monitor"] && now["monitor"] != 0
	})
	pid := w.pid("quiet")
	w.ok("update", "--restart", "no", "quiet")
	for range 2 {
		w.withoutMonitor(func() {})
		w.ok("update", "--restart", "no", "quiet")
	}
	w.withoutMonitor(func() {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/go", pid), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the container's end", func() bool { return container.StartTime(pid) == 0 })
	})
	w.waitField("quiet", "{{.State.Status}} {{.State.ExitCode}}", "exited 4")
	if r := w.run("logs", "quiet"); r.stderr != "tail\n" {
		t.Errorf("logs say %q", r.stderr)
	}
}

// TestManyEndWithoutMonitor has many containers end while the monitor is dead, and
// those that it looks at first just after: how all ended is known.
func TestManyEndWithoutMonitor(t *testing.T) {
	w := newLifeBench(t)
	var names []string
	var pids []int
	for i := range 20 {
		name := fmt.Sprintf("m%d", i)
		w.ok("run", "-d", "--name", name, "test/base", "sh", "-c", "while [ ! -e /go ]; do sleep 0.01; done; exit 6")
		names, pids = append(names, name), append(pids, w.pid(name))
	}
	end := func(pid int) {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/go", pid), nil, 0o600); err != nil {
			t.Error(err)
		}
	}
	w.withoutMonitor(func() {
		for _, pid := range pids[:15] {
			end(pid)
		}
		for _, pid := range pids[:15] {
			waitFor(t, "the container's end", func() bool { return container.StartTime(pid) == 0 })
		}
	})
	for _, pid := range pids[15:] {
		end(pid)
	}
	for _, name := range names {
		w.waitField(name, "{{.State.Status}} {{.State.ExitCode}}", "exited 6")
	}
}
