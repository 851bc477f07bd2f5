// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"builder/internal/testutil"
	"builder/mount"
)

func TestIDMap(t *testing.T) {
	m := IDMap{
		UIDs: []IDRange{{0, 100000, 1000}, {1000, 0, 1}, {2000, 200000, 10}},
		GIDs: []IDRange{{0, 300000, 4294967295 - 300000}},
	}
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[uint32]uint32{0: 100000, 999: 100999, 1000: 0, 2009: 200009} {
		if got, ok := m.UID(id); got != want || !ok {
			t.Errorf("user %d is %d %v outside", id, got, ok)
		}
		if got, ok := m.Inside().UID(want); got != id || !ok {
			t.Errorf("user %d is %d %v inside", want, got, ok)
		}
	}
	for _, id := range []uint32{1001, 1999, 2010, 4294967295} {
		if got, ok := m.UID(id); ok {
			t.Errorf("user %d is %d outside", id, got)
		}
	}
	if got, ok := (IDMap{}).GID(7); got != 7 || !ok {
		t.Errorf("without a map group 7 is %d %v", got, ok)
	}
	one := []IDRange{{0, 1, 1}}
	for _, bad := range [][]IDRange{
		nil, {{1, 1, 1}}, {{0, 0, 0}}, {{0, 1, 4294967295}}, {{1, 0, 4294967295}},
		{{0, 10, 5}, {4, 20, 1}}, {{0, 10, 5}, {5, 14, 1}}, {{0, 10, 5}, {7, 8, 3}},
	} {
		for _, m := range []IDMap{{UIDs: bad, GIDs: one}, {UIDs: one, GIDs: bad}} {
			if m.Check() == nil {
				t.Errorf("%v is taken", m)
			}
		}
	}
}

// testIDs are the ids of the containers in the tests.
var testIDs = IDMap{UIDs: []IDRange{{0, 1500000000, 2000}}, GIDs: []IDRange{{0, 1600000000, 2000}}}

// mappedSpec is newSpec in a user namespace.
func mappedSpec(t testing.TB, args ...string) (spec Spec, upper string) {
	t.Helper()
	testutil.Require(t, "root")
	ns, net, err := NewUserNamespace(testIDs, nil)
	must(t, err)
	t.Cleanup(func() { ns.File.Close(); net.Close() })
	dir := t.TempDir()
	upper = filepath.Join(dir, "upper")
	must(t, os.Mkdir(upper, 0o755))
	must(t, os.Mkdir(filepath.Join(dir, "work"), 0o755))
	lower := image(t)
	must(t, os.Chmod(filepath.Join(lower, "tmp"), 0o777))
	root, err := mount.Overlay{Lower: []string{lower}, Upper: upper, Work: filepath.Join(dir, "work"), Volatile: true, UserNS: ns}.Open()
	must(t, err)
	t.Cleanup(func() { root.Close() })
	return Spec{
		ID: uniqueID(), Root: root, IDs: testIDs, UserNS: ns, Network: NetworkNone, NetNS: net,
		Args: append([]string{"/bin/helper"}, args...),
	}, upper
}

func ownerOf(t testing.TB, name string) string {
	t.Helper()
	var st syscall.Stat_t
	must(t, syscall.Lstat(name, &st))
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

// TestUserNamespace runs a container in a namespace of its own: it is root
// there, owns the image's files, and what it makes is root's on disk; outside
// its processes are somebody whom nothing belongs to.
func TestUserNamespace(t *testing.T) {
	h, err := theHost()
	must(t, err)
	run := runner{h, bestCarrier}
	spec, upper := mappedSpec(t, "cat", "/proc/self/uid_map", ";", "cat", "/proc/self/gid_map", ";",
		"id", ";", "stat", "/etc/passwd", ";", "stat", "/dev/null", ";", "stat", "/etc/hosts", ";", "stat", "/t", ";",
		"touch", "/new", ";", "rm", "/etc/group", ";", "mkdir", "/data/dir", ";", "write", "/dev/stdout", "again\n")
	spec.Mounts = []mount.Mount{{Type: mount.Tmpfs, Target: "/t", Mode: 0o700, UID: 7, GID: 8}}
	got := strings.Join(strings.Fields(run.ok(t, spec)), " ")
	want := "0 1500000000 2000 0 1600000000 2000 0 0 [0 10] 100644 0 0 0 20666 0 0 259 100644 0 0 0 40700 7 8 0 again"
	if got != want {
		t.Errorf("the container says\n%s, want\n%s", got, want)
	}
	for _, name := range []string{"new", "data/dir", "etc/group"} {
		if o := ownerOf(t, filepath.Join(upper, name)); o != "0:0" {
			t.Errorf("%s is %s's on disk", name, o)
		}
	}
	if _, err := os.Lstat(filepath.Join(upper, "t")); err == nil {
		t.Error("the mount point was left")
	}

	spec, upper = mappedSpec(t, "id", ";", "touch", "/tmp/ada", ";", "write", "/dev/stdout", "again\n", ";", "cat", "/proc/self/status")
	spec.User = "ada"
	out := run.ok(t, spec)
	if first, _, _ := strings.Cut(out, "Name:"); first != "1000 1001 [10 63 1001]\nagain\n" {
		t.Errorf("another user says %q", first)
	}
	if caps := field(out, "CapEff") + field(out, "CapPrm"); caps != "00000000000000000000000000000000" {
		t.Errorf("another user has capabilities %s", caps)
	}
	if o := ownerOf(t, filepath.Join(upper, "tmp/ada")); o != "1000:1001" {
		t.Errorf("another user's file is %s's on disk", o)
	}

	spec, _ = mappedSpec(t, "id")
	spec.User = "5000"
	if _, err := run.output(t, spec); err == nil || !strings.Contains(err.Error(), "user 5000 is none of the container's user namespace") {
		t.Errorf("a user that there isn't: %v", err)
	}
	spec, _ = mappedSpec(t, "id")
	spec.UserNS = nil
	if _, err := run.output(t, spec); err == nil {
		t.Error("a map without a namespace is taken")
	}
}

// TestUserNamespaceOutside looks at a container's processes from outside, and at
// one that enters it.
func TestUserNamespaceOutside(t *testing.T) {
	spec, _ := mappedSpec(t, "echo", "ready", ";", "sleep", "100000")
	_, target := startTarget(t, spec)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", target.Pid))
	must(t, err)
	if got := strings.Fields(field(string(status), "Uid"))[0] + " " + strings.Fields(field(string(status), "Gid"))[0]; got != "1500000000 1600000000" {
		t.Errorf("its process is %s outside", got)
	}
	target.Spec.UserNS = nil // as another process has the Spec
	out, err := execOutput(t, target, ExecSpec{Args: []string{"id", ";", "cat", "/proc/self/uid_map", ";", "touch", "/tmp/more", ";", "stat", "/tmp/more", ";", "cat", "/proc/self/status"}})
	must(t, err)
	if got := strings.Join(strings.Fields(out)[:11], " "); got != "0 0 [0 10] 0 1500000000 2000 100644 0 0 0" {
		t.Errorf("a process that enters says %s", got)
	}
	if caps := field(out, "CapEff") + field(out, "CapBnd"); caps != "00000000a80425fb00000000a80425fb" {
		t.Errorf("a process that enters has capabilities %s", caps)
	}
	out, err = execOutput(t, target, ExecSpec{Args: []string{"id"}, User: "ada"})
	if err != nil || out != "1000 1001 [10 63 1001]\n" {
		t.Errorf("another user that enters: %q (%v)", out, err)
	}
	if _, err := execOutput(t, target, ExecSpec{Args: []string{"id"}, User: "4000"}); err == nil {
		t.Error("a user that there isn't enters")
	}
	ns, err := OpenNamespace(target.Pid, target.Start, "user")
	must(t, err)
	defer ns.Close()
	again, net, err := NewUserNamespace(testIDs, ns)
	must(t, err)
	defer again.File.Close()
	defer net.Close()
	one, err := ns.Stat()
	must(t, err)
	two, err := again.File.Stat()
	must(t, err)
	if !os.SameFile(one, two) {
		t.Error("the namespace that is there is not the one that is taken")
	}
}

// TestUserNamespaceMounts has files of the machine in a container: as they are
// they are nobody's, and with owners mapped they are the container's. The guard
// is that nothing is mapped that isn't to be.
func TestUserNamespaceMounts(t *testing.T) {
	h, err := theHost()
	must(t, err)
	run := runner{h, bestCarrier}
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("x"), 0o600))
	must(t, os.Chmod(dir, 0o755))
	for mapped, want := range map[bool]string{
		false: "100600 65534 65534 0\n/m/secret EACCES\n/m/secret EACCES\n/m/new EACCES\n",
		true:  "100600 0 0 0\n/m/secret ok\n/m/secret ok\n/m/new ok\n",
	} {
		spec, _ := mappedSpec(t, "stat", "/m/secret", ";", "try", "r", "/m/secret", ";", "try", "w", "/m/secret", ";", "try", "c", "/m/new")
		spec.Mounts = []mount.Mount{{Type: mount.Bind, Source: dir, Target: "/m", MapOwners: mapped}}
		if got := run.ok(t, spec); got != want {
			t.Errorf("mapped %v: %q, want %q", mapped, got, want)
		}
	}
	if o := ownerOf(t, filepath.Join(dir, "new")); o != "0:0" {
		t.Errorf("the new file is %s's", o)
	}
	spec, _ := mappedSpec(t, "id")
	spec.Mounts = []mount.Mount{{Type: mount.Bind, Source: "/proc/sys", Target: "/m", MapOwners: true}}
	if _, err := run.output(t, spec); err == nil || !strings.Contains(err.Error(), "the file system can't do that") {
		t.Errorf("owners of procfs: %v", err)
	}
}

// TestUserNamespaceMayMount gives a container the right to mount, which holds for
// its own mounts alone: what hides something from it stays.
func TestUserNamespaceMayMount(t *testing.T) {
	h, err := theHost()
	must(t, err)
	run := runner{h, bestCarrier}
	for _, caps := range [][]string{nil, {"SYS_ADMIN"}} {
		spec, _ := mappedSpec(t, "mount", "tmpfs", "/tmp", ";", "umount", "/proc/sys", ";", "umount", "/proc/keys", ";", "remount", "/proc/sys")
		spec.CapAdd = caps
		want := "EPERM EPERM EPERM EPERM"
		if caps != nil {
			want = "ok EINVAL EINVAL EPERM"
		}
		if got := strings.Join(strings.Fields(run.ok(t, spec)), " "); got != want {
			t.Errorf("with %v: %s, want %s", caps, got, want)
		}
	}
}

// TestUserNamespaceStreams has another user than the caller's files' owner open
// them anew.
func TestUserNamespaceStreams(t *testing.T) {
	h, err := theHost()
	must(t, err)
	run := runner{h, bestCarrier}
	for _, user := range []string{"", "ada"} {
		spec, _ := mappedSpec(t, "cat", "/dev/stdin", ";", "write", "/dev/stdout", "out\n")
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "in"), []byte("in\n"), 0o600))
		in, err := os.Open(filepath.Join(dir, "in"))
		must(t, err)
		defer in.Close()
		out, err := os.OpenFile(filepath.Join(dir, "out"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		must(t, err)
		defer out.Close()
		spec.User, spec.Stdin, spec.Stdout = user, in, out
		p, err := run.start(context.Background(), spec)
		must(t, err)
		must(t, p.Wait())
		if text, err := os.ReadFile(filepath.Join(dir, "out")); err != nil || string(text) != "in\nout\n" {
			t.Errorf("user %q: %q (%v)", user, text, err)
		}
	}
}
