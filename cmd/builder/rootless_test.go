// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"builder/internal/testutil"
)

// Ids of the user that tests make.
const (
	testUser = 4242
	firstSub = 3_000_000
	manySubs = 65536
)

// userBench is a workbench of an ordinary user. Its commands see a passwd and a
// subuid file of the test's own.
type userBench struct {
	workbench
	etc, exe string
	group    string // control group that commands are in, "" for the test's
}

// asOrdinary has the user run a program, whose path is $0, in a mount namespace
// with the files of $ETC.
const asOrdinary = `set -e
for f in passwd subuid subgid; do test -e /etc/$f || : >/etc/$f; mount --bind "$ETC/$f" /etc/$f; done
test -z "$GROUP" || echo $$ >"$GROUP/cgroup.procs"
exec setpriv --reuid=4242 --regid=4242 --clear-groups --inh-caps=-all "$0" "$@"`

// newUser makes the bench of a user with or without subordinate ids.
func newUser(t *testing.T, subordinate bool) *userBench {
	t.Helper()
	testutil.Require(t, "root", "busybox", "newuidmap", "unshare", "setpriv")
	// Unlike a TempDir, with parents that everybody may enter.
	dir, err := os.MkdirTemp("", "builder-user-")
	if err != nil {
		t.Fatal(err)
	}
	u := &userBench{workbench: workbench{t: t, root: dir + "/state", dir: dir + "/work"}, etc: dir + "/etc", exe: dir + "/builder"}
	u.as = u.asUser
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{u.root, u.dir, u.etc} {
		must(os.Mkdir(d, 0o755))
		must(os.Chown(d, testUser, testUser))
	}
	must(os.Chmod(dir, 0o755))
	self, err := os.ReadFile(program(t))
	must(err)
	must(os.WriteFile(u.exe, self, 0o755))
	ids := ""
	if subordinate {
		ids = fmt.Sprintf("%d:%d:%d\n", testUser, firstSub, manySubs)
	}
	for name, text := range map[string]string{
		"passwd": fmt.Sprintf("root:x:0:0::/root:/bin/sh\nordinary:x:%d:%d::%s:/bin/sh\n", testUser, testUser, dir),
		"subuid": ids, "subgid": ids,
	} {
		must(os.WriteFile(filepath.Join(u.etc, name), []byte(text), 0o644))
	}
	return u
}

// asUser is builder as the user.
func (u *userBench) asUser(args ...string) *exec.Cmd {
	words, network := []string{"unshare", "--mount", "sh", "-c", asOrdinary, u.exe}, "host"
	if u.netns != "" {
		words, network = append([]string{"nsenter", "--net=/run/netns/" + u.netns}, words...), ""
	}
	words = append(words, args...)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "BUILDER_TEST_MAIN=1", "BUILDER_ROOT="+u.root, "BUILDER_PROGRESS=plain", "BUILDER_NETWORK="+network, "ETC="+u.etc, "GROUP="+u.group, "HOME="+u.dir)
	cmd.Dir = u.dir
	return cmd
}

// importBase gives the bench the image test/base.
func (u *userBench) importBase() {
	u.t.Helper()
	cmd := u.command("import", "--change", `CMD ["/bin/sh"]`, "-", "test/base")
	cmd.Stdin = bytes.NewReader(baseTar(u.t))
	if r := u.finish(cmd); r.code != 0 {
		u.t.Fatalf("import: %s", r.stderr)
	}
}

// ownersDockerfile makes files of all kinds with all owners.
const ownersDockerfile = `FROM test/base
RUN echo joe:x:1234:1234::/home/joe:/bin/sh >>/etc/passwd && echo joe:x:1234: >>/etc/group && mkdir -m 700 /home/joe && chown joe:joe /home/joe
RUN echo x >/f && chown 1000:1001 /f && chmod 4755 /f && ln /f /g && ln -s f /l && chown -h 7:8 /l && mkfifo -m 602 /p && chown 65535:65535 /p
RUN mkdir -p /w/a/b && echo 1 >/w/a/b/c && echo 2 >/w/gone && chmod 3777 /w && chown 5:6 /w/a
RUN rm -rf /w/a /w/gone && mkdir /w/a && echo 2 >/w/a/d && chown joe /bin/busybox
USER joe
WORKDIR /home/joe/deep
RUN id -u >mine
COPY --chown=33:44 --chmod=6711 file /d/
COPY --from=test/base --chown=joe /etc /etc2
`

// TestRootlessSameImage builds a Dockerfile as root and as an ordinary user: the
// images are the same bytes.
func TestRootlessSameImage(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1000000000")
	w, u := newBench(t), newUser(t, true)
	u.importBase()
	for _, b := range []*workbench{w, &u.workbench} {
		b.write("Dockerfile", ownersDockerfile)
		b.write("file", "data\n")
	}
	args := []string{"build", "-q", "-t", "x", "--output", "type=image,rewrite-timestamp=true", "."}
	want, got := w.ok(args...), u.ok(args...)
	if want == "" || got != want {
		t.Errorf("as a user %s, as root %s", got, want)
	}
	// And with every step from the cache.
	if again := u.ok(args...); again != want {
		t.Errorf("again %s", again)
	}
	out := u.ok("run", "--rm", "-u", "0", "x", "stat", "-c", "%n %u:%g %a", "/f", "/l", "/p", "/home/joe", "/d/file", "/home/joe/deep")
	for _, line := range []string{"/f 1000:1001 4755", "/l 7:8 777", "/p 65535:65535 602", "/home/joe 1234:1234 700", "/d/file 33:44 6711"} {
		if !slices.Contains(lines(out), line) {
			t.Errorf("no %q in\n%s", line, out)
		}
	}
}

// TestRootlessContainers runs, enters and removes containers, and then
// everything.
func TestRootlessContainers(t *testing.T) {
	u := newUser(t, true)
	u.importBase()
	if r := u.run("run", "--rm", "test/base", "sh", "-c", "id -u; id -g; cat /proc/self/uid_map; echo x >/dev/null && head -c1 /dev/zero | wc -c; exit 7"); r.code != 7 ||
		strings.Join(strings.Fields(r.stdout), " ") != fmt.Sprintf("0 0 0 %d 1 1 %d %d 1", testUser, firstSub, manySubs) {
		t.Errorf("exit code %d, %s%s", r.code, r.stdout, r.stderr)
	}
	// Nothing that its root may not see or do.
	for _, command := range []string{"mknod /x c 1 3", "mount -t tmpfs x /tmp", "cat /proc/kcore", "echo 1 >/sys/kernel/uevent_seqnum", "hostname other"} {
		if r := u.run("run", "--rm", "test/base", "sh", "-c", command+" 2>&1 && test ! -s /proc/kcore && exit 0; exit 9"); r.code != 9 && command != "cat /proc/kcore" {
			t.Errorf("%s: exit code %d %s%s", command, r.code, r.stdout, r.stderr)
		}
	}
	u.ok("run", "-d", "--name", "one", "-u", "user", "test/base", "sh", "-c", "echo up; exec sleep 1000")
	if out := u.ok("exec", "-u", "0", "one", "sh", "-c", "id -u; touch /by-exec && chown 50:50 /by-exec"); out != "0\n" {
		t.Errorf("exec: %s", out)
	}
	if out := u.ok("exec", "one", "id", "-u"); out != "1000\n" {
		t.Errorf("exec as the container's user: %s", out)
	}
	if out := u.ok("logs", "one"); out != "up\n" {
		t.Errorf("logs: %s", out)
	}
	if r := u.run("pause", "one"); r.code == 0 || !strings.Contains(r.stderr, "no control group is delegated") {
		t.Errorf("pause: %d %s", r.code, r.stderr)
	}
	u.ok("stop", "-t", "0", "one")
	u.ok("rm", "one")
	u.write("Dockerfile", "FROM test/base\nRUN --security=insecure --mount=type=cache,target=/c touch /c/x && mount -t tmpfs x /tmp\n")
	u.ok("build", "--allow", "security.insecure", ".")
	if r := u.run("mount", "test/base"); r.code != 1 || !strings.Contains(r.stderr, "without root nobody but this command would see the mount") {
		t.Errorf("mount: %d %s", r.code, r.stderr)
	}
	u.ok("rmi", "-f", "test/base")
	u.ok("prune", "-f", "-a")
	err := filepath.WalkDir(u.root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; uid != testUser {
			t.Errorf("%s of user %d is left", name, uid)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestRootlessTerminated has a signal, and the end of the first process, reach
// the one that works.
func TestRootlessTerminated(t *testing.T) {
	u := newUser(t, true)
	u.importBase()
	for sig, want := range map[syscall.Signal]int{syscall.SIGTERM: 143, syscall.SIGKILL: -1} {
		cmd := u.command("run", "--rm", "--name", "victim", "test/base", "sh", "-c", "trap 'exit 143' TERM; echo up; while :; do sleep 0.05; done")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		// The command may not yet listen when the container runs.
		ended := make(chan struct{})
		go func() { defer close(ended); _ = cmd.Wait() }()
		for waiting := true; waiting; {
			_ = cmd.Process.Signal(sig)
			select {
			case <-ended:
				waiting = false
			case <-time.After(100 * time.Millisecond):
			}
		}
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("after %s exit code %d, want %d", sig, got, want)
		}
		for deadline := time.Now().Add(10 * time.Second); processesOf(t, testUser) > 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("after %s processes are left", sig)
			}
		}
		u.run("rm", "-f", "victim")
	}
}

// processesOf counts the processes of a user.
func processesOf(t *testing.T, uid uint32) (n int) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		var st syscall.Stat_t
		status, err := os.ReadFile(d + "/status")
		if err == nil && syscall.Stat(d, &st) == nil && st.Uid == uid && !bytes.Contains(status, []byte("State:\tZ")) {
			n++
		}
	}
	return n
}

// TestRootlessDevices unpacks a layer with a device node.
func TestRootlessDevices(t *testing.T) {
	u := newUser(t, true)
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range []tar.Header{{Name: "dev/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "dev/node", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}} {
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := u.command("import", "-", "nodes")
	cmd.Stdin = &buf
	if r := u.finish(cmd); r.code != 0 {
		t.Fatal(r.stderr)
	}
	u.write("Dockerfile", "FROM nodes\nCOPY Dockerfile /\n")
	r := u.run("build", "-t", "x", ".")
	if r.code != 0 || !strings.Contains(r.stdout+r.stderr, "not there for steps and containers: /dev/node") {
		t.Errorf("exit code %d %s%s", r.code, r.stdout, r.stderr)
	}
}

// TestRootlessOneID is the user's life without subordinate ids.
func TestRootlessOneID(t *testing.T) {
	u := newUser(t, false)
	u.importBase()
	u.write("Dockerfile", "FROM test/base\nCOPY Dockerfile /\nRUN id -u && touch /x\n")
	r := u.run("build", "-t", "x", ".")
	if r.code != 0 || !strings.Contains(r.stderr, "no subordinate ids in /etc/subuid") || !strings.Contains(r.stderr, "usermod --add-subuids") {
		t.Errorf("exit code %d %s", r.code, r.stderr)
	}
	if out := u.ok("run", "--rm", "x", "sh", "-c", "id -u; ls /x"); out != "0\n/x\n" {
		t.Errorf("run: %s", out)
	}
	// Nobody may be there to answer a container's calls: they succeed and do
	// nothing, for root and for another user.
	if out := u.ok("run", "--rm", "-u", "user", "x", "sh", "-c", "id -u; touch /tmp/mine && echo written"); out != "0\nwritten\n" {
		t.Errorf("run -u: %s", out)
	}
	if out := u.ok("run", "--rm", "--security-opt", "no-new-privileges", "x", "sh", "-c", "touch /y && chown 7:8 /y && stat -c %u:%g /y"); out != "0:0\n" {
		t.Errorf("chown in a container: %s", out)
	}
	u.ok("run", "-d", "--name", "one", "x", "sleep", "1000")
	if out := u.ok("exec", "-u", "1000", "one", "sh", "-c", "id -u && chown 5 /x && echo done"); out != "0\ndone\n" {
		t.Errorf("exec: %s", out)
	}
	u.ok("rm", "-f", "one")
}

// TestOneIDSameImage builds a Dockerfile as root and as a user without subordinate
// ids: the images are the same bytes, as far as owners of links and special files
// are root's.
func TestOneIDSameImage(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1000000000")
	w, u := newBench(t), newUser(t, false)
	u.importBase()
	text := strings.NewReplacer(" && chown -h 7:8 /l", "", " && chown 65535:65535 /p", "").Replace(ownersDockerfile) + oneIDDockerfile
	for _, b := range []*workbench{w, &u.workbench} {
		b.write("Dockerfile", text)
		b.write("file", "data\n")
		var data bytes.Buffer
		tw := tar.NewWriter(&data)
		for _, h := range []tar.Header{{Name: "t/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 11, Gid: 12}, {Name: "t/f", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 13, Gid: 14}} {
			if err := tw.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := tw.Close(); err != nil {
			t.Fatal(err)
		}
		b.write("owned.tar", data.String())
	}
	args := []string{"build", "-t", "x", "--output", "type=image,rewrite-timestamp=true", "."}
	w.ok(args...)
	if r := u.run(args...); r.code != 0 {
		t.Fatalf("as a user: %s", r.stderr)
	}
	names := func(b *workbench) string {
		return b.ok("run", "--rm", "-u", "0", "--entrypoint", "sh", "x", "-c", "cat /said; cat /home/joe/mine")
	}
	if got, want := names(&u.workbench), names(w); got != want {
		t.Errorf("as a user processes were told\n%s\nas root\n%s", got, want)
	}
	// The bytes, of which a tar tells what is different.
	tars := map[*workbench]string{}
	for _, b := range []*workbench{w, &u.workbench} {
		b.ok("build", "--output", "type=tar,dest=rootfs.tar", ".")
		out, err := exec.Command("tar", "--numeric-owner", "-tvf", filepath.Join(b.dir, "rootfs.tar")).Output()
		if err != nil {
			t.Fatal(err)
		}
		tars[b] = string(out)
	}
	if tars[w] != tars[&u.workbench] {
		var diff []string
		have := map[string]bool{}
		for _, l := range lines(tars[w]) {
			have[l] = true
		}
		for _, l := range lines(tars[&u.workbench]) {
			if !have[l] {
				diff = append(diff, l)
			}
		}
		t.Errorf("different as a user:\n%s", strings.Join(diff, "\n"))
	}
	if got, want := u.digestOf("x"), w.digestOf("x"); got != want {
		t.Errorf("as a user %s, as root %s", got, want)
	}
	// A link's owner is lost, with a warning.
	u.write("Dockerfile", "FROM test/base\nRUN ln -s x /l && chown -h 7:8 /l\n")
	if r := u.run("build", "--no-cache", "."); r.code != 0 || !strings.Contains(r.stdout+r.stderr, "owners of symbolic links and special files are lost") {
		t.Errorf("a link's owner: %d %s%s", r.code, r.stdout, r.stderr)
	}
	// With subordinate ids from now on, nothing of what was made before is taken
	// for what it isn't.
	for _, name := range []string{"subuid", "subgid"} {
		if err := os.WriteFile(filepath.Join(u.etc, name), fmt.Appendf(nil, "%d:%d:%d\n", testUser, firstSub, manySubs), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	u.write("Dockerfile", text)
	u.ok(args...)
	if got, want := u.digestOf("x"), w.digestOf("x"); got != want {
		t.Errorf("with subordinate ids %s, as root %s", got, want)
	}
	if out := u.ok("run", "--rm", "-u", "0", "x", "stat", "-c", "%u:%g", "/f", "/d/file"); out != "1000:1001\n33:44\n" {
		t.Errorf("with subordinate ids owners are %q", out)
	}
}

// oneIDDockerfile has processes become others and ask who they are, and owners
// changed in all the ways there are. /said has what they say.
const oneIDDockerfile = `
USER root
ADD owned.tar /added/
RUN mkdir /say && cd /say && echo 1 >rel && chown 21:22 rel && chown 23 ./rel ../say && chown :24 rel && ln -s rel link && chown 25 link && \
    mkdir sub && echo 2 >sub/x && chown -R 26:27 sub && ln -s / root && chown 28 root/say/sub/x
RUN set -x; exec >>/said 2>&1; id -u; id -G; su joe -c id; su joe -c 'id -u; chown 5 /f; echo $?' ; id -u
RUN chroot /dir sh -c true; mkdir -p /jail/bin && cp /bin/busybox /jail/bin/ && echo j >/jail/f && chroot /jail /bin/busybox chown 31:32 /f && \
    chroot /jail /bin/busybox chown 33 /missing; echo $? >>/said
RUN echo 5 >/setuid && chmod 4755 /setuid && chown 41:42 /setuid && cp -a /setuid /copied && mv /setuid /moved && rm /copied
USER joe:joe
RUN stat -c '%u:%g %n' /f /say/sub/x /home/joe mine 2>&1 | tee -a /home/joe/mine; ls -ln /say | awk '{print $3,$4,$9}' >>/home/joe/mine
RUN cd /home/joe && mkdir new && echo 1 >new/file && echo 2 >>mine && chown 1 new/file || echo refused >>mine
`

// TestRootlessUserNS runs containers of an ordinary user in user namespaces of
// their own: with the user under its own number, and without it. There is no
// showing of owners then: the image is unpacked once more, as the ids are.
func TestRootlessUserNS(t *testing.T) {
	u := newUser(t, true)
	u.importBase()
	u.write("Dockerfile", ownersDockerfile)
	u.write("file", "data\n")
	if err := os.Chown(filepath.Join(u.dir, "Dockerfile"), testUser, testUser); err != nil {
		t.Fatal(err)
	}
	u.ok("build", "-q", "-t", "owners", ".")
	t.Cleanup(func() { u.run("rm", "-f", "-a") })
	// All owners in the image, as a tar of each container has them.
	owners := func(flags ...string) (out string) {
		u.ok(append(append([]string{"create", "--name", "xx"}, flags...), "owners", "true")...)
		tr := tar.NewReader(strings.NewReader(u.ok("export", "xx")))
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			out += fmt.Sprintf("%s %o %d:%d\n", h.Name, h.Mode, h.Uid, h.Gid)
		}
		u.ok("rm", "xx")
		return out
	}
	want := owners()
	if !strings.Contains(want, "home/joe/ 700 1234:1234\n") || !strings.Contains(want, "d/file 6711 33:44\n") {
		t.Fatalf("without a namespace of its own it has\n%s", want)
	}
	for _, flags := range [][]string{{"--userns", "keep-id"}, {"--userns", "nomap"}, {"--userns", "keep-id:uid=33,gid=44"}, {"--uidmap", "0:100:65000", "--uidmap", "65535:99:1", "-u", "0"}} {
		if got := owners(flags...); got != want {
			t.Errorf("with %q it has\n%s\nwant\n%s", flags, got, want)
		}
	}

	if out := u.ok("run", "--rm", "--userns", "keep-id", "-v", "vol:/w", "--pull", "never", "owners", "sh", "-c", "id -u; stat -c %u:%g /d/file /w /w/a; echo x > /dev/stdout"); out != "1234\n33:44\n0:0\n0:0\nx\n" {
		t.Errorf("the image's user says %q", out)
	}
	u.ok("volume", "rm", "vol")

	// The user has its name there, once, if the image has the files to say so.
	u.write("Dockerfile", "FROM test/base\nRUN printf 'root:x:0:0::/root:/bin/sh' > /etc/passwd; echo root:x:0: > /etc/group\n")
	u.ok("build", "-t", "named", ".")
	const who = "id -un; id -gn; echo $HOME; grep -c ordinary /etc/passwd /etc/group"
	want = "ordinary\nordinary\n/srv\n/etc/passwd:1\n/etc/group:1\n"
	if out := u.ok("run", "--name", "who", "--userns", "keep-id", "-w", "/srv", "named", "sh", "-c", who); out != want {
		t.Errorf("the user is\n%s", out)
	}
	if out := u.ok("start", "-a", "who"); out != want {
		t.Errorf("at the next start the user is\n%s", out)
	}
	u.ok("rm", "who")
	for _, tc := range []struct{ flags, want string }{
		{"--userns keep-id:uid=33,gid=44", "ordinary\nordinary\n/\n/etc/passwd:1\n/etc/group:1\n"},
		{"--userns keep-id --read-only", "1234\n1234\n/\n/etc/passwd:0\n/etc/group:0\n"},
		{"--userns keep-id --user 7", "7\nroot\n/\n/etc/passwd:0\n/etc/group:0\n"},
	} {
		want := strings.ReplaceAll(tc.want, "1234", strconv.Itoa(testUser))
		if r := u.run(append(append([]string{"run", "--rm"}, strings.Fields(tc.flags)...), "named", "sh", "-c", who)...); r.stdout != want {
			t.Errorf("run %s: %+v", tc.flags, r)
		}
	}
	u.ok("rmi", "named")

	// The image says nothing about the user: it is this one.
	u.ok("run", "-d", "--name", "kept", "--userns", "keep-id", "-v", "vol:/root", "-v", u.dir+":/here", "--pull", "never", "test/base", "sh", "-c",
		"id -u; stat -c %u:%g /bin /here/Dockerfile; echo mine > /here/mine; echo x > /dev/stdout; exec sleep 1000")
	waitFor(t, "the output", func() bool { return strings.HasSuffix(u.ok("logs", "kept"), "x\n") })
	if out := u.ok("logs", "kept"); out != "4242\n0:0\n4242:4242\nx\n" {
		t.Errorf("the user says %q", out)
	}
	if st, err := os.Stat(filepath.Join(u.dir, "mine")); err != nil || st.Sys().(*syscall.Stat_t).Uid != testUser {
		t.Errorf("on the machine the user's file is not its own: %v %v", st, err)
	}
	if out := u.ok("exec", "-u", "0", "kept", "sh", "-c", "id -u; echo r > /root/r; chown 5:6 /root/r; echo n > /new; chown 7:8 /new; stat -c %u:%g /root/r"); out != "0\n5:6\n" {
		t.Errorf("root says %q", out)
	}
	u.ok("cp", "kept:/new", "new")
	u.ok("cp", "Dockerfile", "kept:/in")
	if out := u.ok("exec", "kept", "stat", "-c", "%u:%g", "/in", "/new"); out != "0:0\n7:8\n" {
		t.Errorf("what was copied in is %q", out)
	}
	u.ok("commit", "--pause=false", "kept", "committed")
	if out := u.ok("run", "--rm", "--pull", "never", "-u", "0", "committed", "stat", "-c", "%u:%g", "/new", "/in", "/bin"); out != "7:8\n0:0\n0:0\n" {
		t.Errorf("in the image they are %q", out)
	}
	u.ok("stop", "-t", "0", "kept")
	u.ok("cp", "Dockerfile", "kept:/stopped")
	if o := ownerInTar(t, u.ok("export", "kept"), "stopped"); o != "0:0" {
		t.Errorf("what was copied in while it was stopped is %s's", o)
	}
	if out := u.ok("run", "--rm", "--pull", "never", "--userns", "nomap", "-v", u.dir+":/here", "test/base", "stat", "-c", "%u:%g", "/here/Dockerfile", "/bin"); out != "65534:65534\n0:0\n" {
		t.Errorf("without the user its files are %q", out)
	}
	u.fails(125, []string{"auto needs the machine's root"}, "run", "--rm", "--userns", "auto", "test/base", "true")
	u.fails(125, []string{"only the machine's root may do that"}, "run", "--rm", "--pull", "never", "--userns", "keep-id", "-v", u.dir+":/here:idmap", "test/base", "true")

	// Nothing stays of the images.
	u.ok("rm", "-f", "-v", "-a")
	u.ok("rmi", "-f", "committed", "owners", "test/base")
	u.ok("prune", "-a", "-f")
	if entries, err := os.ReadDir(filepath.Join(u.root, "chains")); err != nil || len(entries) != 0 {
		t.Errorf("chains are left: %v (%v)", entries, err)
	}
}

// TestOneIDUserNS has no ids for another namespace.
func TestOneIDUserNS(t *testing.T) {
	u := newUser(t, false)
	u.importBase()
	for _, mode := range []string{"keep-id", "nomap"} {
		u.fails(125, []string{"this needs subordinate ids", "builder doctor"}, "run", "--rm", "--pull", "never", "--userns", mode, "test/base", "true")
	}
}
