// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"builder/container/internal/startlimit"
	"builder/internal/testutil"
	"builder/mount"
)

// census counts what containers could leave behind on the machine.
type census struct {
	groups, fds, children, threads, goroutines int

	mounts map[string]string // by their IDs
}

func takeCensus(t *testing.T, h *host) (c census) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	c.mounts = map[string]string{}
	for line := range strings.Lines(string(text)) {
		id, rest, _ := strings.Cut(line, " ")
		c.mounts[id] = rest
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/self/fd/%d/%s", h.cgroups.root.Fd(), testParent))
	if err == nil {
		for _, e := range entries {
			if e.IsDir() && strings.HasPrefix(e.Name(), fmt.Sprintf("test-%d-", os.Getpid())) {
				c.groups++
			}
		}
	}
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	c.fds = len(fds)
	tasks, err := os.ReadDir("/proc/self/task")
	must(t, err)
	c.threads = len(tasks)
	for _, task := range tasks {
		text, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		c.children += len(strings.Fields(string(text)))
	}
	c.goroutines = runtime.NumGoroutine()
	return c
}

// ownMounts runs a test once more, in a process that has a mount table of its
// own: the machine's is everybody's. It returns true in that process.
func ownMounts(t *testing.T) bool {
	t.Helper()
	const inside = "BUILDER_TEST_OWN_MOUNTS"
	if os.Getenv(inside) != "" {
		return true
	}
	testutil.Require(t, "root")
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" (") {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func TestLeaks(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	eachCarrier(t, func(t *testing.T, run runner) {
		dir := image(t)
		must(t, os.WriteFile(filepath.Join(dir, "bin/true"), elfFile([]byte{0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05}, nil), 0o755))
		once := func(i int) {
			base, err := os.MkdirTemp(t.TempDir(), "")
			must(t, err)
			must(t, os.Mkdir(base+"/u", 0o755))
			must(t, os.Mkdir(base+"/w", 0o755))
			root, err := mount.Overlay{Lower: []string{dir}, Upper: base + "/u", Work: base + "/w", Volatile: true}.Open()
			must(t, err)
			defer root.Close()
			spec := Spec{
				ID: uniqueID(), Root: root, Args: []string{"/bin/true"},
				Mounts: []mount.Mount{{Type: mount.Tmpfs, Target: "/vol"}, {Type: mount.Bind, Source: dir, Target: "/host"}},
				Stdin:  strings.NewReader("x"), Stdout: new(strings.Builder), Terminal: i%5 == 1, Init: i%7 == 1,
			}
			ctx := t.Context()
			switch i % 10 {
			case 2:
				spec.Args = []string{"/nope"}
			case 3:
				spec.User = "nobody"
			case 4:
				spec.Dir = "/proc/self/fd/3"
			case 5:
				spec.Network = NetworkNone
			case 6:
				spec.Mounts = append(spec.Mounts, mount.Mount{Type: mount.Bind, Source: "/nope", Target: "/x"})
			case 7:
				var cancel context.CancelFunc
				ctx, cancel = context.WithCancel(ctx)
				spec.Args = []string{"/bin/helper", "orphans", "1", ";", "sleep", "100"}
				go cancel()
			}
			p, err := run.start(ctx, spec)
			if err == nil {
				_ = p.Wait()
			}
		}
		for i := range 20 {
			once(i)
		}
		before := takeCensus(t, run.host)
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() {
				for i := range 50 {
					once(worker*50 + i)
				}
			})
		}
		wg.Wait()
		// What feeds a stdin ends when it notices that nobody reads.
		after := takeCensus(t, run.host)
		for range 100 {
			if after.goroutines <= before.goroutines && after.fds <= before.fds {
				break
			}
			time.Sleep(10 * time.Millisecond)
			after = takeCensus(t, run.host)
		}
		for id, m := range after.mounts {
			// One less is no wonder: a mount goes with the directory it is on.
			if _, ok := before.mounts[id]; !ok {
				t.Errorf("a mount is left: %s", m)
			}
		}
		before.mounts, after.mounts = nil, nil
		t.Logf("before %+v, after %+v", before, after)
		if after.groups != 0 || after.fds > before.fds || after.children != before.children {
			t.Errorf("before %+v, after %+v", before, after)
		}
		if after.threads > before.threads+8 || after.goroutines > before.goroutines+2 {
			t.Errorf("threads or goroutines are left: before %+v, after %+v", before, after)
		}
	})
}

// A group that a killed program has left behind is taken over; one in use is
// not.
func TestCgroupLeftOver(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		spec := newSpec(t, "sleep", "1000")
		g, err := newCgroup(run.host.cgroups.root, testParent, spec.ID)
		must(t, err)
		must(t, unix.Mkdirat(int(g.dir.Fd()), "below", 0o755))
		must(t, g.dir.Close())
		p, _ := startReady(t, run, spec)
		second := newSpec(t, "exit", "0")
		second.ID = spec.ID
		if _, err := run.start(t.Context(), second); err == nil || !strings.Contains(err.Error(), "container with this ID is running") {
			t.Errorf("second with the same ID: %v", err)
		}
		must(t, p.Kill())
		if err := p.Wait(); exitCode(t, err) != 137 {
			t.Error(err)
		}
	})
}

// What killed programs have left is removed, but nothing that is in use or may
// be about to be.
func TestSweep(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		root, parent := run.host.cgroups.root, testParent+"-sweep"
		defer func() { must(t, removeCgroup(root, parent)) }()
		g, err := newCgroup(root, parent, "leftover")
		must(t, err)
		must(t, g.dir.Close())
		spec := newSpec(t, "sleep", "1000")
		spec.CgroupParent = parent
		p, _ := startReady(t, run, spec)
		groups := func() string {
			entries, err := os.ReadDir(fmt.Sprintf("/proc/self/fd/%d/%s", root.Fd(), parent))
			must(t, err)
			var names []string
			for _, e := range entries {
				if e.IsDir() {
					names = append(names, e.Name())
				}
			}
			return strings.Join(names, " ")
		}
		sweep(root, parent, time.Now())
		if got, want := groups(), "leftover "+spec.ID; got != want {
			t.Errorf("groups %q, want %q", got, want)
		}
		sweep(root, parent, time.Now().Add(2*leftoverAge))
		if got := groups(); got != spec.ID {
			t.Errorf("groups %q, want %q", got, spec.ID)
		}
		must(t, p.Kill())
		_ = p.Wait()
	})
}

// The limit of open files is what the user had set, not what the Go runtime
// has made of it.
func TestStartLimit(t *testing.T) {
	if os.Getenv("HELPER_LIMIT") != "" {
		fmt.Println("limit", startlimit.Nofile.Cur)
		return
	}
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.Command("/bin/sh", "-c", `ulimit -S -n 777 && exec "$0" -test.run '^TestStartLimit$' -test.v`, exe)
	cmd.Env = append(os.Environ(), "HELPER_LIMIT=1")
	out, err := cmd.CombinedOutput()
	must(t, err)
	if !slices.Contains(strings.Split(string(out), "\n"), "limit 777") {
		t.Errorf("output %s", out)
	}
}

// trueImage is an image with a tiny static program, /bin/true.
func trueImage(b testing.TB) string {
	dir := image(b)
	must(b, os.WriteFile(filepath.Join(dir, "bin/true"), elfFile([]byte{0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05}, nil), 0o755))
	for _, d := range []string{"proc", "dev", "sys"} {
		must(b, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	return dir
}

// BenchmarkPlainTrue is the same program as BenchmarkRunTrue's, without a
// container.
func BenchmarkPlainTrue(b *testing.B) {
	name := filepath.Join(trueImage(b), "bin/true")
	var runs []time.Duration
	for b.Loop() {
		began := time.Now()
		pid, err := syscall.ForkExec(name, []string{"true"}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
		must(b, err)
		_, err = syscall.Wait4(pid, nil, 0, nil)
		must(b, err)
		runs = append(runs, time.Since(began))
	}
	reportMedian(b, runs, "µs-run-median")
}

func reportMedian(b *testing.B, times []time.Duration, unit string) {
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), unit)
}

func BenchmarkRunTrue(b *testing.B) {
	testutil.Require(b, "root")
	h, err := theHost()
	must(b, err)
	for name, c := range carriers() {
		for _, network := range []Network{NetworkHost, NetworkNone} {
			b.Run(name+"/"+string(network), func(b *testing.B) {
				dir := trueImage(b)
				base := b.TempDir()
				var starts, runs []time.Duration
				b.ReportAllocs()
				for i := range b.N {
					b.StopTimer()
					upper, work := fmt.Sprintf("%s/u%d", base, i), fmt.Sprintf("%s/w%d", base, i)
					must(b, os.Mkdir(upper, 0o755))
					must(b, os.Mkdir(work, 0o755))
					b.StartTimer()
					began := time.Now()
					root, err := mount.Overlay{Lower: []string{dir}, Upper: upper, Work: work, Volatile: true}.Open()
					must(b, err)
					p, err := h.start(b.Context(), Spec{ID: uniqueID(), Root: root, Args: []string{"/bin/true"}, Network: network, RunStep: true}, c)
					must(b, err)
					starts = append(starts, time.Since(began))
					must(b, p.Wait())
					runs = append(runs, time.Since(began))
					b.StopTimer()
					root.Close()
					b.StartTimer()
				}
				reportMedian(b, starts, "µs-start-median")
				reportMedian(b, runs, "µs-run-median")
			})
		}
	}
}
