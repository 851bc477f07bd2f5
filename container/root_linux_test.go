// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"builder/mount"
)

// The default mounts are docker's.
func TestDefaultMounts(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		for _, step := range []bool{false, true} {
			spec := newSpec(t, "cat", "/proc/self/mounts")
			spec.RunStep = step
			var got []string
			for line := range strings.Lines(run.ok(t, spec)) {
				f := strings.Fields(line)
				if strings.HasPrefix(f[1], "/proc/") || strings.HasPrefix(f[1], "/sys/firmware") || strings.HasPrefix(f[1], "/sys/devices") {
					continue // masks: TestPaths
				}
				opts := strings.Split(f[3], ",")
				var flags []string
				for _, o := range opts {
					if o == "ro" || o == "nosuid" || o == "nodev" || o == "noexec" || strings.HasPrefix(o, "mode=") || strings.HasPrefix(o, "size=") && f[0] == "shm" {
						flags = append(flags, o)
					}
				}
				got = append(got, strings.Join([]string{f[0], f[1], f[2], strings.Join(flags, ",")}, " "))
			}
			source, etc := etcSource(&spec), "nosuid,nodev,noexec,mode=755"
			if step {
				source, etc = "tmpfs", "ro,"+etc
			}
			want := []string{
				"none / overlay ",
				"tmpfs /dev tmpfs nosuid,mode=755",
				"devpts /dev/pts devpts nosuid,noexec,mode=620",
				"shm /dev/shm tmpfs nosuid,nodev,noexec,size=65536k",
				"proc /proc proc nosuid,nodev,noexec",
				"mqueue /dev/mqueue mqueue nosuid,nodev,noexec",
				"sysfs /sys sysfs ro,nosuid,nodev,noexec",
				"cgroup2 /sys/fs/cgroup cgroup2 ro,nosuid,nodev,noexec",
				source + " /etc/resolv.conf tmpfs " + etc,
				source + " /etc/hosts tmpfs " + etc,
			}
			if !step {
				want = append(want, source+" /etc/hostname tmpfs "+etc)
			}
			if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
				t.Errorf("RunStep %v:\n%s\nwant\n%s", step, g, w)
			}
		}
	})
}

func TestEtcFiles(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		spec := newSpec(t, "cat", "/etc/hosts", ";", "cat", "/etc/resolv.conf", ";", "try", "w", "/etc/hosts", "/etc/resolv.conf", ";", "write", "/etc/hostname", "image's", ";", "stat", "/etc/hosts")
		spec.RunStep, spec.Hostname = true, "buildkitsandbox"
		spec.Hosts = []Host{{Name: "db", IP: netip.MustParseAddr("10.0.0.7")}, {Name: "six", IP: netip.MustParseAddr("fd00::1")}}
		spec.ResolvConf = []byte("nameserver 192.0.2.1\n")
		old := unix.Umask(0o077)
		got := run.ok(t, spec)
		unix.Umask(old)
		want := "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb\nfd00::1\tsix\n" +
			"nameserver 192.0.2.1\n/etc/hosts EROFS\n/etc/resolv.conf EROFS\n100644 0 0 0\n"
		if got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
		if text := readInRoot(t, spec.Root, "etc/hostname"); text != "image's" {
			t.Errorf("/etc/hostname in the root: %q", text)
		}
		for _, h := range []Host{{IP: netip.IPv4Unspecified()}, {Name: "a b", IP: netip.IPv4Unspecified()}, {Name: "a"}} {
			spec := newSpec(t, "exit", "0")
			spec.Hosts = []Host{h}
			if _, err := run.start(t.Context(), spec); exitCode(t, err) != 125 {
				t.Errorf("host %v: %v", h, err)
			}
		}
	})
}

func TestResolvConf(t *testing.T) {
	const stub = "# comment\nnameserver 127.0.0.53\nsearch example.org\n"
	for _, tc := range []struct {
		name    string
		network Network
		files   map[string]string
		want    string
	}{
		{name: "host keeps loopback", files: map[string]string{"/etc/resolv.conf": stub}, want: stub},
		{name: "host without servers", files: map[string]string{"/etc/resolv.conf": "search x\n"}, want: "search x\n" + publicNameServers},
		{name: "missing", want: publicNameServers},
		{name: "none drops loopback", network: NetworkNone, files: map[string]string{"/etc/resolv.conf": "nameserver ::1\nnameserver 192.0.2.1\noptions ndots:2"}, want: "nameserver 192.0.2.1\noptions ndots:2\n"},
		{name: "resolved", network: NetworkNone, files: map[string]string{"/etc/resolv.conf": stub, "/run/systemd/resolve/resolv.conf": "nameserver 192.0.2.9\n"}, want: "nameserver 192.0.2.9\n"},
		{name: "only loopback", network: NetworkNone, files: map[string]string{"/etc/resolv.conf": stub}, want: "# comment\nsearch example.org\n" + publicNameServers},
		{name: "bad address", network: NetworkNone, files: map[string]string{"/etc/resolv.conf": "nameserver here\n"}, want: publicNameServers},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := resolvConf(tc.network, func(name string) ([]byte, error) {
				if text, ok := tc.files[name]; ok {
					return []byte(text), nil
				}
				return nil, os.ErrNotExist
			})
			if err != nil || string(got) != tc.want {
				t.Errorf("got %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func readInRoot(t testing.TB, root *os.File, name string) string {
	t.Helper()
	fd, err := unix.Openat(int(root.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(t, err)
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	buf := make([]byte, 1<<16)
	n, _ := f.Read(buf)
	return string(buf[:n])
}

func TestMounts(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		host := t.TempDir()
		must(t, os.WriteFile(filepath.Join(host, "file"), []byte("from the host"), 0o644))
		must(t, os.Mkdir(filepath.Join(host, "dir"), 0o755))
		sub, err := os.OpenFile(filepath.Join(host, "dir"), unix.O_PATH, 0)
		must(t, err)
		defer sub.Close()
		tree, _ := rootOf(t, image(t))
		spec := newSpec(t,
			"cat", "/in/file", ";", "touch", "/in/dir/made", ";", "try", "c", "/ro/x", "/one/file", ";", "cat", "/one/file", ";",
			"ls", "/sub", ";", "ls", "/tree/data", ";", "statfs", "/scratch", ";", "stat", "/scratch", ";", "touch", "/in/scratch2/x", ";",
			"cat", "/dev/extra", ";", "ls", "/dev/shm")
		spec.Mounts = []mount.Mount{
			{Type: mount.Bind, Source: host, Target: "/in", Recursive: true},
			{Type: mount.Bind, Source: host, Target: "ro", ReadOnly: true},
			{Type: mount.Bind, Source: host + "/file", Target: "/one/file", ReadOnly: true},
			{Type: mount.Bind, Tree: sub, Target: "/sub"},
			{Type: mount.Bind, Tree: tree, Target: "/tree"},
			{Type: mount.Tmpfs, Target: "/scratch", Size: 1 << 20, Mode: 0o750, UID: 5, GID: 6},
			{Type: mount.Tmpfs, Target: "/in/scratch2"},
			{Type: mount.Bind, Source: host + "/file", Target: "/dev/extra"},
			{Type: mount.Bind, Source: host, Target: "/dev/shm"},
		}
		want := "from the host/ro/x EROFS\n/one/file EROFS\nfrom the hostmade\nsub\n/scratch 1021994 1048576\n40750 5 6 0\n" +
			"from the hostdir\nfile\nscratch2\n"
		if got := run.ok(t, spec); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
		if _, err := os.Stat(filepath.Join(host, "scratch2/x")); err == nil {
			t.Error("a nested mount was written through")
		}
		for name, st := range treeOf(t, spec.Root) {
			if name != "." {
				switch strings.Split(name, "/")[0] {
				case "bin", "etc", "tmp", "data", "proc", "dev", "sys":
				default:
					t.Errorf("mount point %s stays: %s", name, st)
				}
			}
		}
	})
}

func TestBadMounts(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		for _, m := range []mount.Mount{
			{Type: mount.Bind, Source: "/etc", Target: "/"},
			{Type: mount.Bind, Source: "/etc", Target: "/proc"},
			{Type: mount.Bind, Source: "/etc", Target: "/x/../proc/sys"},
			{Type: mount.Bind, Source: "/nope/nope", Target: "/x"},
			{Type: mount.Bind, Source: "/etc", Target: "/x", Propagation: "wide"},
			{Type: "nfs", Target: "/x"},
			{Type: mount.Bind, Source: "/etc/passwd", Target: "/data"},
			{Type: mount.Bind, Source: "/etc", Target: "/etc/passwd"},
			{Type: mount.Bind, Source: "/etc", Target: "/etc/passwd/x"},
			{Type: mount.Bind, Source: "/etc", Target: "/sys/nope"},
		} {
			spec := newSpec(t, "exit", "0")
			before := treeOf(t, spec.Root)
			spec.Mounts = []mount.Mount{m}
			_, err := run.start(t.Context(), spec)
			if exitCode(t, err) != 125 {
				t.Errorf("%+v: %v", m, err)
			}
			after := treeOf(t, spec.Root)
			for name := range after {
				if before[name] == "" && name != "proc" && name != "dev" && name != "sys" {
					t.Errorf("%+v: %s stays", m, name)
				}
			}
		}
	})
}

// treeOf lists the root's files with type, mode, owner, size and times.
func treeOf(t testing.TB, root *os.File) map[string]string {
	t.Helper()
	out := map[string]string{}
	base := fmt.Sprintf("/proc/self/fd/%d/.", root.Fd())
	must(t, filepath.WalkDir(base, func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		rel, err := filepath.Rel(base, name)
		out[rel] = fmt.Sprintf("%o %d:%d %d %d.%09d", st.Mode, st.Uid, st.Gid, st.Size*int64(map[bool]int{true: 0, false: 1}[d.IsDir()]), st.Mtim.Sec, st.Mtim.Nsec)
		return err
	}))
	return out
}

func TestReadOnly(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		spec := newSpec(t, "try", "c", "/x", "/tmp/x", "/dev/x", "/dev/shm/x", "/vol/x", ";", "try", "w", "/etc/passwd", "/etc/hosts")
		spec.ReadOnly = true
		spec.Mounts = []mount.Mount{{Type: mount.Tmpfs, Target: "/vol"}}
		want := "/x EROFS\n/tmp/x EROFS\n/dev/x ok\n/dev/shm/x ok\n/vol/x ok\n/etc/passwd EROFS\n/etc/hosts EROFS\n"
		if got := run.ok(t, spec); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
}

func TestWorkingDirectory(t *testing.T) {
	for _, tc := range []struct {
		dir, user string
		step      bool
		mounts    []mount.Mount
		want      string // of pwd and stat .
		code      int
	}{
		{dir: "", want: "/ 40755 0 0 0"},
		{dir: "/data/sub", want: "/data/sub 40755 0 0 0"},
		{dir: "data/../new//deep/", want: "/new/deep 40755 0 0 0"},
		{dir: "/new/deep", user: "ada", want: "/new/deep 40755 0 0 0"},
		{dir: "/new/deep", user: "ada", step: true, want: "/new/deep 40755 1000 1001 0"},
		{dir: "/link", want: "/data 40755 0 0 0"},
		{dir: "/link/new", want: "/data/new 40755 0 0 0"},
		{dir: "/dangling/x", want: "/behind/x 40755 0 0 0"},
		{dir: "/../../..", want: "/ 40755 0 0 0"},
		{dir: "/dev/shm", want: "/dev/shm 41777 0 0 0"},
		{dir: "/vol/a/b", mounts: []mount.Mount{{Type: mount.Tmpfs, Target: "/vol"}}, want: "/vol/a/b 40755 0 0 0"},
		{dir: "/etc/passwd", code: 125},
		{dir: "/proc/self/fd/0", code: 125},
		{dir: "/proc/self/fd/3", code: 125},
		{dir: "/proc/self/fd/4", code: 125},
		{dir: "/proc/self/fd/5", code: 125},
		{dir: "/proc/self/fd/17", code: 125},
		{dir: "/proc/self/root", code: 125},
		{dir: "/proc/self/cwd", code: 125},
		{dir: "/fd7", code: 125},
	} {
		t.Run(tc.dir+" "+tc.user, func(t *testing.T) {
			eachCarrier(t, func(t *testing.T, run runner) {
				spec := newSpec(t, "pwd", ";", "stat", ".")
				for name, to := range map[string]string{"link": "data", "dangling": "/behind", "fd7": "/proc/self/fd/7"} {
					must(t, unix.Symlinkat(to, int(spec.Root.Fd()), name))
				}
				spec.Dir, spec.User, spec.RunStep, spec.Mounts = tc.dir, tc.user, tc.step, tc.mounts
				got, err := run.output(t, spec)
				if code := exitCode(t, err); code != tc.code {
					t.Fatalf("code %d, want %d: %v %s", code, tc.code, err, got)
				}
				if got := strings.Join(strings.Fields(got), " "); got != tc.want {
					t.Errorf("got %q, want %q", got, tc.want)
				}
			})
		})
	}
}

// Images whose paths lead to the machine's files, if resolved in its view. In
// all of them the container starts with what is inside, or not at all, and
// nothing outside is touched.
func TestHostileImages(t *testing.T) {
	canary := filepath.Join(t.TempDir(), "canary")
	must(t, os.MkdirAll(filepath.Join(canary, "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(canary, "passwd"), []byte("root:x:0:0::/canary:\nevil:x:0:0::/:\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(canary, "file"), []byte("canary"), 0o644))
	before := snapshotDir(t, canary)
	up := strings.Repeat("../", 20)
	for _, at := range []string{
		"proc", "dev", "sys", "etc", "etc/resolv.conf", "etc/hosts", "etc/hostname", "etc/passwd", "etc/group", "dev/shm", "dev/pts", "dev/mqueue",
		"dev/null", "dev/console", "proc/self", "sys/fs", "work", "vol", "vol/sub", "bin", "tmp",
	} {
		for _, to := range []string{canary, up + canary[1:], canary + "/file", "/proc/self/fd/9", "/proc/1/root" + canary, "/proc/self/cwd", at} {
			t.Run(at+" to "+strings.ReplaceAll(to, canary, "C"), func(t *testing.T) {
				eachCarrier(t, func(t *testing.T, run runner) {
					for _, user := range []string{"", "evil"} {
						runHostile(t, run, at, to, user)
					}
					if diff := snapshotDir(t, canary); diff != before {
						t.Fatalf("canary has changed:\n%s\nfrom\n%s", diff, before)
					}
				})
			})
		}
	}
}

// runHostile runs an image in which the path at is a link.
func runHostile(t *testing.T, run runner, at, to, user string) {
	spec := newSpec(t, "touch", "/tmp/x", ";", "touch", "/vol/x", ";", "ls", "/vol", ";", "cat", "/etc/hosts")
	root := int(spec.Root.Fd())
	_ = unix.Mkdirat(root, filepath.Dir(at), 0o755)
	removeAllAt(t, spec.Root, at)
	must(t, unix.Symlinkat(to, root, at))
	spec.Dir, spec.Terminal, spec.User = "/work/x", true, user
	spec.Hosts = []Host{{Name: "inside", IP: netip.MustParseAddr("192.0.2.1")}}
	spec.Mounts = []mount.Mount{
		{Type: mount.Tmpfs, Target: "/vol"}, {Type: mount.Tmpfs, Target: "/vol/sub/deep"}, {Type: mount.Tmpfs, Target: "/dev/shm"},
	}
	out, err := run.output(t, spec)
	_ = exitCode(t, err) // is an error of ours
	t.Logf("user %q: %v", user, err)
	if strings.Contains(out, "canary") {
		t.Errorf("user %q: the container has seen the canary: %q", user, out)
	}
	if err == nil && !strings.Contains(out, "inside") {
		t.Errorf("user %q: /etc/hosts is %q", user, out)
	}
	if user == "evil" && err == nil {
		t.Error("the canary's user was found")
	}
}

// removeAllAt removes name below a root, without following links.
func removeAllAt(t testing.TB, root *os.File, name string) {
	t.Helper()
	must(t, os.RemoveAll(fmt.Sprintf("/proc/self/fd/%d/%s", root.Fd(), name)))
}

// snapshotDir describes a directory and all in it.
func snapshotDir(t testing.TB, dir string) string {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	var out []string
	for name, st := range treeOf(t, f) {
		out = append(out, name+" "+st)
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// A directory that containers share is changed while mount points are made in
// it: they are made there or not at all (CVE-2024-45310).
func TestNestedMountRace(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		canary := filepath.Join(t.TempDir(), "canary")
		must(t, os.Mkdir(canary, 0o755))
		shared := t.TempDir()
		link, dir := filepath.Join(shared, "link"), filepath.Join(shared, "dir")
		must(t, os.Symlink(canary, link))
		must(t, os.Mkdir(dir, 0o755))
		stop := make(chan struct{})
		flipped := make(chan int)
		go func() {
			n := 0
			for {
				select {
				case <-stop:
					flipped <- n
					return
				default:
					// Exchanges the two names.
					_ = unix.Renameat2(unix.AT_FDCWD, link, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
					n++
				}
			}
		}()
		img := image(t)
		started := 0
		for range 60 {
			root, _ := rootOf(t, img)
			spec := Spec{ID: uniqueID(), Root: root, Args: []string{"/bin/helper", "touch", "/vol/dir/x/made"}}
			spec.Mounts = []mount.Mount{{Type: mount.Bind, Source: shared, Target: "/vol"}, {Type: mount.Tmpfs, Target: "/vol/dir/x"}}
			p, err := run.start(t.Context(), spec)
			if err == nil {
				started++
				_ = p.Wait()
			}
			root.Close()
		}
		close(stop)
		t.Logf("%d flips, %d of 60 started", <-flipped, started)
		if entries, err := os.ReadDir(canary); err != nil || len(entries) != 0 {
			t.Errorf("canary has %v, %v", entries, err)
		}
	})
}
