// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

func TestExitCodes(t *testing.T) {
	for _, tc := range []struct {
		args   []string
		code   int
		signal syscall.Signal
	}{
		{args: []string{"exit", "0"}},
		{args: []string{"exit", "1"}, code: 1},
		{args: []string{"exit", "255"}, code: 255},
		{args: []string{"child-signal", "15"}, code: 143},
		// Signals that process 1 sends to itself are dropped; a stack
		// overflow is a fault, though Go makes it an exit.
		{args: []string{"child-signal", "9"}, code: 137},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			eachCarrier(t, func(t *testing.T, run runner) {
				for _, init := range []bool{false, true} {
					spec := newSpec(t, tc.args...)
					spec.Init = init
					_, err := run.output(t, spec)
					if got := exitCode(t, err); got != tc.code {
						t.Errorf("init %v: code %d, want %d (%v)", init, got, tc.code, err)
					}
				}
			})
		})
	}
}

// TestEndedStays asks after a process's end how it ended as whoever becomes its
// parent would, if this process were killed: that is told until Wait.
func TestEndedStays(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		p, err := run.start(t.Context(), newSpec(t, "exit", "7"))
		must(t, err)
		for range 2 {
			if code := exitCode(t, p.Ended()); code != 7 {
				t.Errorf("it ended with %d", code)
			}
			pid, status, err := sys.PeekEnded(p.Pid(), unix.WNOHANG)
			if pid != p.Pid() || status.ExitStatus() != 7 || err != nil {
				t.Errorf("process %d (of %d) ended with %d (%v)", pid, p.Pid(), status.ExitStatus(), err)
			}
		}
		for range 2 {
			if code := exitCode(t, p.Wait()); code != 7 {
				t.Errorf("it ended with %d", code)
			}
		}
		if pid, _, err := sys.PeekEnded(p.Pid(), unix.WNOHANG); !errors.Is(err, unix.ECHILD) {
			t.Errorf("after Wait process %d is there (%v)", pid, err)
		}
	})
}

func TestStartErrors(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		env  []string
		user string
		code int
		text string
	}{
		{name: "not in PATH", args: []string{"nope"}, code: 127, text: `exec: "nope": executable file not found in $PATH`},
		{name: "no such file", args: []string{"/nope"}, code: 127, text: `exec: "/nope": no such file or directory`},
		{name: "no such file in directory", args: []string{"./nope"}, code: 127, text: `exec: "./nope": no such file or directory`},
		{name: "below a file", args: []string{"/etc/passwd/x"}, code: 127, text: `exec: "/etc/passwd/x": no such file or directory`},
		{name: "not executable", args: []string{"/etc/passwd"}, code: 126, text: `exec: "/etc/passwd": permission denied`},
		{name: "directory", args: []string{"/etc"}, code: 126, text: `exec: "/etc": is a directory`},
		{name: "format", args: []string{"/bin/format"}, code: 126, text: `exec: "/bin/format": exec format error`},
		{name: "interpreter", args: []string{"/bin/script"}, code: 127, text: `exec: "/bin/script": no such file or directory: its interpreter or loader is missing`},
		{name: "interpreter in PATH", args: []string{"script"}, env: []string{"PATH=/nope:/bin"}, code: 127, text: `exec: "script": /bin/script: no such file or directory: its interpreter or loader is missing`},
		{name: "not executable in PATH", args: []string{"passwd"}, env: []string{"PATH=/nope:/etc:/bin"}, code: 126, text: `exec: "passwd": permission denied`},
		{name: "only root may", args: []string{"rootonly"}, user: "ada", code: 126, text: `exec: "rootonly": permission denied`},
		{name: "too many arguments", args: []string{"/bin/helper", strings.Repeat("x", 1<<20)}, code: 126, text: `exec: "/bin/helper": argument list too long`},
		{name: "no arguments", code: 125, text: "no command specified"},
		{name: "unknown user", args: []string{"/bin/helper"}, user: "nobody", code: 125, text: `look up user "nobody": no such name in the image's /etc/passwd`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachCarrier(t, func(t *testing.T, run runner) {
				spec := newSpec(t)
				spec.Args, spec.Env, spec.User = tc.args, tc.env, tc.user
				for name, text := range map[string]string{"format": "\x00\x01\x02 nothing", "script": "#!/nope/sh\n", "rootonly": "#!/bin/helper\n"} {
					writeInRoot(t, spec.Root, "bin/"+name, text)
				}
				must(t, unix.Fchmodat(int(spec.Root.Fd()), "bin/rootonly", 0o700, 0))
				_, err := run.start(t.Context(), spec)
				var start *StartError
				if !errors.As(err, &start) {
					t.Fatalf("error %v", err)
				}
				if start.Code != tc.code || err.Error() != tc.text {
					t.Errorf("code %d, %q; want %d, %q", start.Code, err, tc.code, tc.text)
				}
			})
		})
	}
}

// writeInRoot makes an executable file in a root.
func writeInRoot(t testing.TB, root *os.File, name, text string) {
	t.Helper()
	fd, err := unix.Openat(int(root.Fd()), name, unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC|unix.O_CLOEXEC, 0o755)
	must(t, err)
	f := os.NewFile(uintptr(fd), name)
	_, err = f.WriteString(text)
	must(t, errors.Join(err, f.Close()))
}

func TestPathLookup(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		spec := newSpec(t)
		// What can't be executed is passed over.
		spec.Args, spec.Env = []string{"helper", "env"}, []string{"PATH=/nope:/etc/passwd:/data:/bin", "A=1", "A=2", "HOME="}
		must(t, unix.Mkdirat(int(spec.Root.Fd()), "data/helper", 0o755))
		want := "PATH=/nope:/etc/passwd:/data:/bin\nA=2\nHOME=/root\n"
		if got := run.ok(t, spec); got != want {
			t.Errorf("environment %q, want %q", got, want)
		}
	})
}

func TestManyCandidates(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		spec := newSpec(t)
		spec.Args = []string{"helper", "echo", "found"}
		spec.Env = []string{"PATH=" + strings.Repeat("/nope:", 254) + "/bin"}
		if got := run.ok(t, spec); got != "found\n" {
			t.Errorf("got %q", got)
		}
	})
}

func TestStreams(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		t.Run("reader", func(t *testing.T) {
			spec := newSpec(t, "cat")
			in := strings.Repeat("0123456789abcdef", 1<<16)
			spec.Stdin = strings.NewReader(in)
			if got := run.ok(t, spec); got != in {
				t.Errorf("%d bytes came back, want %d", len(got), len(in))
			}
		})
		t.Run("file", func(t *testing.T) {
			spec := newSpec(t, "cat", ";", "err", "diag")
			in, err := os.Open("/proc/self/cmdline")
			must(t, err)
			defer in.Close()
			out, err := os.Create(filepath.Join(t.TempDir(), "out"))
			must(t, err)
			defer out.Close()
			var diag bytes.Buffer
			spec.Stdin, spec.Stdout, spec.Stderr = in, out, &diag
			p, err := run.start(t.Context(), spec)
			must(t, err)
			must(t, p.Wait())
			got, err := os.ReadFile(out.Name())
			must(t, err)
			want, err := os.ReadFile("/proc/self/cmdline")
			must(t, err)
			if !bytes.Equal(got, want) || diag.String() != "diag\n" {
				t.Errorf("stdout %q, want %q; stderr %q", got, want, diag.String())
			}
		})
		t.Run("none", func(t *testing.T) {
			spec := newSpec(t, "cat", ";", "echo", "into", "nothing", ";", "write", "/tmp/end", "x")
			p, err := run.start(t.Context(), spec)
			must(t, err)
			must(t, p.Wait())
		})
		t.Run("slow reader of much output", func(t *testing.T) {
			spec := newSpec(t, "lines", "100000")
			got := run.ok(t, spec)
			if n := strings.Count(got, "\n"); n != 100000 || !strings.HasSuffix(got, "99999\n") {
				t.Errorf("%d lines, ending in %q", n, got[max(0, len(got)-20):])
			}
		})
		t.Run("failing writer", func(t *testing.T) {
			spec := newSpec(t, "lines", "1000000")
			spec.Stdout = failingWriter{}
			p, err := run.start(t.Context(), spec)
			must(t, err)
			if err := p.Wait(); !errors.Is(err, errWriter) {
				t.Errorf("error %v", err)
			}
		})
		t.Run("endless stdin", func(t *testing.T) {
			spec := newSpec(t, "exit", "3")
			r, w := io.Pipe()
			defer w.Close()
			spec.Stdin = r
			p, err := run.start(t.Context(), spec)
			must(t, err)
			if got := exitCode(t, p.Wait()); got != 3 {
				t.Errorf("code %d", got)
			}
		})
		t.Run("reopen as another user", func(t *testing.T) {
			spec := newSpec(t, "write", "/dev/stdout", "out", ";", "write", "/dev/stderr", "err", ";", "cat", "/dev/stdin")
			spec.User = "ada"
			spec.Stdin = strings.NewReader("in")
			if got := run.ok(t, spec); got != "outerrin" {
				t.Errorf("got %q", got)
			}
		})
	})
}

var errWriter = errors.New("writer is full")

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errWriter }

func TestSignals(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		for _, init := range []bool{false, true} {
			spec := newSpec(t, "trap")
			spec.Init = init
			p, out := startReady(t, run, spec)
			must(t, p.Signal(syscall.SIGUSR1))
			rest, err := io.ReadAll(out)
			must(t, err)
			must(t, p.Wait())
			if string(rest) != "user defined signal 1\n" {
				t.Errorf("init %v: got %q", init, rest)
			}
			if err := p.Signal(syscall.SIGUSR1); !errors.Is(err, os.ErrProcessDone) {
				t.Errorf("signal after the end: %v", err)
			}
		}
		// Without a handler process 1 ignores SIGTERM; with the reaper it
		// ends the command.
		spec := newSpec(t, "exec", "/bin/helper", "sleep", "1000")
		spec.Init = true
		p, _ := startReady(t, run, spec)
		must(t, p.Signal(syscall.SIGTERM))
		// The Go runtime of the helper dies of it by an exit with code 2 or
		// by the signal, according to what it was doing.
		if err := p.Wait(); err == nil {
			t.Error("survived SIGTERM")
		}
		p, _ = startReady(t, run, newSpec(t, "sleep", "1000"))
		must(t, p.Kill())
		err := p.Wait()
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Code != 137 || exit.Signal != syscall.SIGKILL {
			t.Errorf("after Kill: %v", err)
		}
		if again := p.Wait(); again != err {
			t.Errorf("second Wait: %v", again)
		}
	})
}

// startReady starts a container and waits until it prints "ready".
func startReady(t testing.TB, run runner, spec Spec) (*Process, *bufio.Reader) {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { r.Close() })
	spec.Stdout, spec.Stderr = w, w
	p, err := run.start(t.Context(), spec)
	w.Close()
	must(t, err)
	out := bufio.NewReader(r)
	for {
		line, err := out.ReadString('\n')
		if line == "ready\n" {
			return p, out
		}
		if err != nil {
			t.Fatalf("%v; %v", err, p.Wait())
		}
	}
}

func TestCancel(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		why := errors.New("no more time")
		ctx, cancel := context.WithCancelCause(t.Context())
		r, w, err := os.Pipe()
		must(t, err)
		defer r.Close()
		spec := newSpec(t, "orphans", "3", ";", "sleep", "1000")
		spec.Stdout = w
		p, err := run.start(ctx, spec)
		must(t, err)
		w.Close()
		out := bufio.NewReader(r)
		for range 4 {
			if _, err := out.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		cancel(why)
		if err := p.Wait(); !errors.Is(err, why) {
			t.Errorf("error %v", err)
		}
		// Whoever still lived would hold the pipe.
		if _, err := out.ReadString('\n'); !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %v", err)
		}
		if _, err := run.start(ctx, newSpec(t, "exit", "0")); !errors.Is(err, why) {
			t.Errorf("start with an ended context: %v", err)
		}
	})
}

// Processes that outlive the first one are killed with it.
func TestOrphans(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		spec := newSpec(t, "orphans", "5", ";", "exit", "4")
		if _, err := run.output(t, spec); exitCode(t, err) != 4 {
			t.Errorf("error %v", err)
		}
	})
}

func TestInit(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		spec := newSpec(t, "ppid", ";", "zombies", "10")
		spec.Init = true
		var pid, ppid, zombies int
		got := run.ok(t, spec)
		if _, err := fmt.Sscanf(got, "%d %d\nzombies %d\n", &pid, &ppid, &zombies); err != nil || pid == 1 || ppid != 1 || zombies != 0 {
			t.Errorf("with init: %q", got)
		}
		spec = newSpec(t, "ppid")
		if got := run.ok(t, spec); got != "1 0\n" {
			t.Errorf("without init: %q", got)
		}
		spec = newSpec(t)
		spec.Args, spec.Init = []string{"nope"}, true
		if _, err := run.start(t.Context(), spec); exitCode(t, err) != 127 {
			t.Errorf("error %v", err)
		}
	})
}

func TestTerminal(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		for _, user := range []string{"", "ada"} {
			spec := newSpec(t, "tty", ";", "stat", "/dev/pts/0")
			spec.Terminal, spec.Width, spec.Height, spec.User = true, 97, 31, user
			got := strings.ReplaceAll(run.ok(t, spec), "\r", "")
			uid := 0
			console := "ok"
			if user != "" {
				uid = 1000
			}
			want := fmt.Sprintf("terminal ok\nsize 97 31\ncontrolling ok\nname /dev/pts/0 ok\nreopen ok\nconsole %s\n20620 %d 5 34816\n", console, uid)
			if got != want {
				t.Errorf("user %q: %q, want %q", user, got, want)
			}
		}
	})
}

func TestTerminalInput(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		spec := newSpec(t, "cat")
		spec.Terminal = true
		spec.Stdin = strings.NewReader("typed\n")
		// The line is echoed, and comes back from cat.
		if got := run.ok(t, spec); strings.Count(got, "typed\r\n") != 2 {
			t.Errorf("got %q", got)
		}
	})
}

func TestResize(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		for _, init := range []bool{false, true} {
			spec := newSpec(t, "winch")
			spec.Terminal, spec.Width, spec.Height, spec.Init = true, 80, 24, init
			r, w := io.Pipe()
			spec.Stdout = w
			p, err := run.start(t.Context(), spec)
			must(t, err)
			lines := bufio.NewReader(r)
			var got []string
			for len(got) < 3 {
				line, err := lines.ReadString('\n')
				must(t, err)
				got = append(got, strings.TrimSpace(line))
				if got[len(got)-1] == "ready" {
					must(t, p.Resize(132, 50))
				}
			}
			must(t, p.Wait())
			if want := []string{"size 80 24", "ready", "size 132 50"}; !slices.Equal(got, want) {
				t.Errorf("init %v: %q, want %q", init, got, want)
			}
			if err := p.Resize(1, 1); err == nil {
				t.Error("resize after the end succeeded")
			}
		}
	})
}

// A terminal of the caller never reaches the container.
func TestCallersTerminal(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		pts, err := openPts(IDMap{})
		must(t, err)
		defer pts.Close()
		var s stdio
		must(t, s.openTerminal(&Spec{}, pts))
		defer s.closeAll()
		spec := newSpec(t, "fds")
		spec.Stdin, spec.Stdout, spec.Stderr = s.child[0], s.child[0], s.child[0]
		p, err := run.start(t.Context(), spec)
		must(t, err)
		must(t, p.Wait())
		// A terminal gives what was written in pieces of its own choice.
		got := ""
		for strings.Count(got, "\n") < 3 {
			buf := make([]byte, 4096)
			n, err := s.terminal.Read(buf)
			must(t, err)
			got += string(buf[:n])
		}
		if strings.Count(got, "pipe:") != 3 {
			t.Errorf("streams are %q", got)
		}
	})
}

// A killed builder takes its containers along if asked to.
func TestKillWithParent(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		cmd, _, pid := startHelperBuilder(t)
		ended := watchEnd(t, pid)
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
		ended()
	})
}

// startHelperBuilder starts TestHelperBuilder over the carrier that the test is
// about, and returns what it writes after the id of its container's process.
func startHelperBuilder(t *testing.T, env ...string) (cmd *exec.Cmd, out *bufio.Reader, pid int) {
	t.Helper()
	cmd = exec.Command("/proc/self/exe", "-test.run=^TestHelperBuilder$")
	cmd.Env = append(append(os.Environ(), "HELPER_BUILDER="+path.Base(t.Name())), env...)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	out = bufio.NewReader(stdout)
	line, err := out.ReadString('\n')
	must(t, err)
	pid, err = strconv.Atoi(strings.TrimSpace(line))
	must(t, err)
	return cmd, out, pid
}

// watchEnd returns a function that waits for the end of a process, and ends it
// if it doesn't come.
func watchEnd(t *testing.T, pid int) func() {
	fd, err := unix.PidfdOpen(pid, 0)
	must(t, err)
	return func() {
		defer unix.Close(fd)
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if n != 1 {
				t.Errorf("container has outlived its parent: %v", err)
				must(t, unix.Kill(pid, unix.SIGKILL))
			}
			return
		}
	}
}

// TestBeforeExec has a container wait for what is to be done before.
func TestBeforeExec(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		for _, init := range []bool{false, true} {
			var out bytes.Buffer
			spec := newSpec(t, "fds")
			spec.Init, spec.Stdout = init, &out
			told := 0
			spec.BeforeExec = func(pid int, _ *os.File) error {
				told = pid
				exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
				if err != nil || strings.Contains(exe, "helper") || out.Len() > 0 {
					t.Errorf("process %d executes %q (%v) and has written %q", pid, exe, err, &out)
				}
				return nil
			}
			p, err := run.start(t.Context(), spec)
			must(t, err)
			must(t, p.Wait())
			if told != p.Pid() || out.Len() == 0 {
				t.Errorf("told of process %d, which is %d and has written %q", told, p.Pid(), &out)
			}

			out.Reset()
			spec = newSpec(t, "fds")
			spec.Init, spec.Stdout = init, &out
			failure := errors.New("disk full")
			spec.BeforeExec = func(int, *os.File) error { return failure }
			_, err = run.start(t.Context(), spec)
			if !errors.Is(err, failure) || exitCode(t, err) != codeSetup || out.Len() > 0 {
				t.Errorf("error %v, it has written %q", err, &out)
			}
		}
	})
}

// TestForgedReports sends what a process of the container could, that traces
// another one in the moment before that executes its command.
func TestForgedReports(t *testing.T) {
	send := func(index, value uint64) *os.File {
		ours, theirs, err := sys.SocketPair()
		must(t, err)
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		for range 3 {
			_, err = theirs.Write(binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, index), value))
			must(t, err)
		}
		return ours
	}
	for _, waits := range []bool{false, true} {
		told := 0
		p := &plan{spec: &Spec{Args: []string{"x"}}, prog: newProgram(), io: &stdio{}, report: send(readyReport, 0)}
		if waits {
			p.spec.BeforeExec = func(int, *os.File) error { told++; return nil }
		}
		if err := p.await(1); err == nil || told > 1 || waits != (told == 1) {
			t.Errorf("error %v, told %d times", err, told)
		}
	}
	for _, pid := range []uint64{0, 1, 1 << 40, ^uint64(0)} {
		x := &execution{plan: plan{spec: &Spec{Args: []string{"x"}}, prog: newProgram(), report: send(pidReport, pid)}}
		if got, err := x.awaitProcess(); got != 0 || err == nil {
			t.Errorf("process %d is taken for one's own (%v)", got, err)
		}
	}
}

// TestKilledBeforeExec kills a builder while a container waits for it, which
// ends then without having executed its command.
func TestKilledBeforeExec(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		cmd, lines, pid := startHelperBuilder(t, "HELPER_BEFORE_EXEC=1")
		ended := watchEnd(t, pid)
		must(t, cmd.Process.Kill())
		rest, err := io.ReadAll(lines)
		must(t, err)
		if len(rest) > 0 {
			t.Errorf("the container has written %q", rest)
		}
		_ = cmd.Wait()
		ended()
	})
}

// TestHelperBuilder is the parent in TestKillWithParent and TestKilledBeforeExec.
func TestHelperBuilder(t *testing.T) {
	name := os.Getenv("HELPER_BUILDER")
	if name == "" {
		t.Skip("is a helper of another test")
	}
	h, err := theHost()
	must(t, err)
	if os.Getenv("HELPER_BEFORE_EXEC") != "" {
		spec := newSpec(t, "fds")
		spec.Stdout = os.Stdout
		spec.BeforeExec = func(pid int, _ *os.File) error {
			fmt.Println(pid)
			select {} // until it is killed
		}
		_, err := (runner{h, carriers()[name]}).start(t.Context(), spec)
		t.Fatal(err)
	}
	spec := newSpec(t, "sleep", "1000")
	spec.KillWithParent, spec.User = true, "ada"
	p, _ := startReady(t, runner{h, carriers()[name]}, spec)
	fmt.Println(p.Pid())
	_ = p.Wait()
}
