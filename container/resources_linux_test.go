// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
	"builder/internal/testutil"
)

// TestBoundsHold has containers try to take more than they may have.
func TestBoundsHold(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		spec := newSpec(t, "fill", "200")
		spec.Resources = Resources{Memory: 100 << 20, MemorySwap: 100 << 20}
		_, err := run.output(t, spec)
		var exit *ExitError
		if !errors.As(err, &exit) || !exit.OOM || exit.Code != 137 {
			t.Errorf("200 MiB of 100: %v", err)
		}
		spec = newSpec(t, "fill", "50")
		spec.Resources = Resources{Memory: 100 << 20}
		if got := run.ok(t, spec); got != "filled\n" {
			t.Errorf("50 MiB of 100: %s", got)
		}
		spec = newSpec(t, "forks", "100")
		spec.Resources = Resources{Pids: 50}
		if got := strings.TrimSpace(run.ok(t, spec)); !strings.HasSuffix(got, " EAGAIN") {
			t.Errorf("100 processes of 50: %s", got)
		}
		spec = newSpec(t, "forks", "100")
		spec.Resources = Resources{Pids: -1}
		if got := run.ok(t, spec); got != "100 ok\n" {
			t.Errorf("100 processes without a bound: %s", got)
		}
	})
}

// TestWishesAreTold has a warning for what this machine can't do, and no error.
func TestWishesAreTold(t *testing.T) {
	spec := newSpec(t, "echo")
	spec.Resources = Resources{Memory: 64 << 20, MemoryReservation: 32 << 20, MemorySwappiness: new(int64(0)), OOMKillDisable: true, BlkioWeight: 300}
	var warned []string
	spec.Warn = func(m string) { warned = append(warned, m) }
	must(t, Run(t.Context(), spec))
	t.Logf("%q", warned)
	for _, w := range warned {
		if !strings.Contains(w, "has no effect") {
			t.Errorf("warning %q", w)
		}
	}
}

func TestSysctls(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		spec := newSpec(t, "cat", "/proc/sys/kernel/shmmax", ";", "cat", "/proc/sys/net/ipv4/ip_forward", ";", "cat", "/proc/sys/fs/mqueue/msg_max", ";",
			"cat", "/proc/sys/kernel/domainname", ";", "try", "w", "/proc/sys/kernel/shmmax")
		spec.Network = NetworkNone
		spec.Sysctls = map[string]string{"kernel.shmmax": "12345678", "net.ipv4.ip_forward": "1", "fs/mqueue/msg_max": "7", "kernel.domainname": "example"}
		if got, want := run.ok(t, spec), "12345678\n1\n7\nexample\n/proc/sys/kernel/shmmax EROFS\n"; got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		for _, tc := range []struct{ name, word string }{
			{"net.ipv4.ip_forward", "it is the machine's"},
			{"kernel.panic", "whole machine"},
			{"kernel.hostname", "whole machine"},
			{"net/../kernel/panic", "no name"},
			{"net.", "no name"}, {"", "no name"}, {"/kernel/shmmax", "no name"}, {"kernel.shmmax\x00", "no name"},
			{"net.no_such", "net.no_such"},
		} {
			spec := newSpec(t, "exit", "0")
			spec.Sysctls = map[string]string{tc.name: "1"}
			if tc.name == "net.no_such" {
				spec.Network = NetworkNone
			}
			if _, err := run.start(t.Context(), spec); exitCode(t, err) != 125 || !strings.Contains(err.Error(), tc.word) {
				t.Errorf("%q: %v, want %q", tc.name, err, tc.word)
			}
		}
	})
	for name, path := range map[string]string{
		"net.ipv4.conf.eth0/1.rp_filter": "net/ipv4/conf/eth0.1/rp_filter",
		"net/ipv4/conf/eth0.1/rp_filter": "net/ipv4/conf/eth0.1/rp_filter",
	} {
		if got := sysctlPath(name); got != path {
			t.Errorf("%s is %s, want %s", name, got, path)
		}
	}
}

func TestOOMScoreAdj(t *testing.T) {
	before, err := os.ReadFile("/proc/self/oom_score_adj")
	must(t, err)
	spec := newSpec(t, "cat", "/proc/self/oom_score_adj", ";", "sleep", "1000")
	spec.OOMScoreAdj = 321
	r, w, err := os.Pipe()
	must(t, err)
	spec.Stdout = w
	p, err := Start(t.Context(), spec)
	must(t, err)
	w.Close()
	line := make([]byte, 4)
	if _, err := io.ReadFull(r, line); err != nil || string(line) != "321\n" {
		t.Errorf("oom_score_adj is %q (%v)", line, err)
	}
	// The process that has started it keeps its own, and so do others that it starts.
	if own, err := os.ReadFile("/proc/self/oom_score_adj"); err != nil || !bytes.Equal(own, before) {
		t.Errorf("who has started it has %q (%v)", own, err)
	}
	var other bytes.Buffer
	next := newSpec(t, "cat", "/proc/self/oom_score_adj")
	next.Stdout = &other
	if err := Run(t.Context(), next); err != nil || other.String() != string(before) {
		t.Errorf("of another container it is %q (%v)", other.String(), err)
	}
	target := Target{Pid: p.Pid(), Start: StartTime(p.Pid()), Spec: spec}
	if out, err := execOutput(t, target, ExecSpec{Args: []string{"cat", "/proc/self/oom_score_adj"}}); out != "321\n" {
		t.Errorf("of a process that comes later it is %q (%v)", out, err)
	}
	must(t, p.Kill())
	_ = p.Wait()
	r.Close()
	spec = newSpec(t, "exit", "0")
	spec.OOMScoreAdj = 1001
	if err := Run(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "between -1000 and 1000") {
		t.Error(err)
	}
}

// TestOOMScoreAdjMeanwhile looks at who starts a container before that executes its command:
// it keeps its own value, and so does what it starts in that moment.
func TestOOMScoreAdjMeanwhile(t *testing.T) {
	before, err := os.ReadFile("/proc/self/oom_score_adj")
	must(t, err)
	_, target := startTarget(t, newSpec(t, "echo", "ready", ";", "sleep", "1000"))
	mapped, _ := mappedSpec(t)
	for _, spec := range []Spec{newSpec(t), mapped} {
		spec.Args = []string{"/bin/helper", "cat", "/proc/self/oom_score_adj"}
		spec.OOMScoreAdj = 321
		asked := false
		spec.BeforeExec = func(int, *os.File) error {
			asked = true
			if own, err := os.ReadFile("/proc/self/oom_score_adj"); err != nil || !bytes.Equal(own, before) {
				return fmt.Errorf("who starts it has %q (%v)", own, err)
			}
			if out, err := execOutput(t, target, ExecSpec{Args: []string{"cat", "/proc/self/oom_score_adj"}}); out != string(before) {
				return fmt.Errorf("a process in another one has %q (%v)", out, err)
			}
			return Run(t.Context(), newSpec(t, "exit", "0"))
		}
		h, err := theHost()
		must(t, err)
		if out := (runner{h, bestCarrier}).ok(t, spec); out != "321\n" || !asked {
			t.Errorf("it has %q itself", out)
		}
	}
}

// TestDeviceRules lets a container use devices that it makes the nodes of, under
// both ways of deciding.
func TestDeviceRules(t *testing.T) {
	h, err := theHost()
	must(t, err)
	for _, noProgram := range []bool{false, true} {
		h.mu.Lock()
		h.cgroups.noProgram = noProgram
		h.mu.Unlock()
		for _, tc := range []struct {
			rule DeviceRule
			want string
		}{
			{DeviceRule{}, "EPERM"},
			{DeviceRule{'c', 10, 237, "r"}, "ok"},
			{DeviceRule{'c', 10, -1, ""}, "ok"},
			{DeviceRule{'a', -1, -1, "rwm"}, "ok"},
			{DeviceRule{'b', -1, -1, "rwm"}, "EPERM"},
			{DeviceRule{'c', 10, 237, "w"}, "EPERM"},
		} {
			spec := newSpec(t, "mknod", "c", "10", "237")
			if tc.rule.Type != 0 {
				spec.DeviceRules = []DeviceRule{tc.rule}
			}
			if got := (runner{h, bestCarrier}).ok(t, spec); got != "mknod ok open "+tc.want+"\n" {
				t.Errorf("without a program %v: %+v: %s", noProgram, tc.rule, got)
			}
		}
		h.mu.Lock()
		h.cgroups.noProgram = false
		h.mu.Unlock()
	}
}

// TestNamedParent has nothing attached to a group that the caller names: others
// may be in it.
func TestNamedParent(t *testing.T) {
	h, err := theHost()
	must(t, err)
	parent := testParent + "-named/below"
	t.Cleanup(func() { must(t, removeCgroup(h.cgroups.root, testParent+"-named")) })
	spec := newSpec(t, "mknod", "c", "10", "237", ";", "sleep", "1000")
	spec.CgroupParent = "/" + parent
	r, w, err := os.Pipe()
	must(t, err)
	spec.Stdout = w
	p, err := Start(t.Context(), spec)
	must(t, err)
	w.Close()
	line := make([]byte, 20)
	if _, err := io.ReadFull(r, line); err != nil || string(line) != "mknod ok open EPERM\n" {
		t.Errorf("the container says %q (%v)", line, err)
	}
	groups, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.Pid()), "cgroup"))
	must(t, err)
	if !strings.Contains(string(groups), "0::/"+parent+"/"+spec.ID+"\n") {
		t.Errorf("control groups\n%s", groups)
	}
	dir, err := sys.OpenInRoot(h.cgroups.root, parent, os.O_RDONLY, 0)
	must(t, err)
	defer dir.Close()
	if have, err := h.cgroups.program.isAttached(dir); have || err != nil {
		t.Errorf("the named group has a device program (%v)", err)
	}
	must(t, p.Kill())
	_ = p.Wait()
	r.Close()
}

// TestFullParent starts a container below a group whose memory is used up. The kernel kills
// what it finds there, and all who have the same memory: not who starts it.
func TestFullParent(t *testing.T) {
	testutil.Require(t, "root")
	const inStarter = "HELPER_FULL_PARENT"
	if parent := os.Getenv(inStarter); parent != "" {
		spec := newSpec(t, "exit", "0")
		spec.CgroupParent, spec.Resources.Memory = parent, 64<<20
		fmt.Printf("the starter lives: %v\n", Run(t.Context(), spec))
		return
	}
	exe, err := os.Executable()
	must(t, err)
	starter := exec.Command(exe, "-test.run", "^TestFullParent$")
	starter.Env = append(os.Environ(), inStarter+"="+fullGroup(t))
	out, err := starter.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "the starter lives: ") {
		t.Errorf("who starts it: %v\n%s", err, out)
	}
}

// fullGroup is a group whose memory is used up by what a process has left there.
func fullGroup(t *testing.T) string {
	h, err := theHost()
	must(t, err)
	g, err := newCgroup(h.cgroups.root, testParent+"-full", "group")
	must(t, err)
	bound := func(n int64) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		_, err := h.cgroups.limit(g, Resources{Memory: n, MemorySwap: n}, func(string) {})
		return err
	}
	const most = 8 << 20
	must(t, bound(2*most))
	t.Cleanup(func() {
		for _, g := range append(g.v1, g) {
			must(t, g.dir.Close())
			must(t, removeCgroup(g.root, testParent+"-full"))
		}
	})
	counting := append(g.v1, g)[0]
	procs, err := sys.OpenInRoot(counting.dir, "cgroup.procs", os.O_WRONLY, 0)
	must(t, err)
	defer procs.Close()
	fd, err := unix.MemfdCreate("left", unix.MFD_CLOEXEC)
	must(t, err)
	left := os.NewFile(uintptr(fd), "left")
	t.Cleanup(func() { left.Close() })
	fill := exec.Command("/bin/sh", "-c", "echo 0 >&3 && head -c "+strconv.Itoa(most)+" /dev/zero >&4")
	fill.ExtraFiles = []*os.File{procs, left}
	if out, err := fill.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// Version 1 takes no bound below what is used.
	n := int64(most)
	for err = bound(n); err != nil && n < 2*most; err = bound(n) {
		n += 4 << 10
	}
	must(t, err)
	return "/" + g.path
}

// TestAdoptedGroupsGo takes over a container as another process does, with
// groups in every hierarchy: none is left at its end.
func TestAdoptedGroupsGo(t *testing.T) {
	h, err := theHost()
	must(t, err)
	spec := newSpec(t, "sleep", "1000")
	spec.Resources = Resources{Memory: 64 << 20, Pids: 10, CPUShares: 512}
	spec.Devices = []Device{{Path: "/dev/full", Type: 'c', Major: 1, Minor: 7}}
	r, w, err := os.Pipe()
	must(t, err)
	spec.Stdout = w
	p, err := Start(t.Context(), spec)
	must(t, err)
	w.Close()
	p.cgroup.kept = true // as if its holder had been killed
	adopted := spec
	adopted.Root, adopted.Stdout = nil, nil
	a, err := Adopt(adopted, Adoption{Pid: p.Pid(), Start: StartTime(p.Pid())})
	must(t, err)
	if len(a.cgroup.v1) != len(p.cgroup.v1) {
		t.Errorf("%d groups of version 1 are found, there are %d", len(a.cgroup.v1), len(p.cgroup.v1))
	}
	must(t, a.Kill())
	_ = p.Wait()
	_ = a.Wait()
	r.Close()
	for _, root := range append([]*os.File{h.cgroups.root}, roots(h)...) {
		if dir, err := sys.OpenInRoot(root, p.cgroup.path, os.O_RDONLY, 0); err == nil {
			t.Errorf("%s/%s is left", root.Name(), p.cgroup.path)
			dir.Close()
		}
	}
}

func roots(h *host) (out []*os.File) {
	for _, f := range h.cgroups.v1 {
		out = append(out, f)
	}
	return out
}

// TestUpdate bounds a container that runs, by controllers that it had no group
// of: its processes, and those that they make, are held by the new bounds.
func TestUpdate(t *testing.T) {
	spec := newSpec(t, "orphans", "3", ";", "sleep", "1000")
	spec.Init = true
	p, target := startTarget(t, spec)
	inside := func(args ...string) string {
		out, err := execOutput(t, target, ExecSpec{Args: args})
		if err != nil {
			out += err.Error()
		}
		return out
	}
	if got := inside("forks", "30"); got != "30 ok\n" {
		t.Errorf("without a bound: %s", got)
	}
	warn := func(m string) { t.Error(m) }
	must(t, p.Update(Resources{Pids: 25, Memory: 64 << 20, MemorySwap: 64 << 20, CPUSetCPUs: "0"}, warn))
	if got := inside("forks", "30"); !strings.HasSuffix(got, " EAGAIN\n") {
		t.Errorf("with a bound: %s", got)
	}
	if got := inside("fill", "100"); !strings.Contains(got, "signal 9") {
		t.Errorf("100 MiB of 64: %s", got)
	}
	if got := field(inside("cat", "/proc/1/status"), "Cpus_allowed_list"); got != "0" {
		t.Errorf("processors of the first process: %q", got)
	}
	// Raised and lowered again: memory is bounded below memory and swap in
	// each moment.
	must(t, p.Update(Resources{Memory: 256 << 20, MemorySwap: 256 << 20, Pids: -1}, warn))
	if got := inside("fill", "100") + inside("forks", "30"); got != "filled\n30 ok\n" {
		t.Errorf("with higher bounds: %s", got)
	}
	must(t, p.Update(Resources{Memory: 128 << 20, MemorySwap: 128 << 20}, warn))
	if err := p.Update(Resources{CPUSetCPUs: "4000"}, warn); err == nil || !strings.Contains(err.Error(), "cpuset.cpus=4000") {
		t.Errorf("a processor that isn't there: %v", err)
	}
	if err := p.Update(Resources{MemorySwap: 1}, warn); err == nil {
		t.Error("swap without memory is taken")
	}
	groups := p.cgroup.v1
	must(t, p.Kill())
	_ = p.Wait()
	for _, g := range groups {
		if dir, err := sys.OpenInRoot(g.root, g.path, os.O_RDONLY, 0); err == nil {
			t.Errorf("%s/%s is left", g.root.Name(), g.path)
			dir.Close()
		}
	}
	if err := p.Update(Resources{Pids: 5}, warn); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("after the end: %v", err)
	}
}

// TestStats reads what a container has used, with and without groups that count
// it.
func TestStats(t *testing.T) {
	for _, bounds := range []Resources{{}, {Memory: 256 << 20, Pids: 100, BlkioWeight: 100}} {
		spec := newSpec(t, "fill", "40", ";", "spin", "100", ";", "orphans", "2", ";", "hold", "40")
		spec.Resources, spec.Network = bounds, NetworkNone
		r, w, err := os.Pipe()
		must(t, err)
		spec.Stdout = w
		p, err := Start(t.Context(), spec)
		must(t, err)
		w.Close()
		want := "filled\nready\nready\nheld\n"
		line := make([]byte, len(want))
		if _, err := io.ReadFull(r, line); err != nil || len(line) == 0 {
			t.Fatalf("the container says %q (%v)", line, err)
		}
		groups, err := OpenGroups()
		must(t, err)
		groups.c.parent = testParent
		g, err := groups.Find(&spec, p.Pid())
		must(t, err)
		st, err := g.Stats()
		must(t, err)
		pids, err := g.Pids()
		must(t, err)
		if len(pids) != 3 || st.Pids < 3 || st.CPU < 80*time.Millisecond || st.Memory < 40<<20 || st.Memory > 200<<20 {
			t.Errorf("bounds %+v: processes %v, %+v", bounds, pids, st)
		}
		if bounds.Memory != 0 && st.MemoryLimit != 256<<20 || bounds.Memory == 0 && st.MemoryLimit != totalMemory() {
			t.Errorf("bounds %+v: of %d bytes", bounds, st.MemoryLimit)
		}
		must(t, p.Kill())
		_ = p.Wait()
		if _, err := g.Stats(); !errors.Is(err, ErrGone) {
			t.Errorf("after the end: %v", err)
		}
		g.Close()
		r.Close()
		if _, err := groups.Find(&spec, p.Pid()); !errors.Is(err, ErrGone) {
			t.Errorf("after the end: %v", err)
		}
	}
}
