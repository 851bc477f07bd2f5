// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"builder/container"
)

// TestUserNS runs containers in user namespaces of their own with all that may
// see an owner: files of image, volumes and the machine, cp, diff, export and
// commit, processes that come later, other containers in the same namespace.
func TestUserNS(t *testing.T) {
	w := newBench(t)
	t.Cleanup(func() { w.run("rm", "-f", "-a") })
	w.write("in", "in\n")
	if err := os.Chown(filepath.Join(w.dir, "in"), 5, 6); err != nil {
		t.Fatal(err)
	}
	script := "echo out; echo more > /dev/stdout; echo x > /made; chown 33:34 /made; echo v > /v/file; chown 7:8 /v/file; exec sleep 1000"
	for _, name := range []string{"one", "two"} {
		w.ok("run", "-d", "--name", name, "--userns", "auto", "--network", "none", "-v", name+":/v", "test/base", "sh", "-c", script)
		waitFor(t, "the files", func() bool { return w.run("exec", name, "stat", "-c", "%u:%g", "/v/file").stdout == "7:8\n" })
	}
	if out := w.ok("logs", "one"); out != "out\nmore\n" {
		t.Errorf("it wrote %q", out)
	}
	maps := strings.Fields(w.ok("inspect", "-f", "{{index .HostConfig.IDMappings.UidMap 0}} {{index .HostConfig.IDMappings.GidMap 0}} {{.HostConfig.UsernsMode}}", "one", "two"))
	if len(maps) != 6 || maps[0] != maps[1] || maps[0] == maps[3] || maps[2] != "auto" {
		t.Errorf("the containers have ids %v", maps)
	}
	_, rest, _ := strings.Cut(maps[0], ":")
	base, _, _ := strings.Cut(rest, ":")
	pid := strconv.Itoa(readState(t, w, "one").Pid)
	if st, err := os.Stat("/proc/" + pid); err != nil || fmt.Sprint(st.Sys().(*syscall.Stat_t).Uid) != base {
		t.Errorf("its process is not %s's", base)
	}
	owner := func(name string) string {
		t.Helper()
		var st syscall.Stat_t
		if err := syscall.Lstat(name, &st); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
	}
	if o := owner(filepath.Join(w.root, "volumes", "one", "_data", "file")); o != "7:8" {
		t.Errorf("the volume's file is %s's on disk", o)
	}
	if out := w.ok("run", "--rm", "--network", "none", "-v", "one:/v", "test/base", "stat", "-c", "%u:%g", "/v/file"); out != "7:8\n" {
		t.Errorf("another container sees the volume's file as %s's", out)
	}

	w.ok("cp", "in", "one:/in")
	w.ok("cp", "-a", "in", "one:/in-a")
	w.ok("cp", "one:/made", "two:/from-one")
	w.ok("cp", "-a", "one:/made", "two:/from-one-a")
	if out := w.ok("exec", "one", "stat", "-c", "%u:%g", "/in", "/in-a"); out != "0:0\n5:6\n" {
		t.Errorf("copied in they are %q", out)
	}
	if out := w.ok("exec", "two", "stat", "-c", "%u:%g", "/from-one", "/from-one-a"); out != "0:0\n33:34\n" {
		t.Errorf("copied over they are %q", out)
	}
	w.ok("cp", "one:/made", "out")
	w.ok("cp", "-a", "one:/made", "out-a")
	if o, a := owner(filepath.Join(w.dir, "out")), owner(filepath.Join(w.dir, "out-a")); o != "0:0" || a != "33:34" {
		t.Errorf("copied out they are %s and %s", o, a)
	}
	for _, tc := range []struct {
		args []string
		name string
	}{{[]string{"cp", "one:/made", "-"}, "made"}, {[]string{"export", "one"}, "made"}} {
		if o := ownerInTar(t, w.ok(tc.args...), tc.name); o != "33:34" {
			t.Errorf("%v: it is %s's", tc.args, o)
		}
	}
	if out := w.ok("diff", "one"); !strings.Contains(out, "A /made\n") {
		t.Errorf("diff says\n%s", out)
	}
	w.ok("commit", "one", "committed")
	if out := w.ok("run", "--rm", "--network", "none", "committed", "stat", "-c", "%u:%g", "/made", "/in-a", "/bin"); out != "33:34\n5:6\n0:0\n" {
		t.Errorf("in the image they are %q", out)
	}

	if out := w.ok("exec", "-u", "1000", "one", "sh", "-c", "id -u; cat /proc/self/uid_map"); strings.Join(strings.Fields(out), ":") != "1000:"+maps[0] {
		t.Errorf("a process that comes later says %q", out)
	}
	own := w.ok("exec", "one", "readlink", "/proc/self/ns/user")
	if out := w.ok("run", "--rm", "--userns", "container:one", "--network", "none", "test/base", "readlink", "/proc/self/ns/user"); out != own {
		t.Errorf("in its namespace is %s, want %s", out, own)
	}
	w.ok("restart", "-t", "0", "one")
	if out := w.ok("exec", "one", "cat", "/proc/self/uid_map"); strings.Join(strings.Fields(out), ":") != maps[0] {
		t.Errorf("started again it has the ids %q", out)
	}
	w.ok("stop", "-t", "0", "one")
	w.ok("cp", "-a", "in", "one:/stopped")
	w.ok("start", "one")
	if out := w.ok("exec", "one", "stat", "-c", "%u:%g", "/stopped"); out != "5:6\n" {
		t.Errorf("copied in while it was stopped it is %q", out)
	}
}

func ownerInTar(t *testing.T, data, name string) string {
	t.Helper()
	tr := tar.NewReader(strings.NewReader(data))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return "not there"
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == name {
			return fmt.Sprintf("%d:%d", h.Uid, h.Gid)
		}
	}
}

// TestUserNSReach gives containers what root of the machine could use: in a user
// namespace it is of no use, without one it is. The guard is the namespace.
func TestUserNSReach(t *testing.T) {
	w := newBench(t)
	fresh := func() {
		w.write("secret", "secret\n")
		for name, mode := range map[string]os.FileMode{"secret": 0o600, ".": 0o755} {
			if err := os.Chmod(filepath.Join(w.dir, name), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	script := `cat /m/secret; touch /m/made && echo made; chmod 4755 /m/secret && echo chmod; kill -0 $PID && echo kill; ls /proc/$PID/root >/dev/null && echo root; true`
	for flags, want := range map[string]string{
		"--userns host":    "secret\nmade\nchmod\nkill\n",
		"--userns auto":    "",
		"--userns keep-id": "secret\nmade\nchmod\nkill\n", // the machine's root it is there, without rights over others
	} {
		fresh()
		args := append([]string{"run", "--rm", "--network", "none", "--pid", "host", "-e", "PID=" + strconv.Itoa(os.Getpid()), "-v", w.dir + ":/m"}, strings.Fields(flags)...)
		if out := w.ok(append(args, "test/base", "sh", "-c", script)...); out != want {
			t.Errorf("with %s: %q, want %q", flags, out, want)
		}
	}
	fresh()
	// What the user asks for is the container's, by what it is on disk.
	out := w.ok("run", "--rm", "--network", "none", "--userns", "auto", "-v", w.dir+":/m:idmap", "test/base", "sh", "-c", "cat /m/secret; touch /m/mine")
	if st, err := os.Stat(filepath.Join(w.dir, "mine")); err != nil || st.Sys().(*syscall.Stat_t).Uid != 0 || out != "secret\n" {
		t.Errorf("with idmap it reads %q, and made %v (%v)", out, st, err)
	}
}

// TestUserNSFlags takes what there is and refuses the rest.
func TestUserNSFlags(t *testing.T) {
	w := newBench(t)
	show := []string{"test/base", "sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' \\n' ' '"}
	for flags, want := range map[string]string{
		"--uidmap 0:700000:5000 --uidmap 5000:800000:10":  " 0 700000 5000 5000 800000 10 0 700000 5000 5000 800000 10 ",
		"--userns private --uidmap 0:7:8 --gidmap 0:9:10": " 0 7 8 0 9 10 ",
		"--userns keep-id":                                  " 0 0 4294967295 0 0 4294967295 ",
		"--userns auto:size=10,uidmapping=3:77:2":           " 3 77 2 0 1073741824 3 5 1073741827 5 0 1073741824 10 ",
		"--userns auto:size=7,gidmapping=0:1073741824:1":    " 0 1073741825 7 0 1073741824 1 1 1073741825 6 ",
		"--userns host --security-opt no-new-privileges":    " 0 0 4294967295 0 0 4294967295 ",
		"--userns auto:size=9 --cap-drop ALL --init":        " 0 1073741824 9 0 1073741824 9 ",
		"--userns auto:size=9 --privileged --cgroupns host": " 0 1073741824 9 0 1073741824 9 ",
	} {
		r := w.run(append(append([]string{"run", "--rm", "--network", "none"}, strings.Fields(flags)...), show...)...)
		if r.code != 0 || r.stdout != want {
			t.Errorf("%s: %d %q, want %q\n%s", flags, r.code, r.stdout, want, r.stderr)
		}
	}
	for flags, word := range map[string]string{
		"--userns mine":                            "there are host, auto, keep-id",
		"--userns nomap":                           "this is for ordinary users",
		"--userns keep-id:size=3":                  "unknown option",
		"--userns private:x":                       "private has no options",
		"--userns private":                         "needs --uidmap",
		"--userns keep-id:uid=3":                   "this is for ordinary users",
		"--userns auto:pages=3":                    "unknown option",
		"--userns auto:size=x":                     "no number",
		"--userns auto:size=2000000000":            "there are not 2000000000 ids left",
		"--userns auto --uidmap 0:1:1":             "goes with none of",
		"--uidmap 1:1:1":                           "user id 0 is not one",
		"--uidmap 0:1:1 --gidmap 1:1:1":            "group id 0 is not one",
		"--uidmap 0:1:x":                           "is no number",
		"--uidmap 0":                               "want INSIDE:OUTSIDE:SIZE",
		"--uidmap 0:4294967295:1":                  "there are none such",
		"--uidmap 0:5:2 --uidmap 1:9:1":            "overlap",
		"--subuidname nobody-has-this":             "/etc/subuid has no ids of nobody-has-this",
		"--userns container:ghost":                 "no such container",
		"--uidmap 0:700000:10 --user 20":           "user 20 is none of the container's user namespace",
		"--uidmap 0:700000:10 --tmpfs /x:uid=20":   "owner 20:0 is none",
		"--userns host:x":                          "host has no options",
		"--gidmap 0:1:x":                           "--gidmap",
		"--uidmap 0:700000:10 --group-add 4000000": "group 4000000 is none",
	} {
		w.fails(125, []string{word}, append(append([]string{"run", "--rm", "--network", "none"}, strings.Fields(flags)...), show...)...)
	}
	if out := w.ok("ps", "-aq"); out != "" {
		t.Errorf("containers are left: %s", out)
	}
}

func TestAutoIDs(t *testing.T) {
	pool := []container.IDRange{{Outside: 100, Size: 10}, {Outside: 200, Size: 10}}
	ranges := func(text string) (out []container.IDRange) {
		for word := range strings.FieldsSeq(text) {
			r, err := parseIDRange(word)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, r)
		}
		return out
	}
	for _, tc := range []struct {
		size         uint32
		fixed, taken string
		want         string // "" if there are too few
	}{
		{10, "", "", "0:100:10"},
		{15, "", "", "0:100:10 10:200:5"},
		{10, "", "0:104:2", "0:100:4 4:106:4 8:200:2"},
		{4, "", "0:90:20", "0:200:4"},
		{4, "", "0:95:6", "0:101:4"},
		{4, "1:7:1", "", "1:7:1 0:100:1 2:101:2"},
		{4, "9:7:1", "", "9:7:1 0:100:4"},
		{4, "3:7:5", "", "3:7:5 0:100:3"},
		{20, "", "", "0:100:10 10:200:10"},
		{21, "", "", ""},
		{1, "", "0:0:500", ""},
	} {
		got, err := autoIDs{size: tc.size}.fill(ranges(tc.fixed), pool, ranges(tc.taken))
		if !reflect.DeepEqual(got, ranges(tc.want)) || (err == nil) != (tc.want != "") {
			t.Errorf("%d ids with %v fixed and %v taken: %v (%v), want %v", tc.size, tc.fixed, tc.taken, got, err, tc.want)
		}
	}
	if pool[0].Outside != 100 || pool[0].Size != 10 {
		t.Error("the pool was changed")
	}
}

// TestUserNSMounts has mounts that belong to the machine, to the container and to
// both, and paths inside of them that are made.
func TestUserNSMounts(t *testing.T) {
	w := newBench(t)
	t.Cleanup(func() { w.run("rm", "-f", "-a") })
	owner := func(name string) string {
		t.Helper()
		var st syscall.Stat_t
		if err := syscall.Lstat(filepath.Join(w.dir, name), &st); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
	}
	for _, d := range []string{"machine", "volume"} {
		if err := os.Mkdir(filepath.Join(w.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// A volume that is a directory of the machine is shown as that.
	w.ok("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device="+filepath.Join(w.dir, "volume"), "outer")
	run := func(args ...string) string {
		t.Helper()
		return w.ok(append([]string{"run", "--rm", "--userns", "auto", "--network", "none"}, args...)...)
	}
	if out := run("-v", "outer:/v", "test/base", "sh", "-c", "stat -c %u /v; touch /v/x || echo no"); out != "65534\nno\n" {
		t.Errorf("a volume that is a directory of the machine: %q", out)
	}
	if out := run("-v", "outer:/v:idmap", "test/base", "sh", "-c", "stat -c %u /v; touch /v/x || echo no"); out != "0\n" || owner("volume/x") != "0:0" {
		t.Errorf("with idmap: %q", out)
	}
	// A working directory is made by the container's root.
	for _, m := range []string{"-v vol:/data", "--tmpfs /data", "-v " + filepath.Join(w.dir, "machine") + ":/data:idmap"} {
		if out := run(append(strings.Fields(m), "-w", "/data/sub/dir", "test/base", "sh", "-c", "pwd; stat -c %u . ; touch x")...); out != "/data/sub/dir\n0\n" {
			t.Errorf("in %s it is %q", m, out)
		}
	}
	if r := w.run("run", "--rm", "--userns", "auto", "--network", "none", "-v", filepath.Join(w.dir, "machine")+":/data", "-w", "/data/other", "test/base", "true"); r.code == 0 {
		t.Error("a working directory is made in a directory of the machine")
	}
	// A mount point in a directory of the machine is the machine's.
	run("-v", filepath.Join(w.dir, "machine")+":/m", "--tmpfs", "/m/a/b", "test/base", "true")
	if o := owner("machine/a"); o != "0:0" {
		t.Errorf("a mount point in a directory of the machine is %s's", o)
	}
	// A container that has the machine's root takes no ids from others.
	w.ok("create", "--userns", "keep-id", "test/base", "true")
	run("test/base", "true")
	// A directory of the machine looks the same to cp, whether it runs or not.
	w.write("file", "x\n")
	w.ok("run", "-d", "--name", "cc", "--userns", "auto", "--network", "none", "-v", filepath.Join(w.dir, "machine")+":/m", "test/base", "sleep", "1000")
	w.ok("cp", "file", "cc:/m/running")
	w.ok("stop", "-t", "0", "cc")
	w.ok("cp", "file", "cc:/m/stopped")
	if a, b := owner("machine/running"), owner("machine/stopped"); a != b || strings.HasPrefix(a, "0:") {
		t.Errorf("copied while it runs it is %s's, else %s's", a, b)
	}
	// What belongs to nobody there is shown so.
	if out := run("--device", "/dev/null:/dev/own", "test/base", "stat", "-c", "%u", "/dev/own"); out != "0\n" {
		t.Errorf("a device is %q", out)
	}
	// Both streams go to one file in order.
	w.write("Dockerfile", "FROM test/base\n")
	log, err := os.OpenFile(filepath.Join(w.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := w.command("run", "--rm", "-u", "1000", "--network", "none", "test/base", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do echo o$i; echo e$i >&2; done; echo end > /dev/stdout")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(log.Name()); err != nil || string(text) != "o1\ne1\no2\ne2\no3\ne3\no4\ne4\no5\ne5\no6\ne6\no7\ne7\no8\ne8\no9\ne9\nend\n" {
		t.Errorf("the file has %q (%v)", text, err)
	}
}
