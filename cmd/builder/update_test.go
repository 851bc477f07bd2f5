// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"builder/internal/testutil"
)

// TestUpdateRunning bounds a container in the background while it runs, and one
// that has not started.
func TestUpdateRunning(t *testing.T) {
	w := newBench(t)
	w.ok("run", "-d", "--name", "one", "--init", "test/base", "sleep", "1000")
	w.ok("create", "--name", "two", "-m", "32m", "test/base", "sh", "-c", "tail /dev/zero")
	t.Cleanup(func() { w.run("rm", "-f", "-a") })
	forks := []string{"exec", "one", "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 0.3 & done; wait; echo all"}
	if out := w.ok(forks...); out != "all\n" {
		t.Errorf("without a bound: %s", out)
	}
	if out := w.ok("update", "--pids-limit", "6", "-m", "64m", "--memory-swap", "64m", "--cpuset-cpus", "0", "--restart", "on-failure:3", "one"); out != "one\n" {
		t.Errorf("update prints %q", out)
	}
	if r := w.run(forks...); r.code == 0 {
		t.Errorf("with a bound: %s%s", r.stdout, r.stderr)
	}
	if out := w.ok("exec", "one", "nproc"); out != "1\n" {
		t.Errorf("processors: %s", out)
	}
	if out := w.ok("ps", "--filter", "restart-policy=on-failure", "--format", "{{.Names}}"); out != "one\n" {
		t.Errorf("the restart policy of %q is on-failure", out)
	}
	// The record has it: it holds after the next start too, and a new name
	// stays through it.
	w.ok("rename", "one", "uno")
	w.ok("update", "--pids-limit", "5", "uno")
	w.ok("restart", "-t", "0", "uno")
	forks[1] = "uno"
	if r := w.run(forks...); r.code == 0 {
		t.Errorf("with a bound, after a restart: %s%s", r.stdout, r.stderr)
	}
	w.ok("update", "-m", "16m", "--memory-swap", "-1", "two")
	if w.run("start", "-a", "two"); !readState(t, w, "two").OOM {
		t.Error("a container that ran out of memory is not told to be one")
	}
	w.fails(1, []string{"two", "below that on memory"}, "update", "-m", "1g", "--memory-swap", "8m", "two")
	w.fails(1, []string{"no such container"}, "update", "-m", "1g", "three")
	w.fails(2, []string{"what to change"}, "update", "uno")
	w.fails(2, []string{"--cpus"}, "update", "--cpus", "x", "uno")
	w.fails(2, []string{"on-failure"}, "update", "--restart", "sometimes", "uno")
	w.ok("run", "-d", "--rm", "--name", "gone", "test/base", "sleep", "1000")
	w.fails(1, []string{"removes itself"}, "update", "--restart", "always", "gone")
}

func TestStatsAndTop(t *testing.T) {
	testutil.Require(t, "ps")
	w := newBench(t)
	w.ok("run", "-d", "--name", "busy", "-m", "64m", "--network", "none", "test/base", "sh", "-c", "while :; do :; done")
	w.ok("run", "-d", "--name", "idle", "--init", "test/base", "sleep", "1000")
	w.ok("create", "--name", "unborn", "test/base", "true")
	t.Cleanup(func() { w.run("rm", "-f", "-a") })
	out := lines(w.ok("stats", "--no-stream"))
	if len(out) != 3 || strings.Join(strings.Fields(out[0]), " ") != "CONTAINER ID NAME CPU % MEM USAGE / LIMIT MEM % NET I/O BLOCK I/O PIDS" {
		t.Fatalf("stats:\n%s", strings.Join(out, "\n"))
	}
	got := map[string][]string{}
	for _, line := range lines(w.ok("stats", "--no-stream", "--all", "--format", "{{.Name}}|{{.CPUPerc}}|{{.MemUsage}}|{{.MemPerc}}|{{.NetIO}}|{{.BlockIO}}|{{.PIDs}}")) {
		f := strings.Split(line, "|")
		got[f[0]] = f[1:]
	}
	if u := got["unborn"]; strings.Join(u, "|") != "0.00%|0B / 0B|0.00%|0B / 0B|0B / 0B|0" {
		t.Errorf("one that doesn't run: %q", u)
	}
	cpu, err := strconv.ParseFloat(strings.TrimSuffix(got["busy"][0], "%"), 64)
	if err != nil || cpu <= 0 || !strings.HasSuffix(got["busy"][1], " / 64MiB") || got["busy"][5] != "1" {
		t.Errorf("one that works: %q", got["busy"])
	}
	if i := got["idle"]; i[0] != "0.00%" || i[5] != "2" || strings.HasPrefix(i[1], "0B") {
		t.Errorf("one that sleeps: %q", i)
	}
	if out := w.ok("stats", "--no-stream", "--format", "json", "idle"); !strings.HasPrefix(out, `{"BlockIO":"`) || !strings.Contains(out, `"Container":"idle"`) || !strings.Contains(out, `"PIDs":"2"`) {
		t.Errorf("json: %s", out)
	}
	w.fails(1, []string{"no such container"}, "stats", "--no-stream", "ghost")

	top := lines(w.ok("top", "idle"))
	if len(top) != 3 || strings.Join(strings.Fields(top[0]), " ") != "UID PID PPID C STIME TTY TIME CMD" || !strings.HasSuffix(top[2], "sleep 1000") {
		t.Errorf("top:\n%s", strings.Join(top, "\n"))
	}
	if out := lines(w.ok("top", "idle", "-o", "pid,args")); len(out) != 3 || strings.Join(strings.Fields(out[0]), " ") != "PID COMMAND" {
		t.Errorf("top with options:\n%s", strings.Join(out, "\n"))
	}
	if out := lines(w.ok("top", "busy", "aux")); len(out) != 2 || !strings.Contains(out[1], "while :; do :; done") {
		t.Errorf("top with options:\n%s", strings.Join(out, "\n"))
	}
	w.fails(1, []string{"PID"}, "top", "idle", "-o", "args")
	w.fails(1, []string{"ps --nope"}, "top", "idle", "--nope")
	w.fails(1, []string{"not running"}, "top", "unborn")

	// It goes on until it is interrupted.
	cmd := w.command("stats", "--format", "{{.Name}}", "idle")
	var buf syncBuffer
	cmd.Stdout = &buf
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a second table", func() bool { return strings.Count(buf.String(), "idle\n") >= 2 })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after an interrupt: %v", err)
	}
}
