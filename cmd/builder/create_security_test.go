// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestRunConfined looks at what containers with flags about their confinement
// see and may do.
func TestRunConfined(t *testing.T) {
	w := newBench(t)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	ipc, err := os.Readlink("/proc/self/ns/ipc")
	if err != nil {
		t.Fatal(err)
	}
	status := func(field string) []string { return []string{"test/base", "grep", field + ":", "/proc/self/status"} }
	for _, tc := range []struct {
		flags string
		args  []string
		code  int
		want  string
	}{
		{"--cap-drop ALL --cap-add chown", status("CapEff"), 0, "CapEff:\t0000000000000001\n"},
		{"--cap-add nope", status("CapEff"), 125, ""},
		{"--security-opt no-new-privileges", status("NoNewPrivs"), 0, "NoNewPrivs:\t1\n"},
		{"--security-opt no-new-privileges:true", status("NoNewPrivs"), 0, "NoNewPrivs:\t1\n"},
		{"--security-opt no-new-privileges:false", status("NoNewPrivs"), 0, "NoNewPrivs:\t0\n"},
		{"--security-opt seccomp=unconfined", status("Seccomp"), 0, "Seccomp:\t0\n"},
		{"--security-opt seccomp=builtin", status("Seccomp"), 0, "Seccomp:\t2\n"},
		{"--security-opt seccomp=/no/such", status("Seccomp"), 125, ""},
		{"--security-opt label=disable --security-opt apparmor=unconfined", status("Seccomp"), 0, "Seccomp:\t2\n"},
		{"--security-opt label=type:x", status("Seccomp"), 125, ""},
		{"--security-opt apparmor=no-such-profile", status("Seccomp"), 125, ""},
		{"--security-opt mask=relative", status("Seccomp"), 125, ""},
		{"--security-opt nonsense", status("Seccomp"), 125, ""},
		{"", []string{"test/base", "sh", "-c", ": > /proc/sys/kernel/shmmax"}, 1, ""},
		{"--security-opt systempaths=unconfined", []string{"test/base", "sh", "-c", ": > /proc/sys/kernel/shmmax"}, 0, ""},
		{"--security-opt unmask=/proc/s*", []string{"test/base", "sh", "-c", ": > /proc/sys/kernel/shmmax"}, 0, ""},
		{"", []string{"test/base", "sh", "-c", "mkdir /sys/fs/cgroup/own 2>/dev/null && ls -d /sys/fs/cgroup/own; rmdir /sys/fs/cgroup/own 2>/dev/null; true"}, 0, ""},
		{"--security-opt writable-cgroups", []string{"test/base", "sh", "-c", "mkdir /sys/fs/cgroup/own && ls -d /sys/fs/cgroup/own; rmdir /sys/fs/cgroup/own"}, 0, "/sys/fs/cgroup/own\n"},
		{"--security-opt writable-cgroups=false", []string{"test/base", "mkdir", "/sys/fs/cgroup/own"}, 1, ""},
		{"--security-opt writable-cgroups=maybe", []string{"test/base", "true"}, 125, ""},
		{"--security-opt mask=/etc/passwd:/bin/nothing", []string{"test/base", "wc", "-c", "/etc/passwd"}, 0, "0 /etc/passwd\n"},
		{"--group-add 50 --group-add 77", []string{"test/base", "id", "-G"}, 0, "0 50 77\n"},
		{"--read-only", []string{"test/base", "touch", "/x"}, 1, ""},
		{"--read-only", []string{"test/base", "sh", "-c", "for f in hosts hostname resolv.conf; do (echo x >> /etc/$f) 2>/dev/null && echo $f; done; true"}, 0, ""},
		{"--read-only -v /etc", []string{"test/base", "sh", "-c", "for f in hosts hostname resolv.conf other; do (echo x >> /etc/$f) 2>/dev/null && echo $f; done; true"}, 0, "other\n"},
		{"--userns host", []string{"test/base", "echo", "x"}, 0, "x\n"},
		{"--userns mine", []string{"test/base", "echo", "x"}, 125, ""},
		{"--uts host", []string{"test/base", "hostname"}, 0, host + "\n"},
		{"--uts host --hostname me", []string{"test/base", "hostname"}, 125, ""},
		{"--ipc host", []string{"test/base", "readlink", "/proc/self/ns/ipc"}, 0, ipc + "\n"},
		{"--ipc none", []string{"test/base", "sh", "-c", "grep -c /dev/shm /proc/mounts"}, 1, "0\n"},
		{"--ipc none", []string{"test/base", "ls", "/dev/shm"}, 1, ""},
		{"--ipc mine", []string{"test/base", "true"}, 125, ""},
		{"--pid container:ghost", []string{"test/base", "true"}, 125, ""},
		{"--pid host", []string{"test/base", "sh", "-c", "test -r /proc/" + strconv.Itoa(os.Getpid()) + "/environ; echo $?; sleep 1000 & exit 3"}, 3, "0\n"},
		{"--pid host --init", []string{"test/base", "sh", "-c", "kill -9 $$"}, 137, ""},
	} {
		r := w.run(append(append([]string{"run", "--rm"}, strings.Fields(tc.flags)...), tc.args...)...)
		if r.code != tc.code || r.stdout != tc.want {
			t.Errorf("%s %v: code %d, output %q, want %d and %q\n%s", tc.flags, tc.args, r.code, r.stdout, tc.code, tc.want, r.stderr)
		}
	}
}

// TestRunJoined has one container see another one's processes, memory and name.
func TestRunJoined(t *testing.T) {
	w := newBench(t)
	w.ok("run", "-d", "--name", "one", "--hostname", "uno", "--ipc", "shareable", "test/base", "sh", "-c", "echo hello > /dev/shm/file; exec sleep 1000")
	t.Cleanup(func() { w.run("rm", "-f", "-a") })
	waitFor(t, "the file", func() bool { return w.run("exec", "one", "cat", "/dev/shm/file").stdout == "hello\n" })
	out := w.ok("run", "--rm", "--pid", "container:one", "--ipc", "container:one", "--uts", "container:one", "test/base", "sh", "-c",
		"tr '\\0' ' ' < /proc/1/cmdline; hostname; cat /dev/shm/file; echo from two > /dev/shm/two")
	if out != "sleep 1000 uno\nhello\n" {
		t.Errorf("the second one sees %q", out)
	}
	if out := w.ok("exec", "one", "cat", "/dev/shm/two"); out != "from two\n" {
		t.Errorf("the first one sees %q", out)
	}
	w.ok("run", "-d", "--name", "alone", "test/base", "sleep", "1000")
	w.fails(125, []string{"alone", "--ipc shareable"}, "run", "--rm", "--ipc", "container:alone", "test/base", "true")
	if out := w.ok("inspect", "-f", "{{.HostConfig.IpcMode}}", "one", "alone"); out != "shareable\nprivate\n" {
		t.Errorf("inspect says %q", out)
	}
	// The other one's end is the end of who lives in its PID namespace.
	w.ok("run", "-d", "--name", "two", "--pid", "container:one", "test/base", "sleep", "1000")
	if out := w.ok("exec", "two", "sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline"); out != "sleep 1000 " {
		t.Errorf("a process in the second one sees %q", out)
	}
	w.ok("kill", "one")
	if out := w.ok("wait", "two"); out != "137\n" {
		t.Errorf("the second one ended with %s", out)
	}
	w.fails(125, []string{"one is not running"}, "run", "--rm", "--pid", "container:one", "test/base", "true")
	if r := w.run("start", "two"); r.code == 0 || !strings.Contains(r.stderr, "one is not running") {
		t.Errorf("start after the other's end: %d %s", r.code, r.stderr)
	}
}
