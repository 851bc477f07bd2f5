// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"builder/internal/testutil"
)

func TestRunExitCodes(t *testing.T) {
	w := newBench(t)
	tests := []struct {
		args []string
		code int
		word string
	}{
		{[]string{"test/base", "true"}, 0, ""},
		{[]string{"test/base", "sh", "-c", "exit 42"}, 42, ""},
		{[]string{"test/base", "sh", "-c", "kill -9 $$"}, 0, ""}, // process 1 ignores its own signals
		{[]string{"--init", "test/base", "sh", "-c", "kill -9 $$"}, 137, ""},
		{[]string{"test/base", "nothere"}, 127, "nothere"},
		{[]string{"test/base", "/etc/passwd"}, 126, "/etc/passwd"},
		{[]string{"--pull=never", "no/image"}, 125, "no/image"},
		{[]string{"--nope", "test/base"}, 125, "--nope"},
		{[]string{"--network", "mine", "test/base"}, 125, "no such network: mine"},
		{[]string{"-v", "n:/x", "test/base"}, 125, "invalid volume name"},
		{[]string{"-u", "ghost", "test/base", "true"}, 125, "ghost"},
		{[]string{"-w", "relative", "test/base", "true"}, 125, "relative"},
		{[]string{"--security-opt", "label=x", "test/base"}, 125, "label=x"},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			(&workbench{t: t, root: w.root, dir: w.dir}).fails(tt.code, []string{tt.word}, append([]string{"run", "--rm"}, tt.args...)...)
		})
	}
	if out := w.ok("ps", "-aq"); out != "" {
		t.Errorf("containers left: %s", out)
	}
}

func TestRunOptions(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", `FROM test/base
ENV A=image B=image
WORKDIR /work
USER user
ENTRYPOINT ["echo", "entry"]
CMD ["cmd"]
`)
	w.ok("build", "-t", "app", ".")
	host := t.TempDir()
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"app"}, "entry cmd\n"},
		{[]string{"app", "x", "y"}, "entry x y\n"},
		{[]string{"--entrypoint", "id", "app"}, "uid=1000(user) gid=1000(user) groups=50(staff),1000(user)\n"},
		{[]string{"--entrypoint", "id", "-u", "0:50", "app", "-g"}, "50\n"},
		{[]string{"--entrypoint", "pwd", "app"}, "/work\n"},
		{[]string{"--entrypoint", "pwd", "-w", "/new/dir", "app"}, "/new/dir\n"},
		{[]string{"--entrypoint", "sh", "-e", "B=flag", "-e", "C", "app", "-c", "echo $A $B $C $HOME"}, "image flag given /home/user\n"},
		{[]string{"--entrypoint", "hostname", "-h", "me", "app"}, "me\n"},
		{[]string{"--read-only", "--entrypoint", "sh", "app", "-c", "touch /x 2>&1 | grep -c Read-only"}, "1\n"},
		{[]string{"--network", "none", "--entrypoint", "sh", "app", "-c", "cat /proc/net/dev | grep -c :"}, "1\n"},
		{[]string{"-u", "0", "-v", host + ":/data", "--entrypoint", "sh", "app", "-c", "echo here > /data/f; cat /data/f"}, "here\n"},
		{[]string{"-v", host + ":/data:ro", "--entrypoint", "sh", "app", "-c", "touch /data/g 2>&1 | grep -c Read-only"}, "1\n"},
	}
	t.Setenv("C", "given")
	for _, tt := range tests {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			w := &workbench{t: t, root: w.root, dir: w.dir}
			if out := w.ok(append([]string{"run", "--rm"}, tt.args...)...); out != tt.want {
				t.Errorf("got %q, want %q", out, tt.want)
			}
		})
	}
	if data, err := os.ReadFile(filepath.Join(host, "f")); err != nil || string(data) != "here\n" {
		t.Errorf("the volume holds %q (%v)", data, err)
	}
}

func TestRunStdin(t *testing.T) {
	w := newBench(t)
	cmd := w.command("run", "--rm", "-i", "test/base", "wc", "-c")
	cmd.Stdin = bytes.NewReader(make([]byte, 3_000_000))
	if r := w.finish(cmd); strings.TrimSpace(r.stdout) != "3000000" {
		t.Errorf("%q %s", r.stdout, r.stderr)
	}
	cmd = w.command("run", "--rm", "test/base", "cat")
	cmd.Stdin = strings.NewReader("not passed")
	if r := w.finish(cmd); r.stdout != "" || r.code != 0 {
		t.Errorf("without -i standard input is passed: %q", r.stdout)
	}
}

func TestRunTerminal(t *testing.T) {
	w := newBench(t)
	testutil.Require(t, "script")
	log := filepath.Join(t.TempDir(), "log")
	exe := program(t)
	line := exe + " run --rm -it test/base sh -c 'tty; stty size; echo $TERM'"
	cmd := exec.Command("script", "-qec", "stty rows 33 cols 77; "+line, log)
	cmd.Env = w.command().Env
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"/dev/", "33 77", "xterm"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the terminal's output lacks %q:\n%s", want, out)
		}
	}
	cmd = exec.Command("setsid", exe, "run", "--rm", "-it", "test/base", "true")
	cmd.Env = w.command().Env
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "no terminal") {
		t.Errorf("-it without a terminal: %v %s", err, out)
	}
}

func TestRunSignals(t *testing.T) {
	w := newBench(t)
	cmd := w.command("run", "--name", "sig", "test/base", "sh", "-c", "trap 'echo got; exit 5' TERM; echo ready; while true; do sleep 0.05; done")
	var out syncBuffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the container's start", func() bool { return strings.Contains(out.String(), "ready") })
	if ps := w.ok("ps"); !strings.Contains(ps, "Up ") || !strings.Contains(ps, "sig") {
		t.Errorf("ps of a running container:\n%s", ps)
	}
	w.fails(1, []string{"is running"}, "rm", "sig")
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 || !strings.Contains(out.String(), "got") {
		t.Errorf("exit code %d, output %q: want 5 and the trap's", code, out.String())
	}
	if ps := w.ok("ps", "-a"); !strings.Contains(ps, "Exited (5)") {
		t.Errorf("ps -a of an ended container:\n%s", ps)
	}
	w.fails(125, []string{`"sig" is in use`}, "run", "--name", "sig", "test/base", "true")
	w.ok("rm", "sig")
	if ps := w.ok("ps", "-aq"); ps != "" {
		t.Errorf("after rm: %s", ps)
	}
	w.fails(1, []string{"no such container"}, "rm", "sig")
}

// TestRunKilled kills builder while its container runs: the container dies
// with it, and the next one removes what is left of it.
func TestRunKilled(t *testing.T) {
	w := newBench(t)
	cmd := w.command("run", "--rm", "test/base", "sh", "-c", "echo ready; sleep 1002")
	var out syncBuffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the container's start", func() bool { return strings.Contains(out.String(), "ready") })
	cmd.Process.Kill()
	cmd.Wait()
	waitFor(t, "the container's end", func() bool {
		found, _ := exec.Command("pgrep", "-f", "^sleep 1002").Output()
		return len(found) == 0
	})
	w.ok("run", "--rm", "test/base", "true")
	if ps := w.ok("ps", "-aq"); ps != "" {
		t.Errorf("containers left: %s", ps)
	}
	if left, _ := filepath.Glob(filepath.Join(w.root, "containers", "*")); len(left) > 0 {
		t.Errorf("directories left: %v", left)
	}
	// One that waits to be started is wanted.
	w.ok("create", "--rm", "--name", "later", "test/base", "echo", "now")
	w.ok("run", "--rm", "test/base", "true")
	w.ok("run", "--rm", "--name", "named", "test/base", "true")
	w.ok("start", "--boot")
	if out := w.ok("start", "-a", "later"); out != "now\n" {
		t.Errorf("what waited says %q", out)
	}
	w.fails(1, []string{"no such container"}, "rm", "later")
}

// TestInitName looks at process 1 with --init: it has a name, and shows the command as it
// was given.
func TestInitName(t *testing.T) {
	w := newBench(t)
	out := w.ok("run", "--rm", "--init", "--network", "none", "test/base", "sh", "-c", `cat /proc/1/comm; tr '\0' ' ' < /proc/1/cmdline`)
	comm, line, _ := strings.Cut(out, "\n")
	if want := `builder-init sh -c cat /proc/1/comm; tr '\0' ' ' < /proc/1/cmdline`; comm != "builder-init" || strings.TrimRight(line, " ") != want {
		t.Errorf("process 1 is %s, %q", comm, line)
	}
}

// TestSignalAtStart sends a signal at different times of a start: it ends the command before
// there is a process, or the process, and is never lost.
func TestSignalAtStart(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "box", "test/base", "sleep", "1000")
	for name, args := range map[string][]string{
		"here":       {"run", "--rm", "--init", "test/base"},
		"by monitor": {"run", "--init", "--restart", "on-failure", "test/base"},
		"exec":       {"exec", "box"},
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			w.ok(append(args, "true")...)
			step := time.Since(begin) / 30
			stopped, passedOn := 0, 0
			// On a busy machine a start may take much longer than the first one did.
			for i := 0; i < 40 || i < 200 && (stopped == 0 || passedOn == 0); i++ {
				cmd := w.command(append(args, "sleep", "30")...)
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Duration(i) * step)
				if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait()
				switch code := cmd.ProcessState.ExitCode(); {
				case code == -1: // before it was caught
				case code == 130 && stderr.String() == "builder: interrupted\n":
					stopped++
				case code == 143:
					passedOn++
				default:
					t.Errorf("after %v: %v, %s", time.Duration(i)*step, cmd.ProcessState, stderr.String())
				}
			}
			if stopped == 0 || passedOn == 0 {
				t.Errorf("%d commands were stopped, %d signals passed on: each should have been", stopped, passedOn)
			}
		})
	}
	w.ok("run", "--rm", "test/base", "true") // sweeps
	if out := w.ok("ps", "-q"); len(strings.Fields(out)) != 1 {
		t.Errorf("containers run yet: %q", out)
	}
	if out := w.ok("ps", "-aq", "--filter", "status=exited", "--filter", "exited=0"); len(strings.Fields(out)) != 1 {
		t.Errorf("containers have run to their end, of which one should have: %q", out)
	}
}
