// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// probe is a script that tries to reach what is none of a container's business,
// and prints a line for each thing that it reaches. Its variables say where
// these things are on the machine.
const probe = `
up=../../../../../../../../../../../..
for p in $CANARY $up$CANARY /proc/1/root$CANARY /proc/self/root$CANARY /proc/1/cwd$CANARY /proc/self/cwd/$up$CANARY /proc/self/fd/../../1/root$CANARY; do
	grep -q "the canary" $p 2>/dev/null && echo "file $CANARY"
done
for fd in /proc/self/fd/* /proc/1/fd/*; do
	grep -q "the canary" $fd/$CANARY $fd/$up$CANARY 2>/dev/null && echo "file through $fd"
done
ls -l /proc/self/fd | sed -n 's/.* \([0-9]*\) -> /\1 /p' | while read n to; do
	case $to in
	/probe | /proc/*) ;;
	*) test $n -gt 2 && echo "descriptor $n $to" ;;
	esac
done
for p in $STATE /proc/1/root$STATE /var/lib/builder /var/lib/docker /var/lib/containers /run/docker /run/containerd /run/builder; do
	test -e $p && echo "state $p"
done
for p in $SOCKET /proc/1/root$SOCKET /run/docker.sock /var/run/docker.sock /run/podman/podman.sock /run/containerd/containerd.sock /run/buildkit/buildkitd.sock /run/crio/crio.sock; do
	test -S $p && echo "socket $p"
done
grep -q "@$ABSTRACT" /proc/net/unix && echo "abstract socket"
grep -l "$VICTIM" /proc/[0-9]*/cmdline 2>/dev/null | grep -v -e "/self/" -e "/$$/" | while read f; do
	tr '\0' ' ' < $f | grep -q "^sleep $VICTIM" && echo "process"
done
test -d /proc/$PID && tr '\0' ' ' < /proc/$PID/cmdline | grep -q "^sleep $VICTIM" && kill -0 $PID && echo "signal"
for d in 8:0 253:0 254:0 259:0 7:0 1:1 1:2 1:4 1:11 10:237 10:232 10:229; do
	for kind in b c; do
		rm -f /tmp/node; mknod /tmp/node $kind ${d%:*} ${d#*:} 2>/dev/null
		( : < /tmp/node ) 2>/dev/null && echo "device $kind $d"
	done
done
mkdir -p /tmp/m
for fs in proc sysfs tmpfs cgroup2 devpts; do
	mount -t $fs none /tmp/m 2>/dev/null && echo "mount $fs" && umount /tmp/m
done
mount --bind /proc /tmp/m 2>/dev/null && echo "mount bind" && umount /tmp/m
unshare -U true 2>/dev/null && echo "user namespace"
unshare -m true 2>/dev/null && echo "mount namespace"
nsenter -t 1 -m true 2>/dev/null && echo "namespace of process 1"
for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/uevent_helper /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/release_agent /proc/sys/vm/panic_on_oom; do
	( : >> $f ) 2>/dev/null && test -e $f && echo "write $f"
done
for f in /proc/kcore /proc/keys /proc/timer_list; do
	test -s $f && test -n "$(head -c 1 $f | tr -d '\0')" && echo "read $f"
done
dmesg >/dev/null 2>&1 && echo "kernel log"
hostname changed 2>/dev/null && echo "host name"
true
`

// reach is what the probe looks for.
type reach struct {
	canary, state, socket, abstract, victim, pid string
}

func (r reach) env() []string {
	return []string{"CANARY=" + r.canary, "STATE=" + r.state, "SOCKET=" + r.socket, "ABSTRACT=" + r.abstract, "VICTIM=" + r.victim, "PID=" + r.pid}
}

// newReach makes a file, a socket in the file system and one without a name
// there, as another engine has, and a container with a process of its own.
func newReach(t *testing.T, w *workbench) reach {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	r := reach{
		canary: filepath.Join(dir, "canary"), state: w.root, socket: filepath.Join(dir, "engine.sock"),
		abstract: fmt.Sprintf("builder-test-%d", os.Getpid()), victim: fmt.Sprintf("%d", 100000+os.Getpid()),
	}
	if err := os.WriteFile(r.canary, []byte("the canary\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{r.socket, "@" + r.abstract} {
		l, err := net.Listen("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	w.ok("run", "-d", "--name", "victim", "--network", "none", "test/base", "sleep", r.victim)
	t.Cleanup(func() { w.run("rm", "-f", "-a") })
	r.pid = strconv.Itoa(readState(t, w, "victim").Pid)
	return r
}

// TestNothingIsReached runs the probe in a container in the foreground and in the
// background, in a process that comes to it later and in a RUN step, as root:
// what it was not given it doesn't reach. With a grant of each kind the same
// probe reaches just that, so it would tell. The guards are the mount namespace
// without the machine's files, the namespaces of processes and networks, the
// device program, seccomp, capabilities, masks and closed descriptors.
func TestNothingIsReached(t *testing.T) {
	w := newBench(t)
	r := newReach(t, w)
	var flags []string
	for _, v := range r.env() {
		flags = append(flags, "-e", v)
	}
	run := func(grants ...string) string {
		args := append(append([]string{"run", "--rm"}, flags...), grants...)
		if !slices.Contains(grants, "--network") {
			args = append(args, "--network", "none")
		}
		return w.ok(append(args, "test/base", "sh", "-c", probe)...)
	}
	if out := run(); out != "" {
		t.Errorf("a container reaches\n%s", out)
	}
	if out := run("--init"); out != "" {
		t.Errorf("a container with an init process reaches\n%s", out)
	}
	w.ok(append(append([]string{"run", "-d", "--name", "other", "--network", "none"}, flags...), "test/base", "sh", "-c", probe+"\necho done; sleep 1000")...)
	waitFor(t, "the probe's end", func() bool { return strings.HasSuffix(w.ok("logs", "other"), "done\n") })
	if out := w.ok("logs", "other"); out != "done\n" {
		t.Errorf("a container in the background reaches\n%s", out)
	}
	if out := w.ok("exec", "other", "sh", "-c", probe); out != "" {
		t.Errorf("a process that comes later reaches\n%s", out)
	}
	w.write("Dockerfile", "FROM test/base\nCOPY probe /probe\nRUN --network=none "+strings.Join(r.env(), " ")+" sh /probe > /out\n")
	w.write("probe", probe)
	w.ok("build", "-t", "probed", ".")
	if out := w.ok("run", "--rm", "probed", "cat", "/out"); out != "" {
		t.Errorf("a RUN step reaches\n%s", out)
	}

	for _, tc := range []struct {
		grants []string
		want   string
		only   bool // and nothing else
	}{
		{[]string{"-v", filepath.Dir(r.canary) + ":/granted", "-e", "CANARY=/granted/canary"}, "file /granted/canary", false},
		{[]string{"-v", r.state + ":" + r.state + ":ro"}, "state " + r.state, false},
		{[]string{"-v", r.socket + ":" + r.socket}, "socket " + r.socket, false},
		{[]string{"--pid", "container:victim"}, "process", true},
		{[]string{"--pid", "host"}, "signal", false},
		{[]string{"--network", "host"}, "abstract socket", true},
		{[]string{"--device-cgroup-rule", "c 10:237 rwm"}, "device c 10:237", true},
		{[]string{"--cap-add", "SYS_ADMIN"}, "mount tmpfs", false},
		{[]string{"--security-opt", "seccomp=unconfined"}, "user namespace", true},
		{[]string{"--security-opt", "systempaths=unconfined"}, "write /proc/sys/vm/panic_on_oom", false},
	} {
		got := lines(run(tc.grants...))
		if !slices.Contains(got, tc.want) || tc.only && len(got) != 1 {
			t.Errorf("with %q the probe reaches %q, want %q", tc.grants, got, tc.want)
		}
	}
}

// TestCacheMountSwap exchanges a directory of a cache mount with a link to a
// directory of the machine while RUN steps mount it: they see the directory of
// the cache, or there is none (CVE-2024-23651). The guard is openPath, which
// finds the source below the cache's own directory and hands on what it has
// opened.
func TestCacheMountSwap(t *testing.T) {
	w := newBench(t)
	canary := t.TempDir()
	if err := os.WriteFile(filepath.Join(canary, "secret"), []byte("the canary\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.write("Dockerfile", "FROM test/base\nRUN --mount=type=cache,id=swap,target=/c mkdir /c/sub /c/other && echo ours > /c/sub/file\n")
	w.ok("build", ".")
	found, err := filepath.Glob(filepath.Join(w.root, "cache", "mounts", "*", "sub"))
	if err != nil || len(found) != 1 {
		t.Fatalf("the cache mount is at %q (%v)", found, err)
	}
	link := filepath.Join(filepath.Dir(found[0]), "link")
	var b strings.Builder
	b.WriteString("FROM test/base\n")
	for i := range 60 {
		fmt.Fprintf(&b, "RUN --mount=type=cache,id=swap,source=sub,target=/c cat /c/secret 2>/dev/null; touch /c/made-%d; true\n", i)
	}
	for _, to := range []string{canary, "../../../../../../../../../../../.." + canary, "/proc/self/root" + canary} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
		stop := exchange(found[0], link)
		for range 3 { // a step for which there is none ends its build
			w.write("Dockerfile", b.String())
			if r := w.run("build", "--no-cache", "."); strings.Contains(r.stdout+r.stderr, "the canary") {
				t.Errorf("a step shows a file of the machine:\n%s%s", r.stdout, r.stderr)
			}
		}
		t.Logf("%d changes meanwhile", stop())
		if st, err := os.Lstat(link); err == nil && st.IsDir() {
			if err := unix.Renameat2(unix.AT_FDCWD, link, unix.AT_FDCWD, found[0], unix.RENAME_EXCHANGE); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := os.ReadDir(canary); err != nil || len(entries) != 1 {
		t.Errorf("the machine's directory has %v (%v)", entries, err)
	}
}

// TestBindMountLink has a stage's path, which a step mounts, be a link to the
// machine's files: it is looked up in the stage. The guard is openPath.
func TestBindMountLink(t *testing.T) {
	w := newBench(t)
	canary := t.TempDir()
	if err := os.WriteFile(filepath.Join(canary, "secret"), []byte("the canary\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{canary, "../../../../../../../../.." + canary, "/proc/self/root" + canary, "/proc/self/cwd"} {
		for _, mode := range []string{"ro", "rw"} {
			w.write("Dockerfile", "FROM test/base AS from\nRUN ln -s "+to+" /link\nFROM test/base\nRUN --mount=type=bind,from=from,source=/link,target=/m,"+mode+" cat /m/secret; ls /m; true\n")
			if r := w.run("build", "--no-cache", "."); r.code == 0 || strings.Contains(r.stdout+r.stderr, "the canary") {
				t.Errorf("a mount of a link to %s: code %d\n%s%s", to, r.code, r.stdout, r.stderr)
			}
		}
	}
}

// TestCpSwap exchanges a directory of a running container with links to the
// machine's files while it is copied from and to (CVE-2018-15664). The guard is
// sys.OpenInRoot, below the container's root.
func TestCpSwap(t *testing.T) {
	w := newBench(t)
	canary := t.TempDir()
	if err := os.WriteFile(filepath.Join(canary, "file"), []byte("the canary\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.write("in", "in\n")
	w.ok("run", "-d", "--name", "cc", "--network", "none", "test/base", "sh", "-c",
		"mkdir -p /data/dir; echo ours > /data/dir/file; ln -s "+canary+" /data/abs; ln -s ../../../../../../../../../.."+canary+" /data/up; ln -s /proc/1/root"+canary+" /data/proc; exec sleep 1000")
	t.Cleanup(func() { w.run("rm", "-f", "-a") })
	root := "/proc/" + strconv.Itoa(readState(t, w, "cc").Pid) + "/root/data/"
	waitFor(t, "the links", func() bool { _, err := os.Lstat(root + "proc"); return err == nil })
	copied := 0
	for _, link := range []string{"abs", "up", "proc"} {
		stop := exchange(root+"dir", root+link)
		for i := range 25 {
			out := filepath.Join(w.dir, fmt.Sprint("out-", link, i))
			if r := w.run("cp", "cc:/data/dir/file", out); r.code == 0 {
				copied++
				if text, err := os.ReadFile(out); err != nil || string(text) != "ours\n" {
					t.Errorf("a copy of /data/dir/file is %q (%v)", text, err)
				}
			}
			w.run("cp", "in", fmt.Sprintf("cc:/data/dir/in-%d", i))
			w.run("cp", "in", "cc:/data/dir")
		}
		t.Logf("%d changes meanwhile", stop())
		if st, err := os.Lstat(root + link); err == nil && st.IsDir() {
			if err := unix.Renameat2(unix.AT_FDCWD, root+link, unix.AT_FDCWD, root+"dir", unix.RENAME_EXCHANGE); err != nil {
				t.Fatal(err)
			}
		}
	}
	if copied == 0 {
		t.Error("nothing was ever copied")
	}
	if entries, err := os.ReadDir(canary); err != nil || len(entries) != 1 {
		t.Errorf("the machine's directory has %v (%v)", entries, err)
	}
}

// TestCpChmodSwap puts a link to a file of the machine in the place of what is
// being copied into a container: its mode is not changed.
func TestCpChmodSwap(t *testing.T) {
	w := newBench(t)
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.WriteFile(canary, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.write("in", strings.Repeat("some bytes ", 3<<20))
	if err := os.Chmod(filepath.Join(w.dir, "in"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.ok("run", "-d", "--name", "cc", "--network", "none", "test/base", "sleep", "1000")
	t.Cleanup(func() { w.run("rm", "-f", "-a") })
	at := "/proc/" + strconv.Itoa(readState(t, w, "cc").Pid) + "/root/in"
	swapped := 0
	for range 5 {
		ended, gone := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(gone)
			for {
				select {
				case <-ended:
					return
				default:
				}
				if st, err := os.Lstat(at); err == nil && st.Mode().IsRegular() {
					if os.Remove(at) == nil && os.Symlink(canary, at) == nil {
						swapped++
						return
					}
				}
			}
		}()
		w.run("cp", "in", "cc:/in") // what it says is of no interest
		close(ended)
		<-gone
		if st, err := os.Stat(canary); err != nil || st.Mode().Perm() != 0o600 {
			t.Fatalf("the machine's file has mode %v (%v)", st.Mode(), err)
		}
		_ = os.Remove(at)
	}
	if swapped == 0 {
		t.Error("nothing was ever swapped")
	}
}

// exchange exchanges two names again and again until stop, which says how often.
func exchange(a, b string) (stop func() int) {
	ended := make(chan struct{})
	n := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-ended:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
				n++
			}
		}
	})
	return func() int {
		close(ended)
		wg.Wait()
		return n
	}
}
