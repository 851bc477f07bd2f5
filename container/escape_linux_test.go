// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"builder/mount"
)

// Escapes that other engines have had. docs/security.md lists them all, with the
// tests that hold them. Each comment names the guard without which the test
// fails.

// TestExecDescriptors has a process that comes later be given a working directory
// and a command that lead to a descriptor of the machine's root
// (CVE-2024-21626). The guards are in writeStreams, which closes all
// descriptors before the directory is entered, and in writeDir, which follows
// no magic link and looks at what it has entered.
func TestExecDescriptors(t *testing.T) {
	root, err := os.Open("/")
	must(t, err)
	defer root.Close()
	_, err = unix.FcntlInt(root.Fd(), unix.F_SETFD, 0)
	must(t, err)
	spec := newSpec(t, "sleep", "1000")
	for i := range 40 {
		must(t, unix.Symlinkat(fmt.Sprintf("/proc/self/fd/%d", i), int(spec.Root.Fd()), fmt.Sprintf("link%d", i)))
	}
	_, target := startTarget(t, spec)
	for i := range 40 {
		for _, dir := range []string{"/proc/self/fd/%d", "/proc/1/fd/%d", "/link%d", "/proc/thread-self/fd/%d"} {
			dir = fmt.Sprintf(dir, i)
			if out, err := execOutput(t, target, ExecSpec{Args: []string{"pwd"}, Dir: dir}); exitCode(t, err) != 125 {
				t.Errorf("working directory %s: %v, %q", dir, err, out)
			}
		}
		for _, command := range []string{"/proc/self/fd/%d/bin/sh", "/proc/self/fd/%d/usr/bin/env"} {
			p, err := Exec(t.Context(), target, ExecSpec{Args: []string{fmt.Sprintf(command, i)}})
			if err == nil {
				t.Errorf("command "+command+" is there", i)
				_ = p.Wait()
			}
		}
	}
	out, err := execOutput(t, target, ExecSpec{Args: []string{"fds"}})
	must(t, err)
	for line := range strings.Lines(out) {
		if n, _, _ := strings.Cut(line, " "); n != "0" && n != "1" && n != "2" {
			t.Errorf("a process that comes later has descriptor %s", line)
		}
	}
}

// TestExecIsUntraceable holds that a process that comes later can't be traced from
// before it is in the container's PID namespace (CVE-2016-9962). The guard is in
// writeJoin.
func TestExecIsUntraceable(t *testing.T) {
	h, err := theHost()
	must(t, err)
	_, target := startTarget(t, newSpec(t, "sleep", "1000"))
	x, err := newExec(h, target, ExecSpec{Args: []string{"/bin/helper", "echo"}})
	must(t, err)
	defer x.give()
	untraceable, joined := -1, -1
	for i, s := range x.prog.steps {
		switch {
		case s.nr == unix.SYS_PRCTL && s.args[0] == num(unix.PR_SET_DUMPABLE) && s.args[1] == num(0):
			untraceable = i
		case s.nr == unix.SYS_SETNS:
			joined = i
		}
	}
	if untraceable < 0 || joined < untraceable {
		t.Errorf("it can't be traced from step %d on, and joins in step %d", untraceable, joined)
	}
}

// TestExecOwnExecutable is TestOwnExecutable for a process that comes later
// (CVE-2019-5736). The guard is the trampoline, which executes the command in
// the place of this program.
func TestExecOwnExecutable(t *testing.T) {
	spec := newSpec(t, "sleep", "1000")
	scripts := map[string]string{
		"interpreter": "#!/proc/self/exe\n", "first": "#!/proc/1/exe\n", "argument": "#!/proc/self/exe /etc/passwd\n", "loader": loaderELF("/proc/self/exe"),
	}
	for name, text := range scripts {
		writeInRoot(t, spec.Root, "bin/"+name, text)
	}
	_, target := startTarget(t, spec)
	for _, command := range []string{"/proc/self/exe", "/bin/interpreter", "/bin/argument", "/bin/loader"} {
		var out strings.Builder
		p, err := Exec(t.Context(), target, ExecSpec{Args: []string{command, "echo", "pwned"}, Stdout: &out, Stderr: &out})
		if err == nil {
			err = p.Wait()
		}
		if code := exitCode(t, err); code != 127 || out.Len() > 0 {
			t.Errorf("%s: code %d, %v, %q", command, code, err, out.String())
		}
	}
	// Process 1 is the container's own program: that may be executed.
	var out strings.Builder
	p, err := Exec(t.Context(), target, ExecSpec{Args: []string{"/bin/first"}, Stdout: &out, Stderr: &out})
	must(t, err)
	if code := exitCode(t, p.Wait()); code == 0 || strings.Contains(out.String(), "PASS") {
		t.Errorf("the container's own program: code %d, %q", code, out.String())
	}
}

// TestMaskSources has what is mounted at /dev, by the user's will, and what the
// image has there, be links to files of the kernel and of the machine: what is
// masked stays so, and nothing is shown or written in its place
// (CVE-2025-31133, CVE-2025-52565). The guard is copyNull, which takes the null
// device from what is ours.
func TestMaskSources(t *testing.T) {
	canary := filepath.Join(t.TempDir(), "canary")
	must(t, os.WriteFile(canary, []byte("canary"), 0o666))
	eachCarrier(t, func(t *testing.T, run runner) {
		for _, to := range []string{"/proc/version", "/proc/self/status", canary, "/proc/1/root" + canary} {
			for _, tty := range []bool{false, true} {
				dev := t.TempDir()
				for _, name := range []string{"null", "console", "pts", "shm", "ptmx"} {
					must(t, os.Symlink(to, filepath.Join(dev, name)))
				}
				spec := newSpec(t, "masked", ";", "mounted", "/proc/version", "/proc/self/status", ";", "try", "w", "/proc/version")
				must(t, unix.Mkdirat(int(spec.Root.Fd()), "dev", 0o755))
				for _, name := range []string{"null", "console", "ptmx"} {
					must(t, unix.Symlinkat(to, int(spec.Root.Fd()), "dev/"+name))
				}
				spec.Mounts = []mount.Mount{{Type: mount.Bind, Source: dev, Target: "/dev"}}
				spec.Terminal = tty
				out, err := run.output(t, spec)
				out = strings.ReplaceAll(out, "\r\n", "\n")
				if err != nil || !strings.HasPrefix(out, "all are masked\nnone\n") || strings.Contains(out, "canary") {
					t.Errorf("to %s, terminal %v: %v\n%s", to, tty, err, out)
				}
				spec = newSpec(t, "masked", ";", "mounted", "/proc/version", "/proc/self/status")
				must(t, unix.Mkdirat(int(spec.Root.Fd()), "dev", 0o755))
				for _, name := range []string{"null", "console", "ptmx"} {
					must(t, unix.Symlinkat(to, int(spec.Root.Fd()), "dev/"+name))
				}
				spec.Terminal = tty
				out, err = run.output(t, spec)
				if out = strings.ReplaceAll(out, "\r\n", "\n"); err != nil || out != "all are masked\nnone\n" {
					t.Errorf("in the image to %s, terminal %v: %v\n%s", to, tty, err, out)
				}
			}
		}
	})
	if text, err := os.ReadFile(canary); err != nil || string(text) != "canary" {
		t.Errorf("the canary is %q (%v)", text, err)
	}
}

// TestMaskRace changes a /dev that containers share while one of them starts: its
// masks are the same in each (CVE-2025-31133). The guard is copyNull.
func TestMaskRace(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		dev := t.TempDir()
		null, link := filepath.Join(dev, "null"), filepath.Join(dev, "link")
		must(t, unix.Mknod(null, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		must(t, os.Symlink("/proc/version", link))
		stop := exchange(null, link)
		img := image(t)
		for range 40 {
			root, _ := rootOf(t, img)
			spec := Spec{ID: uniqueID(), Root: root, Args: []string{"/bin/helper", "masked"}}
			spec.Mounts = []mount.Mount{{Type: mount.Bind, Source: dev, Target: "/dev"}}
			if out := run.ok(t, spec); out != "all are masked\n" {
				t.Errorf("%s", out)
			}
			root.Close()
		}
		t.Logf("%d changes meanwhile", stop())
	})
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

// TestProcIsProc has an image make mount points lead into /proc: nothing is
// mounted there, where a file of the kernel would be another one when it is
// written to (CVE-2019-16884, CVE-2025-52881), and an image's /proc is no link
// (CVE-2023-27561). The guards are makePoint, which looks where a mount point is,
// openDirectory, which follows no link, and the order of the steps.
func TestProcIsProc(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		for _, to := range []string{"/proc/self", "/proc", "proc/sys", "../../proc/self/attr", "/a/../proc/sys/kernel"} {
			spec := newSpec(t, "exit", "0")
			must(t, unix.Symlinkat(to, int(spec.Root.Fd()), "link"))
			must(t, unix.Mkdirat(int(spec.Root.Fd()), "a", 0o755))
			for _, target := range []string{"/link", "/link/attr", "/a/../link"} {
				spec.Mounts = []mount.Mount{{Type: mount.Tmpfs, Target: target}}
				if _, err := run.start(t.Context(), spec); exitCode(t, err) != 125 || !strings.Contains(err.Error(), "/proc") {
					t.Errorf("%s, which is a link to %s: %v", target, to, err)
				}
			}
		}
		for _, at := range []string{"proc", "sys", "dev"} {
			spec := newSpec(t, "exit", "0")
			removeAllAt(t, spec.Root, at)
			must(t, unix.Symlinkat("data", int(spec.Root.Fd()), at))
			if _, err := run.start(t.Context(), spec); exitCode(t, err) != 125 || !strings.Contains(err.Error(), "symbolic link in the image") {
				t.Errorf("/%s is a link: %v", at, err)
			}
		}
		// What a link in another mount can do, which is looked up when it is
		// there, comes too late for what is written by us.
		vol := t.TempDir()
		must(t, os.Symlink("/proc/sys/kernel", filepath.Join(vol, "link")))
		over := t.TempDir()
		must(t, os.WriteFile(filepath.Join(over, "shmmax"), []byte("theirs\n"), 0o666))
		spec := newSpec(t, "exit", "0")
		spec.Mounts = []mount.Mount{{Type: mount.Bind, Source: vol, Target: "/vol"}, {Type: mount.Bind, Source: over, Target: "/vol/link"}}
		spec.Sysctls = map[string]string{"kernel.shmmax": "4096"}
		_, err := run.output(t, spec)
		_ = exitCode(t, err)
		if text, err := os.ReadFile(filepath.Join(over, "shmmax")); err != nil || string(text) != "theirs\n" {
			t.Errorf("a kernel parameter was written to a file: %q (%v)", text, err)
		}
	})
	// The order that this rests on.
	names := steps(t, func(s *Spec) {
		s.Sysctls = map[string]string{"kernel.shmmax": "1"}
		s.Mounts = []mount.Mount{{Type: mount.Tmpfs, Target: "/vol"}}
	})
	at := func(name string) int {
		for i, n := range names {
			if n == name {
				return i
			}
		}
		return -1
	}
	if w, m := at("set kernel.shmmax=1"), at("mount /vol"); w < 0 || m < w {
		t.Errorf("kernel parameters are step %d, mounts %d", w, m)
	}
}

// TestStubsRace replaces the directory of a mount point that was made for a
// container by a link, in the moment it ends: what is removed is what was made
// (CVE-2024-23652). The guard is stub.remove, which knows its parent and its own
// inode.
func TestStubsRace(t *testing.T) {
	canary := t.TempDir()
	for _, name := range []string{"x", "y/z"} {
		must(t, os.MkdirAll(filepath.Join(canary, name), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(canary, "f"), nil, 0o644))
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o644))
	before := snapshotDir(t, canary)
	eachCarrier(t, func(t *testing.T, run runner) {
		for _, args := range [][]string{
			{"rename", "/vol", "/old", ";", "symlink", canary, "/vol"},
			{"rename", "/vol", "/old", ";", "symlink", "/proc/1/root" + canary, "/vol"},
			{"rename", "/vol/y", "/vol/old", ";", "symlink", canary + "/y", "/vol/y"},
			{"rename", "/vol", "/old", ";", "mkdir", "/vol/x", ";", "mkdir", "/vol/y/z", ";", "touch", "/vol/f"},
		} {
			spec := newSpec(t, args...)
			spec.Mounts = []mount.Mount{
				{Type: mount.Tmpfs, Target: "/vol/x"}, {Type: mount.Tmpfs, Target: "/vol/y/z"}, {Type: mount.Bind, Source: file, Target: "/vol/f"},
			}
			run.ok(t, spec)
			if strings.Contains(strings.Join(args, " "), "mkdir") {
				for _, name := range []string{"vol/x", "vol/y/z", "vol/f"} {
					if _, err := os.Lstat(fmt.Sprintf("/proc/self/fd/%d/%s", spec.Root.Fd(), name)); err != nil {
						t.Errorf("what the process made is gone: %v", err)
					}
				}
			}
		}
		if after := snapshotDir(t, canary); after != before {
			t.Errorf("the canary has changed:\n%s\nfrom\n%s", after, before)
		}
	})
}
