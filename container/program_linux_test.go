// SPDX-License-Identifier: Apache-2.0

package container

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"builder/internal/testutil"
	"builder/mount"
)

// steps plans a container and returns the names of its program's steps.
func steps(t *testing.T, change func(*Spec)) []string {
	t.Helper()
	spec := newSpec(t, "exit", "0")
	change(&spec)
	return stepsOf(t, spec)
}

func stepsOf(t *testing.T, spec Spec) []string {
	t.Helper()
	testutil.Require(t, "root")
	h, err := theHost()
	must(t, err)
	p, err := newPlan(h, &spec)
	must(t, err)
	must(t, p.abandon())
	var names []string
	for _, s := range p.prog.steps {
		names = append(names, s.name)
	}
	return names
}

func TestOrder(t *testing.T) {
	everything := func(s *Spec) {
		s.Network, s.Terminal, s.ReadOnly, s.KillWithParent, s.User, s.Dir = NetworkNone, true, true, true, "ada", "/data/sub"
		s.Mounts = []mount.Mount{{Type: mount.Tmpfs, Target: "/data"}, {Type: mount.Tmpfs, Target: "/dev/mqueue"}}
	}
	inOrder := func(t *testing.T, names, want []string) {
		t.Helper()
		at := -1
		for _, w := range want {
			i := slices.Index(names, w)
			if i <= at {
				t.Errorf("%q is step %d, after one that is %d\n%s", w, i, at, strings.Join(names, "\n"))
			}
			at = max(at, i)
		}
	}
	names := steps(t, everything)
	inOrder(t, names, []string{
		"new session", "join template mount namespace", "new mount namespace", "set up lo",
		"mount /", "enter /", "mount /proc", "mount /dev", "mount /dev/pts", "mount /dev/shm", "mount /dev/console", "mount /sys", "mount /sys/fs/cgroup",
		"mount /etc files", "mount /etc/resolv.conf", "open mount point /data", "mount /data", "open mount point /dev/mqueue", "mount /dev/mqueue",
		"make /proc/sys read-only", "mount /proc/sys", "mask /proc/keys: copy null", "mount /proc/keys", "mount /sys/firmware",
		"make / read-only", "chroot",
		"set stdin", "set controlling terminal", "set report descriptor", "close descriptors",
		"set umask", "make working directory", "enter working directory /data/sub", "check working directory",
		"limit nofile", "new session keyring", "drop CAP_SYS_ADMIN from bounding set",
		"load seccomp filter", "set groups", "set group id", "clear ambient capabilities", "set user id", "set capabilities",
		"watch parent", "check parent", "unblock signals", "execute trampoline",
	})
	if last := names[len(names)-1]; last != "execute trampoline" {
		t.Errorf("last is %q", last)
	}
	if slices.Contains(names, "set no_new_privs") || slices.Contains(names, "drop CAP_CHOWN from bounding set") {
		t.Errorf("too much is dropped:\n%s", strings.Join(names, "\n"))
	}
	// With no_new_privs the filter is loaded last, so that it may deny all of
	// the above.
	names = steps(t, func(s *Spec) { s.NoNewPrivileges = true })
	inOrder(t, names, []string{"set capabilities", "unblock signals", "set no_new_privs", "load seccomp filter", "execute trampoline"})
	names = steps(t, func(s *Spec) { s.Privileged = true })
	for _, name := range names {
		if strings.HasPrefix(name, "mask ") || strings.Contains(name, "read-only") || name == "load seccomp filter" {
			t.Errorf("privileged, but %q", name)
		}
	}
	// What only the machine's root may do is done before.
	spec, _ := mappedSpec(t, "id")
	names = stepsOf(t, spec)
	inOrder(t, names, []string{
		"mount /proc", "mount /sys", "chroot", "close descriptors", "limit nofile", "join user namespace",
		"become root of user namespace", "drop CAP_SYS_ADMIN from bounding set", "load seccomp filter", "set user id", "execute trampoline",
	})
	// No image path is named but in the working directory and mount points,
	// which are opened within the root.
	names = steps(t, func(s *Spec) { s.Mounts = []mount.Mount{{Type: mount.Tmpfs, Target: "/dev"}} })
	for _, name := range names {
		if name == "mount /dev/pts" || name == "mount /dev/shm" {
			t.Errorf("/dev is the Spec's, but %q", name)
		}
	}
	if !slices.Contains(names, "mask /proc/keys: copy null") {
		t.Error("/dev is the Spec's, and nothing is masked")
	}
}

// The program's images do what they say, wherever they are mapped.
func TestWalk(t *testing.T) {
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	defer w.Close()
	var p program
	text := p.str("hello ")
	p.do("write", unix.SYS_WRITE, p.file(w), text, num(6))
	p.do("tolerated", unix.SYS_CLOSE, num(-1))
	p.ignore(1, unix.EBADF)
	p.do("skipped", unix.SYS_WRITE, p.file(w), text, num(6))
	p.do("tolerated too", unix.SYS_CLOSE, num(-1))
	p.ignore(0, anyErrno)
	fd := p.get("duplicate", unix.SYS_DUP, p.file(w))
	buf := p.bytes([]byte("world"))
	p.do("write to duplicate", unix.SYS_WRITE, fd, buf, num(5))
	p.do("close duplicate", unix.SYS_CLOSE, fd)
	p.check("check", buf, 'w', unix.EIO)
	p.do("read into", unix.SYS_PREADV, num(-1), p.words(buf, num(5)))
	p.ignore(0, unix.EBADF)
	vec := p.words(buf, num(2))
	p.do("write vector", unix.SYS_WRITEV, p.file(w), vec, num(1))
	mem := make([]uint64, p.size()/8)
	base := uintptr(unsafe.Pointer(&mem[0]))
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&mem[0])), p.size()), p.encode(base, int(w.Fd()), func(i int) int { return int(p.files[i].Fd()) }))
	walk(unsafe.Pointer(&mem[0]))
	got := make([]byte, 64)
	n, err := r.Read(got)
	must(t, err)
	if string(got[:n]) != "hello worldwo" {
		t.Errorf("got %q", got[:n])
	}
}

func TestFailureNamesStep(t *testing.T) {
	var p program
	p.do("mount /proc", unix.SYS_MOUNT)
	for index, want := range map[uint64]string{0: "mount /proc: operation not permitted", carrierReport: "enter process: operation not permitted", 7: "start: unknown step 7: operation not permitted"} {
		err := p.failure(index, uint64(unix.EPERM))
		if err.Error() != want || exitCode(t, err) != 125 {
			t.Errorf("%d: %v", index, err)
		}
	}
}

// The eBPF program decides as the rules say.
func TestDeviceCode(t *testing.T) {
	code := deviceCode(deviceRules)
	run := func(kind, access, major, minor uint32) uint64 {
		reg := [11]uint64{}
		ctx := [3]uint32{access<<16 | kind, major, minor}
		for pc := 0; ; pc++ {
			insn := code[8*pc:]
			op, dst, src := insn[0], insn[1]&15, insn[1]>>4
			off := int16(binary.NativeEndian.Uint16(insn[2:]))
			imm := int32(binary.NativeEndian.Uint32(insn[4:]))
			switch op {
			case 0x61:
				reg[dst] = uint64(ctx[off/4])
			case 0xbf:
				reg[dst] = reg[src]
			case 0xb7:
				reg[dst] = uint64(int64(imm))
			case 0x57:
				reg[dst] &= uint64(int64(imm))
			case 0x77:
				reg[dst] >>= uint(imm)
			case 0x55:
				if reg[dst] != uint64(int64(imm)) {
					pc += int(off)
				}
			case 0x95:
				return reg[0]
			default:
				t.Fatalf("instruction %#x", op)
			}
		}
	}
	for kind := uint32(1); kind <= 2; kind++ {
		for access := uint32(1); access < 8; access++ {
			for _, major := range []uint32{0, 1, 5, 10, 136, 254, 1 << 31} {
				for minor := range uint32(256) {
					want := uint64(0)
					for _, r := range deviceRules {
						if (r.kind == 'c') == (kind == unix.BPF_DEVCG_DEV_CHAR) && access&^r.access == 0 &&
							(r.major < 0 || uint32(r.major) == major) && (r.minor < 0 || uint32(r.minor) == minor) {
							want = 1
						}
					}
					if got := run(kind, access, major, minor); got != want {
						t.Fatalf("kind %d access %d device %d:%d: %d, want %d", kind, access, major, minor, got, want)
					}
				}
			}
		}
	}
}

func TestCandidates(t *testing.T) {
	for _, tc := range []struct {
		command, path string
		want          []string
	}{
		{"/bin/x", "PATH=/a", []string{"/bin/x"}},
		{"./x", "PATH=/a", []string{"./x"}},
		{"x", "PATH=/a:/b/", []string{"/a/x", "/b/x"}},
		{"x", "PATH=:/a::rel", []string{"./x", "/a/x", "./x", "rel/x"}},
		{"x", "PATH=/", []string{"/x"}},
	} {
		if got := candidates(tc.command, []string{"A=1", tc.path}); !slices.Equal(got, tc.want) {
			t.Errorf("%s in %s: %q, want %q", tc.command, tc.path, got, tc.want)
		}
	}
	if got := candidates("x", []string{"PATH=" + strings.Repeat("/a:", 1000)}); len(got) != maxCandidates {
		t.Errorf("%d candidates", len(got))
	}
}

func TestCapabilityNames(t *testing.T) {
	if got := fmt.Sprint(defaultCaps.names()); got != "[CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_NET_RAW CAP_SYS_CHROOT CAP_MKNOD CAP_AUDIT_WRITE CAP_SETFCAP]" {
		t.Error(got)
	}
	const every capSet = 1<<len(capNames) - 1
	for _, tc := range []struct {
		add, drop string
		want      capSet
	}{
		{"", "", defaultCaps},
		{"CAP_SYS_PTRACE", "cap_chown", defaultCaps | 1<<unix.CAP_SYS_PTRACE&^1},
		{"ALL", "chown", every &^ 1},
		{"all", "ALL", every},
		{"chown", "all", 1},
		{"chown", "chown", defaultCaps},
	} {
		split := func(s string) []string { return strings.Fields(s) }
		got, err := wantedCaps(&Spec{CapAdd: split(tc.add), CapDrop: split(tc.drop)})
		want := tc.want
		if tc.add == "CAP_SYS_PTRACE" {
			want = (defaultCaps | 1<<unix.CAP_SYS_PTRACE) &^ 1
		}
		if err != nil || got != want {
			t.Errorf("add %q, drop %q: %v, %v", tc.add, tc.drop, got.names(), err)
		}
	}
	if _, err := wantedCaps(&Spec{CapAdd: []string{"EVERYTHING"}}); err == nil {
		t.Error("no error for an unknown capability")
	}
}
