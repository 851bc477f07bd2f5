// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startTarget starts a container and waits for its first line.
func startTarget(t testing.TB, spec Spec) (*Process, Target) {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	spec.Stdout = w
	p, err := Start(t.Context(), spec)
	must(t, err)
	w.Close()
	t.Cleanup(func() {
		p.Kill()
		p.Wait()
		r.Close()
	})
	line := make([]byte, 6)
	if _, err := io.ReadFull(r, line); err != nil || string(line) != "ready\n" {
		t.Fatalf("the container says %q (%v)", line, err)
	}
	target := Target{Pid: p.Pid(), Start: StartTime(p.Pid()), Spec: spec}
	target.Spec.Root = nil
	return p, target
}

func execOutput(t testing.TB, target Target, spec ExecSpec) (string, error) {
	t.Helper()
	var out bytes.Buffer
	spec.Stdout, spec.Stderr = &out, &out
	spec.Args = append([]string{"/bin/helper"}, spec.Args...)
	p, err := Exec(t.Context(), target, spec)
	if err != nil {
		return "", err
	}
	err = p.Wait()
	return out.String(), err
}

// TestExecIsInside compares what a process that was started in a container sees
// with what the container's own process sees.
func TestExecIsInside(t *testing.T) {
	own := func(args ...string) string {
		spec := newSpec(t, args...)
		var out bytes.Buffer
		spec.Stdout = &out
		must(t, Run(t.Context(), spec))
		return out.String()
	}
	_, target := startTarget(t, newSpec(t, "sleep", "1000"))
	inside := func(args ...string) string {
		out, err := execOutput(t, target, ExecSpec{Args: args})
		must(t, err)
		return out
	}
	for _, args := range [][]string{{"id"}, {"pwd"}, {"env"}, {"umask"}, {"ls", "/"}, {"ls", "/dev"}, {"rlimit", "nofile"}} {
		if got, want := inside(args...), own(args...); got != want {
			t.Errorf("%v:\n%s\nthe container's own:\n%s", args, got, want)
		}
	}
	status, want := inside("cat", "/proc/self/status"), own("cat", "/proc/self/status")
	for _, name := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "SigBlk", "SigIgn"} {
		if got, want := field(status, name), field(want, name); got != want {
			t.Errorf("%s is %q, the container's own is %q", name, got, want)
		}
	}
	var first strings.Builder
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "uts", "user"} {
		to, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(target.Pid), "ns", ns))
		must(t, err)
		first.WriteString(to + "\n")
	}
	if got := inside("namespaces"); got != first.String() {
		t.Errorf("namespaces:\n%sof the container:\n%s", got, first.String())
	}
	// 0 to 2 are the streams' and what lists them has one more: nothing else.
	if out := inside("fds"); strings.Count(out, "\n") > 3 {
		t.Errorf("descriptors of the process:\n%s", out)
	}
	groups, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(target.Pid), "cgroup"))
	must(t, err)
	p, err := Exec(t.Context(), target, ExecSpec{Args: []string{"/bin/helper", "sleep", "1000"}})
	must(t, err)
	got, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.Pid()), "cgroup"))
	must(t, err)
	if !bytes.Equal(got, groups) {
		t.Errorf("control groups:\n%s\nof the container:\n%s", got, groups)
	}
	must(t, p.Signal(syscall.SIGKILL))
	if code := exitCode(t, p.Wait()); code != 137 {
		t.Errorf("exit code %d after SIGKILL", code)
	}
}

func TestExecErrors(t *testing.T) {
	p, target := startTarget(t, newSpec(t, "sleep", "1000"))
	for _, tc := range []struct {
		spec ExecSpec
		code int
		text string
	}{
		{ExecSpec{Args: []string{"exit", "7"}}, 7, ""},
		{ExecSpec{Args: []string{"echo"}, User: "ghost"}, 125, "ghost"},
		{ExecSpec{Args: []string{"echo"}, Dir: "/missing"}, 125, "/missing"},
		{ExecSpec{Args: []string{"child-signal", "9"}}, 137, ""},
	} {
		_, err := execOutput(t, target, tc.spec)
		if code := exitCode(t, err); code != tc.code || err != nil && !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%+v: code %d, %v; want %d and %q", tc.spec, code, err, tc.code, tc.text)
		}
	}
	for args, code := range map[string]int{"nothere": 127, "/bin": 126, "/missing": 127} {
		if _, err := Exec(t.Context(), target, ExecSpec{Args: []string{args}}); exitCode(t, err) != code {
			t.Errorf("%s: %v, want code %d", args, err, code)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	long, err := Exec(ctx, target, ExecSpec{Args: []string{"/bin/helper", "sleep", "1000"}})
	must(t, err)
	gone := errors.New("gone")
	cancel(gone)
	if err := long.Wait(); !errors.Is(err, gone) {
		t.Errorf("after the context's end: %v", err)
	}
	wrong := target
	wrong.Start++
	if _, err := Exec(t.Context(), wrong, ExecSpec{Args: []string{"/bin/helper", "echo"}}); !errors.Is(err, ErrGone) {
		t.Errorf("another process of that number: %v", err)
	}
	p.Kill()
	p.Wait()
	if _, err := Exec(t.Context(), target, ExecSpec{Args: []string{"/bin/helper", "echo"}}); !errors.Is(err, ErrGone) {
		t.Errorf("after the container's end: %v", err)
	}
}

func TestExecStreams(t *testing.T) {
	_, target := startTarget(t, newSpec(t, "sleep", "1000"))
	var out bytes.Buffer
	p, err := Exec(t.Context(), target, ExecSpec{Args: []string{"/bin/helper", "cat"}, Stdin: strings.NewReader(strings.Repeat("x", 1<<20)), Stdout: &out})
	must(t, err)
	if err := p.Wait(); err != nil || out.Len() != 1<<20 {
		t.Errorf("%d bytes came back (%v)", out.Len(), err)
	}
	out.Reset()
	p, err = Exec(t.Context(), target, ExecSpec{Args: []string{"/bin/helper", "tty"}, Terminal: true, Width: 81, Height: 25, Stdout: &out})
	must(t, err)
	must(t, p.Wait())
	for _, want := range []string{"terminal ok", "size 81 25", "controlling ok", "name /dev/pts/", "reopen ok"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %q", want, out.String())
		}
	}
}

// TestExecIsWatched has a process of the container, which may trace others,
// look at each process that comes: it never sees this program's file, whose
// first bytes it could overwrite (CVE-2019-5736), nor may it write to what it
// sees. The guard is that the walker and the trampoline are sealed memory
// files.
func TestExecIsWatched(t *testing.T) {
	spec := newSpec(t, "watch")
	spec.CapAdd = []string{"SYS_PTRACE"}
	r, w, err := os.Pipe()
	must(t, err)
	spec.Stdout = w
	p, err := Start(t.Context(), spec)
	must(t, err)
	w.Close()
	target := Target{Pid: p.Pid(), Start: StartTime(p.Pid()), Spec: spec}
	time.Sleep(10 * time.Millisecond)
	for range 50 {
		if _, err := execOutput(t, target, ExecSpec{Args: []string{"echo"}}); err != nil {
			ended := StartTime(p.Pid()) != target.Start
			p.Kill()
			seen, _ := io.ReadAll(r)
			t.Fatalf("%v; the container had ended: %v (%v); it saw %q", err, ended, p.Wait(), seen)
		}
	}
	// The container ends by this, perhaps before what is told to end it.
	_, err = execOutput(t, target, ExecSpec{Args: []string{"touch", "/tmp/end"}})
	if code := exitCode(t, err); code != 0 && code != 137 {
		t.Fatal(err)
	}
	seen, err := io.ReadAll(r)
	must(t, err)
	must(t, p.Wait())
	for line := range strings.Lines(strings.TrimPrefix(string(seen), "ready\n")) {
		if !strings.HasPrefix(line, "/memfd:builder-") || strings.HasSuffix(line, " ok\n") {
			t.Errorf("the container saw %s", line)
		}
	}
	if len(seen) == len("ready\n") {
		t.Log("it was never quick enough to see one")
	}
}

func BenchmarkExec(b *testing.B) {
	_, target := startTarget(b, newSpec(b, "sleep", "1000"))
	for b.Loop() {
		p, err := Exec(b.Context(), target, ExecSpec{Args: []string{"/bin/helper", "exit", "0"}})
		must(b, err)
		must(b, p.Wait())
	}
}

// TestExecMany runs and cancels processes at all moments, several at a time: each
// ends, and with the error that it is to end with.
func TestExecMany(t *testing.T) {
	_, target := startTarget(t, newSpec(t, "sleep", "1000"))
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range 60 {
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Duration(i*j)*50*time.Microsecond+time.Microsecond, errTestOver)
				p, err := Exec(ctx, target, ExecSpec{Args: []string{"/bin/helper", "sleep", "0"}, Stdout: io.Discard})
				if err == nil {
					err = p.Wait()
				}
				cancel()
				if err != nil && !errors.Is(err, errTestOver) {
					t.Errorf("%d %d: %v", i, j, err)
				}
			}
		})
	}
	all.Wait()
}

var errTestOver = errors.New("time is over")
