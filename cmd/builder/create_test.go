// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"builder/internal/testutil"
)

// TestEnvironment looks at what a process finds in its environment besides what
// the user said, and that no image made of the container has that.
func TestEnvironment(t *testing.T) {
	w := newLifeBench(t)
	testutil.Require(t, "script")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	cmd := w.command("import", "--change", "ENV TERM=image", "-", "test/term")
	cmd.Stdin = strings.NewReader(string(baseTar(t)))
	if r := w.finish(cmd); r.code != 0 {
		t.Fatal(r.stderr)
	}
	const show = "echo $HOSTNAME/$TERM"
	w.ok("run", "-d", "--name", "net", "--hostname", "net", "test/base", "sleep", "1000")
	for _, tc := range []struct{ flags, image, want string }{
		{"--hostname me", "test/base", "me/"},
		{"--hostname me -e HOSTNAME=you", "test/base", "you/"},
		{"--uts host", "test/base", host + "/"},
		{"--network host", "test/base", host + "/"},
		{"--network host --hostname me", "test/base", "me/"},
		{"--network none", "test/base", "ID/"},
		{"--uts container:net", "test/base", "net/"},
		{"--network container:net", "test/base", "net/"},
		{"-t --hostname me", "test/base", "me/xterm"},
		{"-t --hostname me -e TERM=mine", "test/base", "me/mine"},
		{"-t --hostname me", "test/term", "me/image"},
	} {
		out := w.ok(append(append([]string{"run", "--rm"}, strings.Fields(tc.flags)...), tc.image, "sh", "-c", show)...)
		if short := strings.TrimSuffix(strings.TrimSpace(out), "/"); tc.want == "ID/" && len(short) == 12 {
			continue
		}
		if strings.TrimSpace(out) != tc.want {
			t.Errorf("run %s %s: %q, want %q", tc.flags, tc.image, out, tc.want)
		}
	}
	w.ok("run", "-dt", "--name", "cc", "-e", "A=b", "test/base", "sleep", "1000")
	for _, tc := range []struct{ flags, want string }{{"", host + "/"}, {"-t", host + "/xterm"}, {"-t -e TERM=mine", host + "/mine"}} {
		if out := w.ok(append(append([]string{"exec"}, strings.Fields(tc.flags)...), "cc", "sh", "-c", show)...); strings.TrimSpace(out) != tc.want {
			t.Errorf("exec %s: %q, want %q", tc.flags, out, tc.want)
		}
	}
	w.ok("commit", "cc", "test/made")
	if got, want := w.field("test/made", "{{.Config.Env}}"), w.field("cc", "{{.Config.Env}}"); got != want || !strings.Contains(got, "A=b") || strings.Contains(got, "TERM") {
		t.Errorf("the image's environment is %s, the container's %s", got, want)
	}
}

// TestNames has names begin with a slash, as inspect shows them, and be taken
// from others.
func TestNames(t *testing.T) {
	w := newLifeBench(t)
	w.ok("create", "--name", "/one", "test/base", "true")
	w.ok("rename", "/one", "/two")
	if got := w.field("/two", "{{.Name}}"); got != "/two" {
		t.Errorf("the name is %q", got)
	}
	w.fails(1, []string{"invalid container name"}, "rename", "two", "//two")
	w.fails(1, []string{"has this name already"}, "rename", "two", "two")

	old := w.ok("run", "-d", "--name", "web", "test/base", "sleep", "1000")
	w.fails(125, []string{"is in use"}, "run", "-d", "--name", "web", "test/base", "true")
	w.fails(125, []string{"--replace", "--name"}, "run", "-d", "--replace", "test/base", "true")
	w.fails(125, []string{"not found"}, "run", "-d", "--pull", "never", "--replace", "--name", "web", "test/nothing")
	if got := w.field("web", "{{.State.Status}}"); got != "running" {
		t.Errorf("after a failure the old one is %s", got)
	}
	now := w.ok("run", "-d", "--replace", "--name", "web", "test/base", "sleep", "1000")
	if got := w.field("web", "{{.Id}}"); got != strings.TrimSpace(now) {
		t.Errorf("%s has the name, want %s", got, now)
	}
	w.fails(1, []string{"no such"}, "inspect", "--type", "container", strings.TrimSpace(old))
	w.ok("create", "--replace", "--name", "free", "test/base", "true")

	// Of several names, those that are there are stopped.
	w.ok("stop", "-i", "-t", "0", "ghost", "web")
	if got := w.field("web", "{{.State.Status}}"); got != "exited" {
		t.Errorf("beside one that isn't there it is %s", got)
	}
	w.fails(1, []string{"ghost"}, "stop", "-t", "0", "ghost", "web")
}

// TestRunAttach attaches to some of the streams.
func TestRunAttach(t *testing.T) {
	w := newLifeBench(t)
	const both = "echo out; echo err >&2"
	for i, mode := range [][]string{nil, {"--rm"}, {"--restart", "on-failure"}} { // who has it: this process, with a log or without, and the monitor
		for j, tc := range []struct{ flags, stdout, stderr string }{
			{"", "out\n", "err\n"},
			{"-a stdout", "out\n", ""},
			{"-a stderr", "", "err\n"},
			{"-a stdout -a stderr", "out\n", "err\n"},
			{"-a stdin", "ID\n", ""},
		} {
			file := filepath.Join(w.dir, fmt.Sprintf("%d-%d", i, j))
			args := append(append([]string{"run", "--cidfile", file}, mode...), strings.Fields(tc.flags)...)
			r := w.run(append(args, "test/base", "sh", "-c", both)...)
			id, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.Replace(tc.stdout, "ID", string(id), 1); r.code != 0 || r.stdout != want || r.stderr != tc.stderr {
				t.Errorf("run %v %s: code %d, %q and %q", mode, tc.flags, r.code, r.stdout, r.stderr)
			}
		}
	}
	w.fails(125, []string{"stdout or stderr"}, "run", "-a", "out", "test/base", "true")
	w.fails(125, []string{"--detach"}, "run", "-d", "-a", "stdout", "test/base", "true")
}

// TestMonitorInheritsNothing starts the monitor with a pipe open that it has no
// use for: who reads from it sees its end.
func TestMonitorInheritsNothing(t *testing.T) {
	w := newLifeBench(t)
	r, p, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := w.command("run", "-d", "test/base", "sleep", "1000")
	cmd.ExtraFiles = []*os.File{p}
	out := w.finish(cmd)
	p.Close()
	if out.code != 0 || len(w.monitors()) == 0 {
		t.Fatalf("run -d: %+v", out)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := r.Read(make([]byte, 1))
		ended <- err
	}()
	waitFor(t, "the pipe's end", func() bool { return len(ended) == 1 })
}

// TestScriptsSeeTheCommand runs an image for the first time, which is unpacked:
// standard error is the command's.
func TestScriptsSeeTheCommand(t *testing.T) {
	w := newBench(t)
	if r := w.run("run", "--rm", "test/base", "sh", "-c", "echo mine >&2"); r.code != 0 || r.stderr != "mine\n" {
		t.Errorf("code %d, %q", r.code, r.stderr)
	}
}

// TestUnsetVariables names variables that the environment has not: the container has none
// of them, nor an image made of it.
func TestUnsetVariables(t *testing.T) {
	w := newLifeBench(t)
	w.write("Dockerfile", "FROM test/base\nENV GIVEN=image OTHER=image\n")
	w.ok("build", "-q", "-t", "vars", ".")
	w.ok("run", "-d", "--name", "unset", "--network", "none", "-e", "GIVEN", "-e", "HOSTNAME", "-e", "ABSENT", "-e", "BACK", "-e", "BACK=here", "vars", "sleep", "1000")
	const show = "env | grep -v -e ^PWD= -e ^SHLVL= | sort | tr '\\n' ' '"
	const want = "BACK=here HOME=/root OTHER=image PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "
	if got := w.ok("exec", "unset", "sh", "-c", show); got != want {
		t.Errorf("there is %q, want %q", got, want)
	}
	w.ok("commit", "unset", "made")
	if got := w.ok("inspect", "-f", "{{.Config.Env}}", "made"); strings.Contains(got, "GIVEN") || strings.Contains(got, "HOSTNAME") || !strings.Contains(got, "OTHER=image") {
		t.Errorf("the image has %s", got)
	}
}

// TestGlobalFlags gives flags of docker's client before the command.
func TestGlobalFlags(t *testing.T) {
	w := newBench(t)
	config := t.TempDir()
	if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(`{"networksFormat": "{{.Name}}?"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := w.ok("--config", config, "-l", "error", "--context", "default", "--tlsverify=false", "network", "ls"); got != "bridge?\nhost?\nnone?\n" {
		t.Errorf("with another config file: %q", got)
	}
	for _, args := range [][]string{{"-H", "tcp://x"}, {"--host=unix:///x"}, {"--context", "far"}, {"--tls"}} {
		w.fails(2, []string{"no daemon"}, append(args, "ps")...)
	}
	w.fails(2, []string{"--log-level"}, "-l", "loud", "ps")
}

// TestOtherNames gives flags by both of their names: they are one flag.
func TestOtherNames(t *testing.T) {
	w := newBench(t)
	out := w.ok("run", "--rm", "--network", "none", "--dns-opt", "ndots:2", "--dns-option", "timeout:3", "test/base", "cat", "/etc/resolv.conf")
	if !strings.Contains(out, "options ndots:2 timeout:3\n") {
		t.Errorf("resolv.conf is %q", out)
	}
	w.fails(125, []string{"not together"}, "run", "--rm", "--net", "none", "--network", "host", "test/base")
	w.ok("create", "--name", "caps", "--cap-drop", "all", "--cap-add", "kill", "--cap-add", "CAP_CHOWN", "test/base")
	if got := w.field("caps", "{{.HostConfig.CapDrop}} {{.HostConfig.CapAdd}}"); got != "[ALL] [CAP_KILL CAP_CHOWN]" {
		t.Errorf("capabilities are shown as %s", got)
	}
}
