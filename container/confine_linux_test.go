// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	docker   = "00000000a80425fb"
	nothing  = "0000000000000000"
	netAdmin = "00000000a80435fb"
)

func TestCapabilities(t *testing.T) {
	for _, tc := range []struct {
		name         string
		change       func(*Spec)
		prm, bnd     string
		seccomp, nnp string
		uid, groups  string
	}{
		{name: "default", change: func(*Spec) {}, prm: docker, bnd: docker, seccomp: "2", nnp: "0", uid: "0", groups: "0 10"},
		{name: "user", change: func(s *Spec) { s.User = "ada" }, prm: nothing, bnd: docker, seccomp: "2", nnp: "0", uid: "1000", groups: "10 63 1001"},
		{name: "user by id without entry", change: func(s *Spec) { s.User = "4242" }, prm: nothing, bnd: docker, seccomp: "2", nnp: "0", uid: "4242", groups: "0"},
		{name: "user and group", change: func(s *Spec) { s.User = "ada:wheel"; s.GroupAdd = []string{"audio", "500"} }, prm: nothing, bnd: docker, seccomp: "2", nnp: "0", uid: "1000", groups: "10 63 500"},
		{name: "add", change: func(s *Spec) { s.CapAdd = []string{"net_admin"} }, prm: netAdmin, bnd: netAdmin, seccomp: "2", nnp: "0", uid: "0", groups: "0 10"},
		{name: "drop all", change: func(s *Spec) { s.CapDrop = []string{"ALL"} }, prm: nothing, bnd: nothing, seccomp: "2", nnp: "0", uid: "0", groups: "0 10"},
		{name: "drop all, as user", change: func(s *Spec) { s.CapDrop = []string{"ALL"}; s.User = "ada" }, prm: nothing, bnd: nothing, seccomp: "2", nnp: "0", uid: "1000", groups: "10 63 1001"},
		{name: "no new privileges", change: func(s *Spec) { s.NoNewPrivileges = true }, prm: docker, bnd: docker, seccomp: "2", nnp: "1", uid: "0", groups: "0 10"},
		{name: "no new privileges, as user", change: func(s *Spec) { s.NoNewPrivileges = true; s.User = "ada" }, prm: nothing, bnd: docker, seccomp: "2", nnp: "1", uid: "1000", groups: "10 63 1001"},
		{name: "unconfined", change: func(s *Spec) { s.Seccomp = "unconfined" }, prm: docker, bnd: docker, seccomp: "0", nnp: "0", uid: "0", groups: "0 10"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachCarrier(t, func(t *testing.T, run runner) {
				for _, init := range []bool{false, true} {
					spec := newSpec(t, "cat", "/proc/self/status")
					spec.Init = init
					tc.change(&spec)
					got := run.ok(t, spec)
					for name, want := range map[string]string{
						"CapInh": nothing, "CapAmb": nothing, "CapPrm": tc.prm, "CapEff": tc.prm, "CapBnd": tc.bnd,
						"Seccomp": tc.seccomp, "NoNewPrivs": tc.nnp, "Groups": tc.groups,
						"Uid":    strings.Join([]string{tc.uid, tc.uid, tc.uid, tc.uid}, "\t"),
						"SigIgn": nothing, "SigBlk": nothing, "Umask": "0022",
					} {
						if got := field(got, name); got != want {
							t.Errorf("init %v: %s is %q, want %q", init, name, got, want)
						}
					}
				}
			})
		})
	}
}

func TestPrivileged(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		spec := newSpec(t, "cat", "/proc/self/status", ";", "try", "rw", "/dev/kmsg", "/proc/sys/kernel/domainname", ";", "mknod", "c", "10", "237",
			";", "cat", "/proc/self/mountinfo", ";", "stat", "/dev/kmsg")
		spec.Privileged = true
		var warned []string
		spec.Warn = func(m string) { warned = append(warned, m) }
		got := run.ok(t, spec)
		want := fmt.Sprintf("%016x", uint64(run.host.caps))
		if field(got, "CapEff") != want || field(got, "Seccomp") != "0" {
			t.Errorf("CapEff %s, want %s; Seccomp %s", field(got, "CapEff"), want, field(got, "Seccomp"))
		}
		lacks := run.host.caps != 1<<(run.host.lastCap+1)-1
		if lacks != (len(warned) == 1) {
			t.Errorf("warnings %q", warned)
		}
		for _, line := range []string{"/dev/kmsg ok\n", "/proc/sys/kernel/domainname ok\n", "mknod ok open "} {
			if !strings.Contains(got, line) {
				t.Errorf("lacks %q:\n%s", line, got)
			}
		}
		if strings.Contains(got, "/proc/kcore") || strings.Contains(got, "mknod ok openEPERM") {
			t.Errorf("is confined:\n%s", got)
		}
		if !strings.Contains(got, " /sys rw") || !strings.Contains(got, " /sys/fs/cgroup rw") {
			t.Errorf("/sys is not writable:\n%s", got)
		}
	})
}

func TestPaths(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		args := []string{"try", "w", "/proc/sys/kernel/domainname", "/proc/sys/vm/swappiness", "/sys/kernel/profiling", "/sys/fs/cgroup/cgroup.procs", ";", "try", "c", "/sys/new", ";", "try", "r"}
		var masked []string
		for _, m := range append(maskedPaths, thermalPaths()...) {
			if _, err := os.Stat(m.in + "/" + m.path); err == nil {
				masked = append(masked, m.in+"/"+m.path)
				args = append(args, m.in+"/"+m.path)
			}
		}
		for _, m := range masked {
			args = append(args, ";", "stat", m)
		}
		got := run.ok(t, newSpec(t, args...))
		for _, line := range strings.Split(strings.TrimSpace(got), "\n") {
			name, result, _ := strings.Cut(line, " ")
			switch {
			case slices.Contains(masked, name):
				if result != "ok" {
					t.Errorf("open %s: %s", name, result)
				}
			case strings.HasPrefix(name, "/"):
				if result != "EROFS" {
					t.Errorf("write %s: %s", name, result)
				}
			}
		}
		// A mask is an empty directory or the null device (1:3).
		for _, m := range masked {
			if !strings.Contains(got, m+" ok") {
				t.Errorf("%s was not tried", m)
			}
		}
		nodes := strings.Count(got, "20666 0 0 259\n")
		dirs := strings.Count(got, "40755 0 0 0\n")
		if nodes+dirs != len(masked) || nodes == 0 || dirs == 0 {
			t.Errorf("%d nulls and %d empty directories for %d masks:\n%s", nodes, dirs, len(masked), got)
		}
		for _, m := range masked {
			if out := run.ok(t, newSpec(t, "try", "w", m)); strings.Contains(out, "/sys") && strings.Contains(out, "ok") {
				t.Errorf("write: %s", out)
			}
		}
	})
}

func TestDevices(t *testing.T) {
	for _, v1 := range []bool{false, true} {
		name := map[bool]string{false: "eBPF", true: "version 1"}[v1]
		t.Run(name, func(t *testing.T) {
			eachCarrier(t, func(t *testing.T, run runner) {
				if v1 {
					h, err := newHost()
					must(t, err)
					h.cgroups.noProgram, h.cgroups.parent = true, testParent
					run.host = h
					t.Cleanup(func() {
						if root := h.cgroups.v1["devices"]; root != nil {
							must(t, removeCgroup(root, testParent))
							root.Close()
						}
						close(h.spawn)
					})
				}
				spec := newSpec(t,
					"mknod", "c", "1", "3", ";", "mknod", "c", "1", "11", ";", "mknod", "c", "10", "237", ";", "mknod", "c", "10", "232", ";",
					"mknod", "b", "254", "0", ";", "mknod", "b", "8", "0", ";", "mknod", "c", "5", "2", ";", "mknod", "c", "4", "0", ";",
					"try", "rw", "/dev/null", "/dev/zero", "/dev/full", "/dev/ptmx", ";", "try", "r", "/dev/random", "/dev/urandom")
				want := "mknod ok open ok\n" + // null
					"mknod ok open EPERM\n" + // kmsg
					"mknod ok open EPERM\n" + // loop-control
					"mknod ok open EPERM\n" + // kvm
					"mknod ok open EPERM\n" + // a disk
					"mknod ok open EPERM\n" + // another
					"mknod ok open ENOENT\n" + // ptmx, where there is no devpts
					"mknod ok open EPERM\n" + // a console
					"/dev/null ok\n/dev/zero ok\n/dev/full ok\n/dev/ptmx ok\n/dev/random ok\n/dev/urandom ok\n"
				got := run.ok(t, spec)
				if got != want {
					t.Errorf("got\n%swant\n%s", got, want)
				}
			})
		})
	}
}

// A parent group that has been removed meanwhile gets its device program anew.
func TestDevicesAfterRemoval(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		setParent := func(parent string) {
			run.host.mu.Lock()
			run.host.cgroups.parent = parent
			run.host.mu.Unlock()
		}
		setParent(testParent + "-removed/below")
		defer setParent(testParent)
		for range 2 {
			spec := newSpec(t, "mknod", "c", "1", "11")
			if got := run.ok(t, spec); got != "mknod ok open EPERM\n" {
				t.Errorf("got %s", got)
			}
			must(t, removeCgroup(run.host.cgroups.root, testParent+"-removed"))
		}
	})
}

func TestDev(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		spec := newSpec(t, "ls", "/dev", ";", "stat", "/dev/null", ";", "stat", "/dev/tty", ";", "statfs", "/dev/shm", ";", "stat", "/dev/shm", ";", "touch", "/dev/shm/x")
		spec.ShmSize = 1 << 20
		want := "core\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n" +
			"20666 0 0 259\n20666 0 0 1280\n/dev/shm 1021994 1048576\n41777 0 0 0\n"
		if got := run.ok(t, spec); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
}

func TestDescriptors(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		// An open file of ours that would be inherited.
		dir, err := os.Open("/")
		must(t, err)
		defer dir.Close()
		_, err = unix.FcntlInt(dir.Fd(), unix.F_SETFD, 0)
		must(t, err)
		for _, init := range []bool{false, true} {
			spec := newSpec(t, "fds")
			spec.Init = init
			got := run.ok(t, spec)
			var numbers []string
			for _, line := range strings.Split(strings.TrimSpace(got), "\n") {
				numbers = append(numbers, line[:1])
			}
			if strings.Join(numbers, "") != "012" {
				t.Errorf("init %v: open are\n%s", init, got)
			}
		}
	})
}

// The command's /proc/self/exe never leads to this program (CVE-2019-5736).
func TestOwnExecutable(t *testing.T) {
	exe, err := os.Executable()
	must(t, err)
	for _, tc := range []struct{ name, script, arg string }{
		{name: "command", arg: "/proc/self/exe"},
		{name: "interpreter", script: "#!/proc/self/exe\n", arg: "/bin/script"},
		{name: "interpreter with argument", script: "#!/proc/self/exe /etc/passwd\n", arg: "/bin/script"},
		{name: "loader", script: loaderELF("/proc/self/exe"), arg: "/bin/script"},
		{name: "process 1", script: "#!/proc/1/exe\n", arg: "/bin/script"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachCarrier(t, func(t *testing.T, run runner) {
				for _, init := range []bool{false, true} {
					spec := newSpec(t)
					if tc.script != "" {
						writeInRoot(t, spec.Root, "bin/script", tc.script)
					}
					spec.Args, spec.Init = []string{tc.arg, "echo", "pwned"}, init
					out, err := run.output(t, spec)
					// If it were this program it would print, or be the
					// carrier and fail with another code.
					if code := exitCode(t, err); code != 127 || out != "" {
						t.Errorf("init %v: code %d, %v, %q", init, code, err, out)
					}
				}
			})
		})
	}
	if again, err := os.Executable(); err != nil || again != exe {
		t.Errorf("executable is %q now, %v", again, err)
	}
}

// loaderELF is an executable whose loader is at a path.
func loaderELF(loader string) string {
	b := elfFile([]byte{0xcc}, nil)
	// The second header becomes PT_INTERP, for a string at the end.
	ph := b[64+56:]
	ph[0], ph[1], ph[2], ph[3] = 3, 0, 0, 0
	ph[8] = byte(len(b))
	for _, off := range []int{32, 40} {
		ph[off] = byte(len(loader) + 1)
	}
	return string(b) + loader + "\x00"
}

// With the reaper /proc/1/exe is the trampoline, which can't be written to.
func TestTrampolineIsSealed(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		spec := newSpec(t, "append-proc-exe")
		spec.Init = true
		if got := run.ok(t, spec); got != "ETXTBSY\n" {
			t.Errorf("open for writing: %s", got)
		}
	})
	tr, err := newTrampolines()
	must(t, err)
	for _, f := range []*os.File{tr.exec, tr.init} {
		if _, err := f.WriteAt([]byte{0}, 0); err == nil {
			t.Error("a sealed trampoline was written to")
		}
		f.Close()
	}
}

func TestRlimits(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		var own unix.Rlimit
		must(t, unix.Getrlimit(unix.RLIMIT_NPROC, &own))
		spec := newSpec(t, "rlimit", "nofile", ";", "rlimit", "core", ";", "rlimit", "nproc")
		spec.Rlimits = []Rlimit{{"nofile", 512, 700}, {"core", 0, 0}, {"nproc", int64(own.Max), int64(own.Max) + 1}}
		var warned []string
		spec.Warn = func(m string) { warned = append(warned, m) }
		hard := own.Max
		if run.host.caps.has(unix.CAP_SYS_RESOURCE) {
			hard++
		}
		want := fmt.Sprintf("512 700\n0 0\n%d %d\n", own.Max, hard)
		if got := run.ok(t, spec); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if (len(warned) == 1) != (hard == own.Max) {
			t.Errorf("warnings %q", warned)
		}
	})
}

func TestUnknownLimit(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		for _, r := range []Rlimit{{"files", 1, 1}, {"nofile", 2, 1}, {"nofile", -2, -1}, {"core", -1, 5}} {
			spec := newSpec(t, "exit", "0")
			spec.Rlimits = []Rlimit{r}
			if _, err := run.start(t.Context(), spec); exitCode(t, err) != 125 {
				t.Errorf("%v: %v", r, err)
			}
		}
	})
}

func TestNamespaces(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		spec := newSpec(t, "hostname", ";", "session", ";", "cat", "/etc/hostname", ";", "cat", "/proc/self/cgroup")
		spec.Hostname = "boxed"
		got := run.ok(t, spec)
		if !strings.HasPrefix(got, "boxed\nsession 1 ok\nboxed\n") || !strings.Contains(got, "\n0::/\n") {
			t.Errorf("got %q", got)
		}
		own, err := os.Hostname()
		must(t, err)
		if own == "boxed" {
			t.Error("the machine has been renamed")
		}
		spec = newSpec(t, "lo", ";", "hostname")
		spec.Network = NetworkNone
		if got, want := run.ok(t, spec), "lo 0x9\n"+spec.ID[:12]+"\n"; got != want {
			t.Errorf("without network: %q, want %q", got, want)
		}
		keyring := run.ok(t, newSpec(t, "keyring"))
		own2, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
		if err == nil && keyring == fmt.Sprintln(own2, "ok") {
			t.Errorf("shares our session keyring %s", keyring)
		}
	})
}

// System calls that docker's profile denies, and how.
func TestSeccompInContainer(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		for _, tc := range []struct{ call, want string }{
			{fmt.Sprintf("syscall %d 0x10000000", unix.SYS_UNSHARE), "EPERM"}, // CLONE_NEWUSER
			{fmt.Sprintf("syscall %d 0 0 0 0 0", unix.SYS_MOUNT), "EPERM"},
			{fmt.Sprintf("syscall %d 0 0", unix.SYS_CLONE3), "ENOSYS"},
			{fmt.Sprintf("syscall %d 0x10000011 0 0 0 0", unix.SYS_CLONE), "EPERM"},
			{fmt.Sprintf("syscall %d 0 0 0", unix.SYS_KEXEC_LOAD), "EPERM"},
			{fmt.Sprintf("syscall %d 0 0", unix.SYS_BPF), "EPERM"},
			{fmt.Sprintf("syscall %d 0xffffffff", unix.SYS_PERSONALITY), "ok"},
			{fmt.Sprintf("syscall %d 0x0400000", unix.SYS_PERSONALITY), "EPERM"},
			{"syscall 480 0", "ENOSYS"},
			{fmt.Sprintf("socket %d %d", unix.AF_INET, unix.SOCK_DGRAM), "ok"},
			{fmt.Sprintf("socket %d %d", unix.AF_ALG, unix.SOCK_SEQPACKET), "EPERM"},
			{fmt.Sprintf("socket %d %d", unix.AF_VSOCK, unix.SOCK_STREAM), "EPERM"},
		} {
			if got := strings.TrimSpace(run.ok(t, newSpec(t, strings.Fields(tc.call)...))); got != tc.want {
				t.Errorf("%s: %s, want %s", tc.call, got, tc.want)
			}
		}
		// With CAP_SYS_ADMIN the profile allows more.
		spec := newSpec(t, "syscall", fmt.Sprint(unix.SYS_UNSHARE), "0x20000")
		spec.CapAdd = []string{"SYS_ADMIN"}
		if got := run.ok(t, spec); got != "ok\n" {
			t.Errorf("unshare with CAP_SYS_ADMIN: %s", got)
		}
	})
}

func TestSeccompProfile(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		name := filepath.Join(t.TempDir(), "profile.json")
		must(t, os.WriteFile(name, []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}`), 0o644))
		spec := newSpec(t, "mkdir", "/new")
		spec.Seccomp = name
		out, err := run.output(t, spec)
		if exitCode(t, err) != 98 || !strings.Contains(out, "no space left on device") {
			t.Errorf("%v: %q", err, out)
		}
		for _, bad := range []string{"{", `{"defaultAction":"SCMP_ACT_NOTIFY"}`, `{"defaultAction":"x"}`} {
			must(t, os.WriteFile(name, []byte(bad), 0o644))
			spec := newSpec(t, "exit", "0")
			spec.Seccomp = name
			if _, err := run.start(t.Context(), spec); exitCode(t, err) != 125 {
				t.Errorf("profile %s: %v", bad, err)
			}
		}
	})
}

// The namespaces hold nothing of the machine's files.
func TestNoWayOut(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		want := run.ok(t, newSpec(t, "mkdir", "/tmp/jail", ";", "ls", "/"))
		if got := run.ok(t, newSpec(t, "escape")); got != want {
			t.Errorf("after the escape / has\n%s, want\n%s", got, want)
		}
		mounts := run.ok(t, newSpec(t, "cat", "/proc/self/mountinfo"))
		for _, line := range strings.Split(mounts, "\n") {
			if f := strings.Fields(line); len(f) > 4 && f[4] == "/" && !strings.Contains(line, "overlay") {
				t.Errorf("mounted at /: %s", line)
			}
		}
	})
}

func TestRootNeeded(t *testing.T) {
	if os.Geteuid() == 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		must(t, setresuid(4242))
		defer func() { must(t, setresuid(0)) }()
	}
	if _, err := newHost(); err == nil || !strings.Contains(err.Error(), "needs root") {
		t.Errorf("error %v", err)
	}
}

// setresuid sets the effective user of the calling thread alone.
func setresuid(uid uintptr) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uid, ^uintptr(0)); errno != 0 {
		return errno
	}
	return nil
}
