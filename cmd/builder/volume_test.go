// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// volumeBench has an image with a directory of others' files at /data, which is
// a VOLUME of the image test/volume as /anon is.
func volumeBench(t *testing.T) *workbench {
	t.Helper()
	w := newLifeBench(t)
	w.write("Dockerfile", `FROM test/base AS data
RUN mkdir -p /data/sub /anon && echo one > /data/one && echo two > /data/sub/two && ln -s one /data/link && ln /data/one /data/hard && \
    chown -R 1000:50 /data && chmod 2770 /data && chmod 4711 /data/one && mkfifo /data/pipe && touch -d @981158400 /data/one && echo anon > /anon/file
FROM data
VOLUME /data
VOLUME /anon
`)
	w.ok("build", "-q", "-t", "test/volume", ".")
	w.ok("build", "-q", "-t", "test/data", "--target", "data", ".")
	return w
}

// TestVolumeCommands makes, lists, shows and removes volumes.
func TestVolumeCommands(t *testing.T) {
	w := volumeBench(t)
	if got := w.ok("volume", "create", "one"); got != "one\n" {
		t.Errorf("create prints %q", got)
	}
	w.ok("volume", "create", "--label", "a=b", "--label", "c", "--name", "two")
	w.ok("volume", "create", "one") // it is there
	anonymous := strings.TrimSpace(w.ok("volume", "create"))
	if len(anonymous) != 64 {
		t.Errorf("a name is made up as %q", anonymous)
	}
	w.ok("create", "--name", "user", "-v", "one:/one", "test/base", "true")
	for filters, want := range map[string]string{
		"": anonymous + " one two", "name=o": "one two", "name=^o": "one", "label=a": "two", "label=a=b": "two", "label=a=x": "", "label!=a": anonymous + " one",
		"dangling=true": anonymous + " two", "dangling=false": "one", "driver=local": anonymous + " one two", "driver=nfs": "",
		"label=a dangling=true": "two",
	} {
		args := []string{"volume", "ls", "-q"}
		for _, f := range strings.Fields(filters) {
			args = append(args, "--filter", f)
		}
		got := strings.Fields(w.ok(args...))
		if filters == "name=o" { // the made up one may have any letters
			got = slices.DeleteFunc(got, func(n string) bool { return n == anonymous })
		}
		slices.Sort(got)
		all := strings.Fields(want)
		slices.Sort(all)
		if !slices.Equal(got, all) {
			t.Errorf("ls %s: %q, want %q", filters, got, all)
		}
	}
	if out := lines(w.ok("volume", "ls", "--filter", "name=^two$")); len(out) != 2 || strings.Join(strings.Fields(out[0]), " ") != "DRIVER VOLUME NAME" || strings.Join(strings.Fields(out[1]), " ") != "local two" {
		t.Errorf("ls: %q", out)
	}
	if out := w.ok("volume", "ls", "--filter", "name=^two$", "--format", "{{.Name}} {{.Driver}} {{.Scope}} {{.Labels}} {{.Label \"a\"}}"); out != "two local local a=b,c= b\n" {
		t.Errorf("ls --format: %q", out)
	}
	dir := strings.TrimSpace(w.ok("volume", "inspect", "-f", "{{.Mountpoint}}", "two"))
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("the directory is %v (%v)", st, err)
	}
	if out := w.ok("volume", "inspect", "-f", "{{.Name}} {{.Driver}} {{.Scope}} {{index .Labels \"a\"}}", "two", "one"); out != "two local local b\none local local \n" {
		t.Errorf("inspect: %q", out)
	}
	r := w.fails(1, []string{"no such volume: ghost"}, "volume", "inspect", "-f", "{{.Name}}", "ghost", "two")
	if r.stdout != "two\n" {
		t.Errorf("inspect shows %q beside one that isn't there", r.stdout)
	}
	for _, bad := range []string{"a", ".hid", "a/b", "-x", "a b"} {
		w.fails(2, nil, "volume", "create", bad)
	}
	w.fails(2, []string{"twice"}, "volume", "create", "--name", "x1", "x2")
	w.fails(2, []string{"nfs"}, "volume", "create", "-d", "nfs", "x1")
	w.fails(2, []string{"not known"}, "volume", "create", "-o", "colour=red", "x1")

	// One in use stays, whoever uses it; the others of the list go.
	r = w.fails(1, []string{"in use: one by container ", "no such volume: ghost"}, "volume", "rm", "one", "ghost", "two")
	if r.stdout != "two\n" {
		t.Errorf("rm says %q", r.stdout)
	}
	w.fails(1, []string{"in use"}, "volume", "rm", "-f", "one")
	w.ok("volume", "rm", "-f", "ghost")
	w.ok("rm", "user")
	w.ok("volume", "rm", "one")
	if _, err := os.Stat(dir); err == nil {
		t.Error("its files stay")
	}

	// Prune takes anonymous ones, and named ones if it is told to.
	w.ok("volume", "create", "--label", "keep", "named")
	w.ok("create", "--name", "user", "test/volume", "true")
	if out := w.ok("volume", "prune", "-f"); !strings.HasPrefix(out, anonymous+"\n\nTotal reclaimed space: ") {
		t.Errorf("prune: %q", out)
	}
	w.ok("volume", "prune", "-af", "--filter", "label!=keep")
	if n := len(strings.Fields(w.ok("volume", "ls", "-q"))); n != 3 {
		t.Errorf("%d volumes are left, want named and two of the container", n)
	}
	w.ok("rm", "user")
	w.ok("volume", "prune", "--all", "-f")
	if out := w.ok("volume", "ls", "-q"); out != "" {
		t.Errorf("left: %q", out)
	}
}

// TestVolumeRemains: prune and volume prune remove what killed commands have left of
// volumes, but not what a container has.
func TestVolumeRemains(t *testing.T) {
	w := newLifeBench(t)
	volumes := filepath.Join(w.root, "volumes")
	w.ok("create", "--name", "user", "-v", "used:/used", "test/base", "true")
	if err := os.Remove(filepath.Join(volumes, "used", "volume.json")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ said, args string }{
		{"volumes/.tmp ", "prune -f"}, {"kB\n", "volume prune -f"}, {"volumes/one ", "prune -af"},
	} {
		for _, dir := range []string{".tmp/XYZ", "one/_data"} {
			if err := os.MkdirAll(filepath.Join(volumes, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(volumes, "one/_data/file"), make([]byte, 70<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		w.checkWhole()
		if out := w.ok(strings.Fields(tc.args)...); !strings.Contains(out, tc.said) || strings.Contains(out, "used") {
			t.Errorf("%s says %s", tc.args, out)
		}
		for name, stays := range map[string]bool{".tmp": false, "one": false, "used/_data": true} {
			if _, err := os.Lstat(filepath.Join(volumes, name)); (err == nil) != stays {
				t.Errorf("%s: %s: %v", tc.args, name, err)
			}
		}
		w.checkWhole()
	}
	w.ok("rm", "user")
	w.ok("prune", "-f")
	if entries, err := os.ReadDir(volumes); err != nil || len(entries) != 1 {
		t.Errorf("there is %v, %v", entries, err)
	}
}

const dataTree = "2770 1000:50 . 4711 1000:50 one 755 1000:50 sub 644 1000:50 two one\n"

// TestVolumeFill fills volumes from the image, with owners, modes, links and times.
func TestVolumeFill(t *testing.T) {
	w := volumeBench(t)
	show := []string{"sh", "-c", "cd /data; set -- $(stat -c '%a %u:%g %n' . one sub sub/two | sed s@sub/@@); echo $* $(cat one); ls -i link hard one | awk '{print $1}' | sort -u | wc -l; readlink link; stat -c %Y one; test -p pipe && echo pipe"}
	want := dataTree + "2\none\n981158400\npipe\n"
	for _, tc := range []struct{ image, flags, want string }{
		{"test/volume", "", want},
		{"test/volume", "-v new1:/data", want},
		{"test/data", "-v /data", want},
		{"test/data", "-v new2:/data", want},
		{"test/data", "-v new2:/data", want}, // it isn't empty: it stays as it is
		{"test/data", "--mount type=volume,src=new3,dst=/data", want},
		{"test/data", "--mount dst=/data", want},
		{"test/data", "-v new4:/data:ro", want},
	} {
		args := append(append([]string{"run", "--rm"}, strings.Fields(tc.flags)...), tc.image)
		if got := w.ok(append(args, show...)...); got != tc.want {
			t.Errorf("%s %s: %q, want %q", tc.image, tc.flags, got, tc.want)
		}
	}
	if got := strings.Fields(w.ok("volume", "ls", "-q")); len(got) != 4 {
		t.Errorf("volumes left: %q", got)
	}
	for _, flags := range []string{"-v empty1:/data:nocopy", "--mount type=volume,src=empty2,dst=/data,volume-nocopy", "-v " + t.TempDir() + ":/data"} {
		if got := w.ok(append(append([]string{"run", "--rm"}, strings.Fields(flags)...), "test/data", "ls", "/data")...); got != "" {
			t.Errorf("%s: it has %q", flags, got)
		}
	}
	// One with files is not filled, and a file of the image fills none.
	w.ok("run", "--rm", "-v", "full:/x", "test/base", "touch", "/x/mine")
	if got := w.ok("run", "--rm", "-v", "full:/data", "test/data", "ls", "/data"); got != "mine\n" {
		t.Errorf("one with files has %q", got)
	}
}

// TestVolumeLife keeps volumes for as long as they are to be kept.
func TestVolumeLife(t *testing.T) {
	w := volumeBench(t)
	count := func() int { return len(strings.Fields(w.ok("volume", "ls", "-q"))) }
	w.ok("run", "--name", "one", "-v", "named:/named", "test/volume", "sh", "-c", "echo kept > /named/f; echo changed > /anon/file")
	if n := count(); n != 3 {
		t.Fatalf("%d volumes, want the named one and the image's two", n)
	}
	// Another one has the same, with --volumes-from, and doesn't take them along.
	out := w.ok("run", "--rm", "--volumes-from", "one", "test/base", "sh", "-c", "cat /named/f /anon/file /data/one")
	if out != "kept\nchanged\none\n" {
		t.Errorf("the second one sees %q", out)
	}
	if out := w.run("run", "--rm", "--volumes-from", "one:ro", "test/base", "touch", "/named/new"); out.code == 0 {
		t.Error("--volumes-from one:ro is writable")
	}
	w.fails(125, []string{"unknown mode"}, "run", "--rm", "--volumes-from", "one:mad", "test/base", "true")
	w.ok("start", "-a", "one")
	w.ok("commit", "one", "test/committed")
	if out := w.ok("run", "--rm", "test/committed", "cat", "/anon/file"); out != "anon\n" {
		t.Errorf("commit has %q of a volume", out)
	}
	w.ok("rm", "one")
	if n := count(); n != 3 {
		t.Errorf("after rm there are %d volumes, want 3", n)
	}
	w.ok("run", "--name", "two", "-v", "named:/named", "test/volume", "true")
	w.ok("rm", "-v", "two")
	if n := count(); n != 3 {
		t.Errorf("after rm -v there are %d volumes, want those of before", n)
	}
	w.ok("run", "--rm", "-v", "named:/named", "-v", "/more", "test/volume", "true")
	if n := count(); n != 3 {
		t.Errorf("after run --rm there are %d volumes, want those of before", n)
	}
	if out := w.ok("run", "--rm", "-v", "named:/x", "test/base", "cat", "/x/f"); out != "kept\n" {
		t.Errorf("the named one has %q", out)
	}
	w.fails(125, []string{"not found"}, "run", "-v", "left:/x", "--pull", "never", "test/nothing", "true")
	w.fails(125, []string{"two mounts"}, "run", "-v", "left:/x", "-v", "left2:/x/", "test/base", "true")
	if strings.Contains(w.ok("volume", "ls", "-q"), "left") {
		t.Error("a run that failed has left a volume")
	}
}

// TestMounts mounts what --mount, -v and --tmpfs can say.
func TestMounts(t *testing.T) {
	w := volumeBench(t)
	w.write("dir/file", "here\n")
	w.write("dir/sub/deep", "deep\n")
	dir := filepath.Join(w.dir, "dir")
	w.ok("run", "--rm", "-v", "vol:/v", "test/base", "sh", "-c", "mkdir -p /v/sub; echo deep > /v/sub/f; ln -s /etc /v/out")
	top := filepath.Join(w.dir, "top")
	w.write("top/below/here", "")
	if err := syscall.Mount("tmpfs", filepath.Join(top, "below"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(filepath.Join(top, "below"), 0); err != nil {
			t.Error(err)
		}
	})
	const writes = "for f in /d/no /d/below/no; do (: > $f) 2>/dev/null && echo $f && rm $f; done; ls /d/below"
	for _, tc := range []struct {
		flags, command string
		code           int
		want           string // output
	}{
		{"-v DIR:/d", "cat /d/file; touch /d/new1", 0, "here\n"},
		{"-v ./dir:/d", "cat /d/file", 0, "here\n"},
		{"-v DIR/file:/d", "cat /d", 0, "here\n"},
		{"-v DIR:/d:ro", "cat /d/file; touch /d/no", 1, "here\n"},
		{"-v DIR/made:/d", "ls /d", 0, ""},
		{"--mount type=bind,src=DIR,dst=/d", "cat /d/file; touch /d/new2", 0, "here\n"},
		{"--mount type=bind,source=DIR,target=/d,readonly", "touch /d/no", 1, ""},
		{"--mount type=bind,source=DIR,destination=/d,ro=true", "touch /d/no", 1, ""},
		{"--mount type=bind,source=DIR,target=/d,readonly=false", "touch /d/new3", 0, ""},
		{"--mount type=bind,src=DIR/none,dst=/d", "true", 125, "no such file"},
		{"--mount type=bind,src=DIR/made2,dst=/d,bind-create-src", "ls /d", 0, ""},
		{"--mount type=bind,dst=/d", "true", 125, "needs a source"},
		{"--mount type=bind,src=DIR,dst=d", "true", 125, "absolute path"},
		{"--mount type=bind,src=DIR,dst=/", "true", 125, "other than /"},
		{"--mount type=bind,src=DIR", "true", 125, "target is required"},
		{"--mount type=bind,src=DIR,dst=/d,colour=red", "true", 125, `unexpected key "colour"`},
		{"--mount type=bind,src=DIR,dst=/d,ro=maybe", "true", 125, "invalid value for ro"},
		{"--mount type=bind,src=DIR,dst=/d,volume-nocopy", "true", 125, "is for type=volume"},
		{"--mount type=bind,src=DIR,dst=/d,tmpfs-size=1", "true", 125, "is for type=tmpfs"},
		{"--mount type=nothing,dst=/d", "true", 125, `unknown type "nothing"`},
		{"--mount type=bind,src=TOP,dst=/d", writes, 0, "/d/no\n/d/below/no\n"},
		{"--mount type=bind,src=TOP,dst=/d,readonly", writes, 0, ""},
		{"--mount type=bind,src=TOP,dst=/d,readonly,bind-recursive=readonly", writes, 0, ""},
		{"--mount type=bind,src=TOP,dst=/d,readonly,bind-recursive=writable", writes, 0, "/d/below/no\n"},
		{"--mount type=bind,src=TOP,dst=/d,readonly,bind-recursive=disabled", writes, 0, "here\n"},
		{"--mount type=bind,src=TOP,dst=/d,bind-recursive=writable", "true", 125, "how far readonly goes"},
		{"--mount type=volume,src=vol,dst=/d", "cat /d/sub/f", 0, "deep\n"},
		{"--mount type=volume,src=vol,dst=/d,readonly", "touch /d/no", 1, ""},
		{"--mount type=volume,src=vol,dst=/d,volume-subpath=sub", "cat /d/f; touch /d/here", 0, "deep\n"},
		{"--mount type=volume,src=vol,dst=/d,volume-subpath=sub/f", "cat /d", 0, "deep\n"},
		{"--mount type=volume,src=vol,dst=/d,volume-subpath=none", "true", 125, "no such file"},
		{"--mount type=volume,src=vol,dst=/d,volume-subpath=out", "cat /d/passwd", 125, ""},
		{"--mount type=volume,src=vol,dst=/d,volume-subpath=../..", "true", 125, "must be a path within"},
		{"--mount type=volume,src=vol,dst=/d,volume-subpath=/sub", "true", 125, "must be a path within"},
		{"--mount type=volume,src=labelled,dst=/d,volume-label=a=b", "true", 0, ""},
		{"--mount type=tmpfs,dst=/d", "stat -f -c %T /d; touch /d/new; grep -c ' /d .*noexec' /proc/mounts", 0, "tmpfs\n1\n"},
		{"--mount type=tmpfs,dst=/d,tmpfs-size=1m,tmpfs-mode=1700", "stat -c %a /d; df -k /d | tail -1 | awk '{print $2}'", 0, "1700\n1024\n"},
		{"--mount type=tmpfs,dst=/d,readonly", "touch /d/no", 1, ""},
		{"--mount type=tmpfs,src=x,dst=/d", "true", 125, "has no source"},
		{"--tmpfs /d", "stat -f -c %T /d; stat -c %a /d", 0, "tmpfs\n1777\n"},
		{"--tmpfs /d:size=2m,mode=700,uid=3,gid=4,exec", "stat -c %a:%u:%g /d; grep -c ' /d .*noexec' /proc/mounts", 1, "700:3:4\n0\n"},
		{"--tmpfs /d:shared,noatime,nr_inodes=5", "grep ' /d ' /proc/self/mountinfo | grep noatime | grep shared: | grep -c nr_inodes=5", 0, "1\n"},
		{"--tmpfs /d:unbindable --tmpfs /e:noatime,atime,nr_inodes=2k", "grep -c ' /d .*unbindable' /proc/self/mountinfo; grep -c ' /e .*noatime' /proc/self/mountinfo", 1, "1\n0\n"},
		{"--tmpfs /d:nr_inodes=few", "true", 125, "nr_inodes=few"},
		{"--tmpfs /d:nr_inodes=2kb", "true", 125, "nr_inodes=2kb"},
		{"--tmpfs /d:colour=red", "true", 125, "not supported"},
		{"--mount type=image,src=test/data,dst=/d", "cat /d/data/one; touch /d/no", 1, "one\n"},
		{"--mount type=image,src=test/data,dst=/d,image-subpath=data/sub", "ls /d", 0, "two\n"},
		{"--mount type=image,src=test/none,dst=/d", "true", 125, "not found"},
		{"--mount type=image,dst=/d", "true", 125, "needs a source"},
		{"-v DIR:/d -v vol:/d/sub", "cat /d/file /d/sub/sub/f", 0, "here\ndeep\n"},
		{"-v vol:/d/sub -v DIR:/d", "cat /d/file /d/sub/sub/f", 0, "here\ndeep\n"},
		{"-v DIR:/not/there/yet", "cat /not/there/yet/file", 0, "here\n"},
		{"-v vol:/d:colour", "true", 125, `option "colour" is not supported`},
		{"-v :/d", "true", 125, "nothing before the colon"},
		{"-v a:b:c:d", "true", 125, "want [PATH|NAME:]TARGET"},
		{"-v DIR:/d:nocopy", "true", 125, "nocopy is for volumes"},
		{"-v vol:/d:rslave", "true", 125, "for paths of this machine"},
	} {
		args := append([]string{"run", "--rm"}, strings.Fields(strings.NewReplacer("DIR", dir, "TOP", top).Replace(tc.flags))...)
		r := w.run(append(args, "test/base", "sh", "-c", tc.command)...)
		if tc.code == 125 {
			if r.code != 125 || !strings.Contains(r.stderr, tc.want) {
				t.Errorf("%s: code %d, want %q\n%s", tc.flags, r.code, tc.want, r.stderr)
			}
		} else if r.code != tc.code || r.stdout != tc.want {
			t.Errorf("%s: code %d, %q, want %d and %q\n%s", tc.flags, r.code, r.stdout, tc.code, tc.want, r.stderr)
		}
	}
	if out := w.ok("volume", "ls", "--format", "{{.Labels}}", "--filter", "name=labelled"); out != "a=b\n" {
		t.Errorf("the volume's labels are %q", out)
	}
	// The container's own files are in a volume on /etc too, which has the image's.
	for _, tt := range [][2]string{
		{"-v /etc", "nameserver 10.9.8.7\nroot\n"}, {"-v etc:/etc", "nameserver 10.9.8.7\nroot\n"}, {"-v etc:/etc:ro", "nameserver 10.9.8.7\nroot\n"},
		{"-v new:/etc:ro", "root\n"}, {"--tmpfs /etc", "nameserver 10.9.8.7\n"},
	} {
		flags, want := tt[0], tt[1]
		args := append([]string{"run", "--rm", "--dns", "10.9.8.7"}, strings.Fields(flags)...)
		if r := w.run(append(args, "test/base", "sh", "-c", "cat /etc/resolv.conf 2>/dev/null; [ ! -e /etc/passwd ] || head -1 /etc/passwd | cut -d: -f1")...); r.stdout != want {
			t.Errorf("%s: %q\n%s", flags, r.stdout, r.stderr)
		}
	}
	// A link there is followed in the container, and nothing is made beside it.
	linked := filepath.Join(w.dir, "linked")
	w.write("linked/hosts", "")
	if err := os.Symlink("../run/resolve/stub.conf", filepath.Join(linked, "resolv.conf")); err != nil {
		t.Fatal(err)
	}
	if out := w.ok("run", "--rm", "--dns", "10.9.8.7", "-v", linked+":/etc", "test/base", "cat", "/etc/resolv.conf", "/run/resolve/stub.conf"); out != "nameserver 10.9.8.7\nnameserver 10.9.8.7\n" {
		t.Errorf("by a link there is %q", out)
	}
	if entries, err := os.ReadDir(linked); err != nil || len(entries) != 3 {
		t.Errorf("the directory has %v, %v", entries, err)
	}
	// A place that is only named yields to what is said of it, and so it does to another
	// container's; of several of those the last counts.
	w.ok("run", "--name", "first", "-v", "/shared", "test/base", "sh", "-c", "echo first > /shared/name")
	w.ok("run", "--name", "second", "-v", "/shared", "test/base", "sh", "-c", "echo second > /shared/name")
	for flags, want := range map[string]string{
		"--volumes-from first -v /shared":                   "first\n",
		"--volumes-from first --volumes-from second":        "second\n",
		"-v /shared -v vol:/shared":                         "deep\n",
		"-v vol:/shared -v /shared":                         "deep\n",
		"-v vol:/shared -v vol:/shared":                     "deep\n",
		"--volumes-from first -v vol:/shared -v /shared":    "deep\n",
		"--tmpfs /shared:exec,noexec,size=1m,size=2m -v /x": "",
	} {
		args := append([]string{"run", "--rm"}, strings.Fields(flags)...)
		if r := w.run(append(args, "test/base", "sh", "-c", "cat /shared/name /shared/sub/f 2>/dev/null; true")...); r.code != 0 || r.stdout != want {
			t.Errorf("%s: code %d, %q, want %q\n%s", flags, r.code, r.stdout, want, r.stderr)
		}
	}
	if out := w.ok("run", "--rm", "--tmpfs", "/x:exec,noexec,size=1m,size=2m", "test/base", "grep", " /x ", "/proc/mounts"); !strings.Contains(out, "noexec") || !strings.Contains(out, "size=2048k") {
		t.Errorf("of options that contradict each other the last do not count: %s", out)
	}
	for _, name := range []string{"new1", "new2", "new3", "made", "no"} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != (name != "no") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A volume that is a directory of this machine.
	w.ok("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device="+dir, "bound")
	if out := w.ok("run", "--rm", "-v", "bound:/d", "test/base", "cat", "/d/file"); out != "here\n" {
		t.Errorf("it has %q", out)
	}
	w.ok("volume", "rm", "bound")
	if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
		t.Error("removing the volume removed the machine's files")
	}
	if out := w.ok("create", "--name", "shown", "-v", dir+":/d:ro", "-v", "vol:/v", "--ulimit", "nofile=10:20", "--cpus", "1.5", "test/base", "true"); out == "" {
		t.Error("create prints nothing")
	}
	got := w.field("shown", "{{.HostConfig.Binds}} {{.HostConfig.Ulimits}} {{.HostConfig.NanoCpus}}")
	if !strings.Contains(got, dir+":/d:ro") || !strings.Contains(got, "vol:/v") || !strings.HasSuffix(got, "Soft:10]] 1500000000") {
		t.Errorf("inspect has %s", got)
	}
	w.ok("create", "--name", "asked", "--mount", "type=bind,src="+dir+",dst=/d,readonly", "--mount", "type=tmpfs,dst=/t", "--mount", "type=volume,dst=/a", "--tmpfs", "/u", "-v", "vol:/v", "--cpu-quota", "50000", "test/base", "true")
	got = w.field("asked", "{{.HostConfig.Binds}} {{range .HostConfig.Mounts}}{{.Type}} {{.Target}};{{end}} {{.HostConfig.Tmpfs}} {{.HostConfig.NanoCpus}} {{.HostConfig.CpuQuota}}")
	if got != "[vol:/v] bind /d;tmpfs /t;volume /a; map[/u:] 0 50000" {
		t.Errorf("inspect has %s", got)
	}
}
