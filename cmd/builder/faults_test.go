// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"builder/container"
	"builder/store"
	"builder/supervisor"
)

// TestLifeFaults kills the monitor, its keeper, containers and commands at
// random moments. After each round every container's state is what the kernel
// says, and at the end nothing is left. BUILDER_FAULTS is the number of rounds,
// BUILDER_FAULTS_SEED repeats one.
func TestLifeFaults(t *testing.T) {
	w := newLifeBench(t)
	rounds := 15
	if n, err := strconv.Atoi(os.Getenv("BUILDER_FAULTS")); err == nil {
		rounds = n
	}
	seed, err := strconv.ParseUint(os.Getenv("BUILDER_FAULTS_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("BUILDER_FAULTS_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s, err := store.Open(w.root)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	records := supervisor.NewRecords(s)
	mounts := countLines(t, "/proc/self/mountinfo")
	w.ok("run", "-d", "--name", "long", "--restart", "always", "test/base", "sh", "-c", counting)
	seen := map[string]bool{}
	for i := range rounds {
		name := fmt.Sprintf("r%d", i)
		args := [][]string{
			{"run", "-d", "--name", name, "test/base", "sleep", "0.03"},
			{"run", "--rm", "--name", name, "test/base", "sh", "-c", "echo x; sleep 0.03"},
			{"run", "-d", "--rm", "--name", name, "test/base", "sh", "-c", "sleep 0.02; exit 3"},
			{"run", "--name", name, "test/base", "sleep", "0.02"},
			{"restart", "-t", "0", "long"},
			{"exec", "long", "sleep", "0.02"},
		}[random.IntN(6)]
		cmd := w.command(args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
		victim := random.IntN(5)
		switch m := w.monitors(); {
		case victim == 0:
			cmd.Process.Kill()
		case victim == 1 && m["monitor"] != 0:
			syscall.Kill(m["monitor"], syscall.SIGKILL)
		case victim == 2 && m["monitor"] != 0 && m["keeper"] != 0:
			syscall.Kill(m["monitor"], syscall.SIGKILL)
			syscall.Kill(m["keeper"], syscall.SIGKILL)
		case victim == 3 && m["keeper"] != 0:
			syscall.Kill(m["keeper"], syscall.SIGKILL)
		default:
			if c, err := records.Find("long"); err == nil && c.State.Alive() {
				syscall.Kill(c.State.Pid, syscall.SIGKILL)
			}
		}
		cmd.Wait()
		for _, c := range checkStates(t, records, i) {
			seen[c.ID] = true
		}
		// It is started again whatever ended it, once somebody looks.
		w.ok("ps", "-q")
	}
	w.waitField("long", "{{.State.Status}}", "running")
	w.ok("rm", "-fa")
	waitFor(t, "the monitor's end", func() bool { return len(w.monitors()) == 0 })
	w.ok("run", "--rm", "test/base", "true") // removes what removes itself
	if left, _ := filepath.Glob(filepath.Join(w.root, "containers", "*")); len(left) > 0 {
		t.Errorf("containers left: %v", left)
	}
	if now := countLines(t, "/proc/self/mountinfo"); now != mounts {
		t.Errorf("%d mounts before, %d after", mounts, now)
	}
	if out, _ := exec.Command("pgrep", "-f", w.root).Output(); len(out) > 0 {
		t.Errorf("processes left: %s", out)
	}
	for id := range seen {
		for _, pattern := range []string{"/sys/fs/cgroup/builder/", "/sys/fs/cgroup/*/builder/"} {
			if left, _ := filepath.Glob(pattern + id); len(left) > 0 {
				t.Errorf("groups left: %v", left)
			}
		}
	}
	if left, _ := filepath.Glob(filepath.Join(w.root, "run", "*.sock")); len(left) > 1 {
		t.Logf("sockets of killed commands: %v", left)
	}
}

func countLines(t *testing.T, name string) int {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(data), "\n")
}

// checkStates compares what is said of each container with the kernel, and
// returns all.
func checkStates(t *testing.T, records supervisor.Records, round int) []supervisor.Container {
	t.Helper()
	list, err := records.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		st := records.State(c.ID)
		if !st.Alive() {
			continue
		}
		if container.StartTime(st.Pid) != st.PidStart {
			// It may have ended since it was looked at.
			if again := records.State(c.ID); again.Pid == st.Pid && again.Alive() {
				t.Errorf("round %d: container %s is said to run as %d, which is gone", round, c.Name, st.Pid)
			}
		}
	}
	return list
}
