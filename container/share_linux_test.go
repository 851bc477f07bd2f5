// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSharedNamespaces puts a container into namespaces of the machine and into
// those of another container.
func TestSharedNamespaces(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		names := []string{"ipc", "pid", "uts"}
		links := func(pid int) (out []string) {
			for _, ns := range names {
				to, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns", ns))
				must(t, err)
				out = append(out, to)
			}
			return out
		}
		p, target := startTarget(t, newSpec(t, "write", "/dev/shm/of", "the other", ";", "sleep", "1000"))
		var other [3]*os.File
		for i, ns := range names {
			f, err := OpenNamespace(target.Pid, target.Start, ns)
			must(t, err)
			defer f.Close()
			other[i] = f
		}
		shm, err := SharedMemory(target.Pid, target.Start)
		must(t, err)
		defer shm.Close()

		spec := newSpec(t, "namespaces", ";", "cat", "/dev/shm/of", ";", "echo", ";", "hostname", ";", "ppid", ";", "try", "r", "/proc/1/environ")
		spec.IPC, spec.PID, spec.UTS, spec.Shm = Sharing{ShareOther, other[0]}, Sharing{ShareOther, other[1]}, Sharing{ShareOther, other[2]}, shm
		out := run.ok(t, spec)
		for _, link := range links(target.Pid) {
			if !strings.Contains(out, link+"\n") {
				t.Errorf("not in the namespace %s of the other:\n%s", link, out)
			}
		}
		host, err := os.Hostname()
		must(t, err)
		if !strings.Contains(out, "the other\n"+host+"\n") || strings.Contains(out, "\n1 0\n") || !strings.HasSuffix(out, "/proc/1/environ ok\n") {
			t.Errorf("with another's namespaces:\n%s", out)
		}
		if p.Pid() == 0 || StartTime(target.Pid) != target.Start {
			t.Error("the other one has ended")
		}

		spec = newSpec(t, "namespaces", ";", "hostname", ";", "try", "r", "/proc/"+strconv.Itoa(os.Getpid())+"/environ")
		spec.IPC.With, spec.PID.With, spec.UTS.With = ShareHost, ShareHost, ShareHost
		out = run.ok(t, spec)
		for _, link := range links(os.Getpid()) {
			if !strings.Contains(out, link+"\n") {
				t.Errorf("not in the namespace %s of the machine:\n%s", link, out)
			}
		}
		spec = newSpec(t, "ls", "/dev")
		spec.NoShm = true
		_ = run.ok(t, spec)
		spec = newSpec(t, "exit", "0")
		spec.UTS.With, spec.Hostname = ShareHost, "mine"
		if _, err := run.start(t.Context(), spec); exitCode(t, err) != 125 {
			t.Errorf("a name for the machine: %v", err)
		}
		spec = newSpec(t, "exit", "0")
		spec.PID.With = ShareOther
		if _, err := run.start(t.Context(), spec); exitCode(t, err) != 125 {
			t.Errorf("a namespace that is not there: %v", err)
		}
	})
}

// TestFrozenStart makes containers in the PID namespace of one that stops all others there
// as they come: none of them holds up who makes them, whatever that does meanwhile.
func TestFrozenStart(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC() // which waits for every thread that runs Go
			}
		}
	}()
	old := setupTime
	setupTime = 200 * time.Millisecond
	defer func() { setupTime = old }()
	_, target := startTarget(t, newSpec(t, "freeze"))
	ns, err := OpenNamespace(target.Pid, target.Start, "pid")
	must(t, err)
	defer ns.Close()
	failed, most := 0, 0
	watched, end := make(chan struct{}), make(chan struct{})
	go func() { // how much the stopped ones have of this process
		defer close(watched)
		for {
			select {
			case <-end:
				return
			case <-time.After(10 * time.Millisecond):
			}
			for _, pid := range children() {
				if f := statFields(pid); len(f) > 0 && string(f[0]) == "T" {
					open, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
					most = max(most, len(open))
				}
			}
		}
	}()
	var others []*os.File
	for range 200 {
		f, err := os.Open("/dev/null")
		must(t, err)
		defer f.Close()
		others = append(others, f)
	}
	for range 10 {
		spec := newSpec(t, "exit", "0")
		spec.PID = Sharing{ShareOther, ns}
		p, err := Start(t.Context(), spec)
		if err != nil {
			failed++
			continue
		}
		_ = p.Kill() // it has been executed, and stopped then perhaps
		_ = p.Wait()
	}
	close(end)
	<-watched
	t.Logf("%d of 10 were stopped before they executed anything of their own; they had up to %d files", failed, most)
	if failed > 0 && most == 0 || most > len(others)/2 {
		t.Errorf("those that were stopped had up to %d files open, of %d that are somebody else's", most, len(others))
	}
	if err := Run(t.Context(), newSpec(t, "exit", "0")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestSharedPIDsEnd ends a container that sees the machine's processes: those
// that it has left end with it, by the end of its first one, by Kill, and where
// another process has taken it over.
func TestSharedPIDsEnd(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		for _, how := range []string{"exits", "killed", "adopted"} {
			spec := newSpec(t, "orphans", "3", ";", "exit", "7")
			if how != "exits" {
				spec.Args = append(spec.Args[:len(spec.Args)-2], "sleep", "1000")
			}
			spec.PID.With = ShareHost
			var out bytes.Buffer
			spec.Stdout = &out
			p, err := run.start(t.Context(), spec)
			must(t, err)
			switch how {
			case "killed":
				must(t, p.Kill())
			case "adopted":
				p.cgroup.kept, p.many = true, false
				adopted := spec
				adopted.Root, adopted.Stdout = nil, nil
				a, err := Adopt(adopted, Adoption{Pid: p.Pid(), Start: StartTime(p.Pid())})
				must(t, err)
				must(t, a.Kill())
				_ = a.Wait()
			}
			code := exitCode(t, p.Wait())
			if want := map[string]int{"exits": 7, "killed": 137, "adopted": 137}[how]; code != want {
				t.Errorf("%s: code %d", how, code)
			}
			if pids, err := p.cgroup.pids(); err == nil && len(pids) > 0 {
				t.Errorf("%s: processes are left: %v", how, pids)
			}
		}
	})
}

// TestMasks hides paths beside the default ones, and shows some of those.
func TestMasks(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		spec := newSpec(t, "cat", "/etc/group", ";", "ls", "/data", ";", "cat", "/proc/version", ";", "try", "w", "/etc/group", "/proc/sys/kernel/shmmax", ";", "ls", "/proc/irq")
		spec.Mask = []string{"/etc/group", "/data", "/proc/version", "/no/such", "/etc/passwd/x", "/proc/irq"}
		spec.Unmask = []string{"/proc/sys"}
		if got, want := run.ok(t, spec), "/etc/group ok\n/proc/sys/kernel/shmmax ok\n"; got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		spec = newSpec(t, "statfs", "/proc/interrupts", "/proc/irq", ";", "try", "w", "/proc/sys/kernel/shmmax")
		spec.Unmask = []string{"ALL"}
		if got := run.ok(t, spec); !strings.Contains(got, "/proc/interrupts 9fa0 ") || !strings.Contains(got, "/proc/irq 9fa0 ") || !strings.HasSuffix(got, "shmmax ok\n") {
			t.Errorf("without masks:\n%s", got)
		}
	})
}

// TestAppArmor asks for a profile where there is none, and looks at what would be
// done where there is one: it is set before the root is left, and no path of
// the image leads to the file (CVE-2019-16884, CVE-2025-52881).
func TestAppArmor(t *testing.T) {
	h, err := theHost()
	must(t, err)
	if err := CheckAppArmor("no-such-profile"); err == nil || !strings.Contains(err.Error(), "no-such-profile") {
		t.Errorf("a profile that is not there: %v", err)
	}
	for _, profile := range []string{"", "unconfined"} {
		if err := CheckAppArmor(profile); err != nil {
			t.Error(err)
		}
	}
	spec := newSpec(t, "exit", "0")
	spec.AppArmor = "no-such-profile"
	if _, err := h.start(t.Context(), spec, bestCarrier); exitCode(t, err) != 125 {
		t.Error(err)
	}
	p := &plan{spec: &Spec{AppArmor: "it"}, host: h, prog: newProgram()}
	p.writeAppArmor(num(99), "thread-self/attr/apparmor/exec")
	var got []string
	for _, s := range p.prog.steps {
		got = append(got, fmt.Sprint(s.name, " ", s.nr))
	}
	if len(got) != 3 || !bytes.Contains(p.prog.data, []byte("exec it\x00")) || p.prog.steps[0].args[0] != num(99) || p.prog.steps[0].nr != unix.SYS_OPENAT2 {
		t.Errorf("steps %q", got)
	}
}
