// SPDX-License-Identifier: Apache-2.0

package container

import (
	"encoding/binary"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// write makes the child's program out of the prepared plan. The order of its
// parts matters, and a test holds it:
//
//   - The container's root is mounted over the template's, so that paths of
//     the template are absolute until chroot, and those of the container are
//     relative to opened directories of it.
//   - What is written to /proc is written before the Spec's mounts are there,
//     of which an image may make that they cover a file of it (CVE-2025-52881).
//   - Descriptors are closed before the working directory is entered: it must
//     not lead to one of them (CVE-2024-21626).
//   - A user namespace is joined after everything that only the machine's root
//     may do, such as to raise limits.
//   - Seccomp is loaded while the process has CAP_SYS_ADMIN still, unless
//     no_new_privs is set: without that one the kernel asks for the other.
//   - The user changes after everything that only root may do, and the
//     capabilities after the user.
//   - The parent's death is watched last, as a change of the user ends it.
func (p *plan) write() {
	p.writeNamespaces()
	p.writeRoot()
	p.writeFileSystems()
	p.writeAppArmor(p.proc, "thread-self/attr/apparmor/exec")
	p.writeMounts()
	p.writeMasks()
	p.writeEnter()
	p.writeStreams()
	p.writeProcess(p.writeOwnMounts)
}

// writeProcess makes the rest, which is that of a process which enters a
// container, too. joined is called when the user namespace has been joined.
func (p *plan) writeProcess(joined func()) {
	if p.spec.UserNS == nil {
		p.writeDir()
	}
	p.writeLimits()
	p.writeUserNS()
	joined()
	if p.spec.UserNS != nil {
		p.writeDir() // which the container's root makes
	}
	if p.spec.BeforeExec != nil {
		p.writeReady()
	}
	p.writeConfinement()
	p.writeExec()
}

// Flags of the namespaces that a child is made in. The mount and control group
// namespaces are made by its program, as they copy what it is in.
func (p *plan) cloneFlags() uintptr {
	flags := uintptr(0)
	for _, own := range []struct {
		Sharing
		flag uintptr
	}{{p.spec.PID, unix.CLONE_NEWPID}, {p.spec.IPC, unix.CLONE_NEWIPC}, {p.spec.UTS, unix.CLONE_NEWUTS}} {
		if own.With == ShareNot {
			flags |= own.flag
		}
	}
	if p.spec.Network == NetworkNone && p.spec.NetNS == nil {
		flags |= unix.CLONE_NEWNET
	}
	return flags
}

func (p *plan) writeNamespaces() {
	pr := &p.prog
	pr.do("new session", unix.SYS_SETSID)
	for _, procs := range p.v1procs {
		// "0" is the writer itself.
		pr.do("join control group of version 1", unix.SYS_WRITE, pr.file(procs), pr.str("0"), num(1))
	}
	pr.do("join template mount namespace", unix.SYS_SETNS, pr.file(p.host.template), num(unix.CLONE_NEWNS))
	unshared := unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP
	if p.spec.HostCgroupNS {
		unshared = unix.CLONE_NEWNS
	}
	pr.do("new mount namespace", unix.SYS_UNSHARE, num(unshared))
	if p.spec.NetNS != nil {
		pr.do("join network namespace", unix.SYS_SETNS, pr.file(p.spec.NetNS), num(unix.CLONE_NEWNET))
	}
	if p.spec.Network == NetworkNone {
		p.writeLoopback()
	}
	if ipc := p.spec.IPC; ipc.With == ShareOther {
		pr.do("join IPC namespace", unix.SYS_SETNS, pr.file(ipc.NS), num(unix.CLONE_NEWIPC))
	}
	switch uts := p.spec.UTS; uts.With {
	case ShareOther:
		pr.do("join UTS namespace", unix.SYS_SETNS, pr.file(uts.NS), num(unix.CLONE_NEWUTS))
	case ShareNot:
		pr.do("set host name", unix.SYS_SETHOSTNAME, pr.str(p.hostname), num(len(p.hostname)))
		if p.host.maskedProc {
			pr.ignore(0, unix.EPERM) // the container that this is in may forbid it
		}
		if name := p.spec.Domainname; name != "" {
			pr.do("set domain name", unix.SYS_SETDOMAINNAME, pr.str(name), num(len(name)))
		}
	}
}

// writeLoopback sets lo up.
func (p *plan) writeLoopback() {
	pr := &p.prog
	s := pr.get("open socket", unix.SYS_SOCKET, num(unix.AF_INET), num(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), num(0))
	ifreq := make([]byte, 40)
	copy(ifreq, "lo")
	binary.NativeEndian.PutUint16(ifreq[unix.IFNAMSIZ:], unix.IFF_UP)
	pr.do("set up lo", unix.SYS_IOCTL, s, num(unix.SIOCSIFFLAGS), pr.bytes(ifreq))
}

func (p *plan) writeRoot() {
	pr := &p.prog
	pr.do("mount /", unix.SYS_MOVE_MOUNT, pr.file(p.root), pr.str(""), cwd, pr.str("/"), num(unix.MOVE_MOUNT_F_EMPTY_PATH))
	pr.do("enter /", unix.SYS_FCHDIR, pr.file(p.root))
}

// moveTo mounts a detached mount on an opened file or directory.
func (p *plan) moveTo(name string, m, target arg) {
	pr := &p.prog
	pr.do("mount "+name, unix.SYS_MOVE_MOUNT, m, pr.str(""), target, pr.str(""),
		num(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// moveInto mounts a detached mount on an entry of a directory that is ours or
// the kernel's: the name is resolved there.
func (p *plan) moveInto(name string, m, dir arg, entry string) {
	pr := &p.prog
	pr.do("mount "+name, unix.SYS_MOVE_MOUNT, m, pr.str(""), dir, pr.str(entry), num(unix.MOVE_MOUNT_F_EMPTY_PATH))
}

// newFS mounts a file system that shows a namespace of the child, detached.
func (p *plan) newFS(name, kind string, attr uintptr) arg {
	pr := &p.prog
	fs := pr.get("mount "+name+": fsopen", unix.SYS_FSOPEN, pr.str(kind), num(unix.FSOPEN_CLOEXEC))
	pr.do("mount "+name+": source", unix.SYS_FSCONFIG, fs, num(unix.FSCONFIG_SET_STRING), pr.str("source"), pr.str(kind), num(0))
	pr.do("mount "+name+": create", unix.SYS_FSCONFIG, fs, num(unix.FSCONFIG_CMD_CREATE), num(0), num(0), num(0))
	return pr.get("mount "+name+": fsmount", unix.SYS_FSMOUNT, fs, num(unix.FSMOUNT_CLOEXEC), num(attr))
}

const noneOfThree = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

func (p *plan) writeFileSystems() {
	pr := &p.prog
	sysAttr := uintptr(noneOfThree | unix.MOUNT_ATTR_RDONLY)
	if p.spec.Privileged {
		sysAttr = noneOfThree
	}
	if point := p.point("/proc"); point != nil {
		if p.host.maskedProc {
			p.proc = p.machineFS("/proc", noneOfThree)
		} else {
			p.proc = p.newFS("/proc", "proc", noneOfThree)
		}
		p.moveTo("/proc", p.proc, pr.file(point))
	}
	p.writeOOM(p.proc, "self/oom_score_adj")
	for _, s := range p.sysctls {
		name := "set " + s.name
		f := pr.get(name, unix.SYS_OPENAT2, p.proc, pr.str("sys/"+s.path), p.inProc(), sizeofHow)
		if s.optional {
			pr.ignore(2, anyErrno)
		}
		pr.do(name+"="+s.value, unix.SYS_WRITE, f, pr.str(s.value), num(len(s.value)))
		if s.optional {
			pr.ignore(0, anyErrno)
		}
		pr.do(name, unix.SYS_CLOSE, f)
	}
	if point := p.point("/dev"); point != nil {
		p.writeDev(pr.file(point))
	}
	if point := p.point("/sys"); point != nil {
		if p.newSys() {
			p.sys = p.newFS("/sys", "sysfs", sysAttr)
		} else {
			p.sys = p.machineFS("/sys", sysAttr)
		}
		p.moveTo("/sys", p.sys, pr.file(point))
		if !p.mounted("/sys/fs/cgroup") {
			cgroupAttr := sysAttr
			if p.spec.WritableCgroups {
				cgroupAttr = noneOfThree
			}
			p.moveInto("/sys/fs/cgroup", p.newFS("/sys/fs/cgroup", "cgroup2", cgroupAttr), p.sys, "fs/cgroup")
		}
	}
	// A mount of one file can be made only of what is mounted: so all of
	// them are, in a place that is out of sight.
	pr.do("mount /etc files", unix.SYS_MOVE_MOUNT, pr.file(p.etc), pr.str(""), cwd, pr.str(templateFiles), num(unix.MOVE_MOUNT_F_EMPTY_PATH))
	for _, point := range p.points {
		if entry, ok := strings.CutPrefix(point.name, "/etc/"); ok {
			p.moveTo(point.name, p.copyEtc(entry), pr.file(point.file))
		}
	}
	for i, f := range p.coveredEtc {
		p.coveredEtc[i].tree = p.copyEtc(path.Base(f.name))
	}
}

// copyEtc makes the mount of one of the /etc files, which can't be written to where the
// root can't.
func (p *plan) copyEtc(name string) arg {
	pr := &p.prog
	m := pr.get("copy /etc/"+name, unix.SYS_OPEN_TREE, pr.file(p.etc), pr.str(name), num(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC))
	if p.spec.ReadOnly {
		pr.do("set flags of /etc/"+name, unix.SYS_MOUNT_SETATTR, m, pr.str(""), num(unix.AT_EMPTY_PATH),
			pr.bytes(mountAttr(unix.MOUNT_ATTR_RDONLY)), num(unix.MOUNT_ATTR_SIZE_VER0))
	}
	return m
}

// setsOOM tells whether writeOOM has anything to do.
func (p *plan) setsOOM() bool { return p.oomScoreAdj != 0 || p.host.oomScoreAdj < 0 }

// writeOOM sets how soon the kernel kills the process for want of memory. The
// container is not to be protected as the builder is, unless it is asked for.
func (p *plan) writeOOM(dir arg, name string) {
	if !p.setsOOM() {
		return
	}
	pr := &p.prog
	value := strconv.Itoa(p.oomScoreAdj)
	f := pr.get("open oom_score_adj", unix.SYS_OPENAT, dir, pr.str(name), num(unix.O_WRONLY|unix.O_CLOEXEC), num(0))
	pr.do("set oom_score_adj", unix.SYS_WRITE, f, pr.str(value), num(len(value)))
	pr.do("set oom_score_adj", unix.SYS_CLOSE, f)
}

func (p *plan) writeDev(point arg) {
	pr := &p.prog
	dev := pr.file(p.dev)
	p.moveTo("/dev", dev, point)
	p.writeDevices(dev)
	p.moveInto("/dev/pts", pr.file(p.pts), dev, "pts")
	if p.shm != nil {
		p.moveInto("/dev/shm", pr.file(p.shm), dev, "shm")
	}
	if !p.mounted("/dev/mqueue") {
		p.moveInto("/dev/mqueue", p.newFS("/dev/mqueue", "mqueue", noneOfThree), dev, "mqueue")
	}
	if p.spec.Terminal {
		m := pr.get("copy terminal", unix.SYS_OPEN_TREE, pr.file(p.pts), pr.str("0"), num(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC))
		p.moveInto("/dev/console", m, dev, "console")
	}
}

// how is a struct open_how.
func (p *plan) how(flags, resolve uint64) arg {
	return p.prog.words(num(flags|unix.O_CLOEXEC), num(0), num(resolve))
}

// inProc opens a file of procfs for writing: nothing that is mounted in it.
func (p *plan) inProc() arg {
	return p.how(unix.O_WRONLY, unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_MAGICLINKS)
}

var sizeofHow = num(unsafe.Sizeof(unix.OpenHow{}))

func (p *plan) writeMounts() {
	pr := &p.prog
	for _, m := range p.mounts {
		// Earlier mounts are there now, so the target is looked up anew; it
		// can't lead out of the container's root.
		at := pr.get("open mount point "+m.target, unix.SYS_OPENAT2, pr.file(p.root), pr.str(m.target[1:]),
			p.how(unix.O_PATH, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS), sizeofHow)
		p.moveTo(m.target, p.attached(m), at)
	}
	for _, f := range p.coveredEtc {
		// In a mount that can't be written to it may not be there.
		at := pr.get("open mount point "+f.name, unix.SYS_OPENAT2, pr.file(p.root), pr.str(f.name[1:]),
			p.how(unix.O_PATH, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS), sizeofHow)
		pr.ignore(1, anyErrno)
		p.moveTo(f.name, f.tree, at)
	}
}

// attached is the mount to be moved. A part of a detached mount becomes one
// only once the whole is attached, which is done in a place out of sight.
func (p *plan) attached(m plannedMount) arg {
	pr := &p.prog
	if m.inside == nil {
		return pr.file(m.tree)
	}
	pr.do("attach source of "+m.target, unix.SYS_MOVE_MOUNT, pr.file(m.inside), pr.str(""), cwd, pr.str(templateFiles), num(unix.MOVE_MOUNT_F_EMPTY_PATH))
	part := pr.get("copy source of "+m.target, unix.SYS_OPEN_TREE, pr.file(m.tree), pr.str(""),
		num(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH))
	if m.attr != 0 {
		pr.do("set flags of "+m.target, unix.SYS_MOUNT_SETATTR, part, pr.str(""), num(unix.AT_EMPTY_PATH),
			pr.bytes(mountAttr(m.attr)), num(unix.MOUNT_ATTR_SIZE_VER0))
	}
	return part
}

// maskedPath is a path in /proc or /sys.
type maskedPath struct {
	in, path string
	dir      bool
}

// maskedPaths are hidden in a container, docker's list: a file shows /dev/null,
// a directory an empty one. They are looked up in the file system itself.
var maskedPaths = []maskedPath{
	{"/proc", "acpi", true},
	{"/proc", "asound", true},
	{"/proc", "interrupts", false},
	{"/proc", "kcore", false},
	{"/proc", "keys", false},
	{"/proc", "latency_stats", false},
	{"/proc", "timer_list", false},
	{"/proc", "timer_stats", false},
	{"/proc", "sched_debug", false},
	{"/proc", "scsi", true},
	{"/sys", "firmware", true},
	{"/sys", "devices/virtual/powercap", true},
}

// thermalPaths are the counters of each processor's overheating, which tell
// what other containers do.
func thermalPaths() (out []maskedPath) {
	const in = "/sys"
	found, err := filepath.Glob(in + "/devices/system/cpu/cpu[0-9]*/thermal_throttle")
	if err != nil {
		return nil // the pattern is right
	}
	for _, name := range found {
		out = append(out, maskedPath{in, strings.TrimPrefix(name, in+"/"), true})
	}
	return out
}

// readOnlyPaths can't be written to.
var readOnlyPaths = []string{"bus", "fs", "irq", "sys", "sysrq-trigger"}

// unmasked says whether a path is not to be masked or made read-only.
func (s *Spec) unmasked(name string) bool {
	return s.Privileged || slices.ContainsFunc(s.Unmask, func(pattern string) bool {
		match, err := path.Match(pattern, name)
		return pattern == "ALL" || err == nil && match
	})
}

// ProtectedPaths are the paths that a container doesn't see, and those of /proc that it
// can't write to, whether this kernel has them or not.
func (s *Spec) ProtectedPaths() (masked, readOnly []string) {
	masked, readOnly = []string{}, []string{}
	for _, m := range slices.Concat(maskedPaths, thermalPaths()) {
		if name := m.in + "/" + m.path; !s.unmasked(name) {
			masked = append(masked, name)
		}
	}
	for _, name := range s.Mask {
		masked = append(masked, path.Clean("/"+name))
	}
	for _, name := range readOnlyPaths {
		if name = "/proc/" + name; !s.unmasked(name) {
			readOnly = append(readOnly, name)
		}
	}
	return masked, readOnly
}

func (p *plan) writeMasks() {
	pr := &p.prog
	const clone = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	if p.point("/proc") != nil {
		attr := pr.bytes(mountAttr(noneOfThree | unix.MOUNT_ATTR_RDONLY))
		for _, name := range readOnlyPaths {
			if p.spec.unmasked("/proc/" + name) {
				continue
			}
			m := pr.get("copy /proc/"+name, unix.SYS_OPEN_TREE, p.proc, pr.str(name), num(clone|unix.AT_RECURSIVE))
			pr.ignore(2, unix.ENOENT)
			pr.do("make /proc/"+name+" read-only", unix.SYS_MOUNT_SETATTR, m, pr.str(""),
				num(unix.AT_EMPTY_PATH|unix.AT_RECURSIVE), attr, num(unix.MOUNT_ATTR_SIZE_VER0))
			p.moveInto("/proc/"+name, m, p.proc, name)
		}
	}
	for _, mask := range append(maskedPaths[:len(maskedPaths):len(maskedPaths)], p.host.throttles...) {
		fs := map[string]arg{"/proc": p.proc, "/sys": p.sys}[mask.in]
		if p.point(mask.in) == nil {
			continue
		}
		name := mask.in + "/" + mask.path
		if p.spec.unmasked(name) {
			continue
		}
		// Not every kernel has every one. To look first is cheaper than to
		// copy a mount in vain: undoing that waits for all processors.
		at := pr.get("mask "+name+": open", unix.SYS_OPENAT, fs, pr.str(mask.path), num(unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC), num(0))
		pr.ignore(2, unix.ENOENT)
		var m arg
		if mask.dir {
			m = pr.get("mask "+name+": copy empty directory", unix.SYS_OPEN_TREE, cwd, pr.str(templateEmpty), num(clone))
		} else {
			m = p.copyNull(name)
		}
		p.moveTo(name, m, at)
	}
	for _, name := range p.spec.Mask {
		p.writeMask(path.Clean("/" + name))
	}
}

// copyNull copies what a masked file shows. It is made by us and out of the
// container's reach, whatever there is at its /dev/null (CVE-2025-31133).
func (p *plan) copyNull(name string) arg {
	pr := &p.prog
	dir, file := pr.file(p.dev), "null"
	if p.point("/dev") == nil || p.host.rootless { // ours is nowhere, and so can't be copied
		dir, file = cwd, templateNull
	}
	return pr.get("mask "+name+": copy null", unix.SYS_OPEN_TREE, dir, pr.str(file), num(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC))
}

// writeMask masks a path of the container, of which isn't known whether it is a
// file or a directory, or there at all: both are tried.
func (p *plan) writeMask(name string) {
	pr := &p.prog
	const clone = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	at := pr.get("mask "+name+": open", unix.SYS_OPENAT2, pr.file(p.root), pr.str(name[1:]),
		p.how(unix.O_PATH, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS), sizeofHow)
	pr.ignore(4, unix.ENOENT, unix.ENOTDIR)
	p.moveTo(name, p.copyNull(name), at)
	pr.ignore(0, unix.ENOTDIR, unix.EINVAL) // a directory
	empty := pr.get("mask "+name+": copy empty directory", unix.SYS_OPEN_TREE, cwd, pr.str(templateEmpty), num(clone))
	p.moveTo(name, empty, at)
	pr.ignore(0, unix.ENOTDIR, unix.EINVAL) // a file
}

// writeAppArmor has the kernel change the profile at the next execve. The file is
// one of the kernel's own: it is opened below the mount of /proc that was just
// made (CVE-2019-16884).
func (p *plan) writeAppArmor(dir arg, file string) {
	if p.spec.AppArmor == "" || p.spec.AppArmor == unconfined {
		return
	}
	pr := &p.prog
	name, text := "set AppArmor profile "+p.spec.AppArmor, "exec "+p.spec.AppArmor
	f := pr.get(name, unix.SYS_OPENAT2, dir, pr.str(file), p.inProc(), sizeofHow)
	pr.do(name, unix.SYS_WRITE, f, pr.str(text), num(len(text)))
	pr.do(name, unix.SYS_CLOSE, f)
}

// mountAttr is a struct mount_attr that sets flags.
func mountAttr(set uint64) []byte {
	b := make([]byte, unix.MOUNT_ATTR_SIZE_VER0)
	binary.NativeEndian.PutUint64(b, set)
	return b
}

// writeEnter makes the container's root the process's.
func (p *plan) writeEnter() {
	pr := &p.prog
	if p.spec.ReadOnly {
		pr.do("make / read-only", unix.SYS_MOUNT_SETATTR, pr.file(p.root), pr.str(""), num(unix.AT_EMPTY_PATH),
			pr.bytes(mountAttr(unix.MOUNT_ATTR_RDONLY)), num(unix.MOUNT_ATTR_SIZE_VER0))
	}
	pr.do("chroot", unix.SYS_CHROOT, pr.str("."))
}

// Descriptors of the child when it executes the trampoline, besides 0 to 2.
const (
	reportFD     = 3
	trampolineFD = 4
)

func (p *plan) writeStreams() {
	pr := &p.prog
	for i, name := range []string{"stdin", "stdout", "stderr"} {
		pr.do("set "+name, unix.SYS_DUP3, pr.file(p.io.child[i]), num(i), num(0))
	}
	if p.spec.Terminal {
		pr.do("set controlling terminal", unix.SYS_IOCTL, num(0), num(unix.TIOCSCTTY), num(0))
	}
	pr.do("set report descriptor", unix.SYS_DUP3, pr.file(p.errfd), num(reportFD), num(0)).result = resultErrfd
	trampoline := p.host.trampolines.exec
	if p.spec.Init {
		trampoline = p.host.trampolines.init
	}
	pr.do("set trampoline descriptor", unix.SYS_DUP3, pr.file(trampoline), num(trampolineFD), num(unix.O_CLOEXEC))
	kept := p.keptFiles()
	for _, f := range kept {
		pr.do("set descriptor of "+f.Name(), unix.SYS_DUP3, pr.file(f), num(p.keptFD(f)), num(unix.O_CLOEXEC))
	}
	pr.do("close descriptors", unix.SYS_CLOSE_RANGE, num(trampolineFD+1+len(kept)), num(^uint32(0)), num(0))
}

// keptFiles are what the child needs besides until it executes the trampoline.
func (p *plan) keptFiles() (out []*os.File) {
	if p.listener != nil {
		out = append(out, p.listener)
	}
	if p.spec.UserNS != nil {
		out = append(out, p.spec.UserNS.File)
	}
	return out
}

// keptFD is the child's descriptor of one of them.
func (p *plan) keptFD(f *os.File) int { return trampolineFD + 1 + slices.Index(p.keptFiles(), f) }

func (p *plan) writeDir() {
	pr := &p.prog
	pr.do("set umask", unix.SYS_UMASK, num(0o022))
	if len(p.mounts) > 0 {
		// In a mount the directory can only be made now, as runc does it. From
		// here on no path leads out of the container.
		for i := 1; i <= len(p.dir); i++ {
			if i == len(p.dir) || p.dir[i] == '/' {
				// Not by way of a link to the machine's files, as /proc can have it.
				parent, base := path.Split(p.dir[:i])
				at := pr.get("make working directory", unix.SYS_OPENAT2, cwd, pr.str(parent),
					p.how(unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS), sizeofHow)
				pr.ignore(2, anyErrno)
				pr.do("make working directory", unix.SYS_MKDIRAT, at, pr.str(base), num(0o755))
				pr.ignore(0, anyErrno)
				pr.do("make working directory", unix.SYS_CLOSE, at)
			}
		}
	}
	name := "enter working directory " + p.dir
	d := pr.get(name, unix.SYS_OPENAT2, cwd, pr.str(p.dir),
		p.how(unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS), sizeofHow)
	pr.do(name, unix.SYS_FCHDIR, d)
	pr.do("close working directory", unix.SYS_CLOSE, d)
	// A directory outside of the root would be "(unreachable)/…".
	buf := pr.bytes(make([]byte, unix.PathMax))
	pr.do("check working directory", unix.SYS_GETCWD, buf, num(unix.PathMax))
	pr.check("check working directory", buf, '/', unix.EXDEV)
	if mask := p.spec.Umask; mask != nil {
		pr.do("set umask", unix.SYS_UMASK, num(int(*mask)))
	}
}

func (p *plan) writeLimits() {
	pr := &p.prog
	for _, r := range p.rlimits {
		pr.do("limit "+r.name, unix.SYS_PRLIMIT64, num(0), num(r.resource), pr.words(num(r.limit.Cur), num(r.limit.Max)), num(0))
	}
	pr.do("new session keyring", unix.SYS_KEYCTL, num(unix.KEYCTL_JOIN_SESSION_KEYRING), pr.str("builder-"+p.spec.ID))
	if p.host.bare {
		pr.ignore(0, unix.ENOSYS, unix.EPERM) // the container that this is in may forbid it
	} else {
		pr.ignore(0, unix.ENOSYS) // a kernel without keys
	}
}

func (p *plan) writeConfinement() {
	pr := &p.prog
	for c := 0; c <= p.host.lastCap; c++ {
		// In a new user namespace the set is full.
		if (p.host.bounding.has(c) || p.spec.UserNS != nil) && !p.caps.has(c) {
			pr.do("drop "+capSet(1 << c).names()[0]+" from bounding set", unix.SYS_PRCTL, num(unix.PR_CAPBSET_DROP), num(c), num(0), num(0), num(0))
		}
	}
	if !p.spec.NoNewPrivileges {
		p.writeSeccomp()
	}
	p.writePretend()
	groups := make([]byte, 0, 4*len(p.user.Groups)+4)
	ids := append([]uint32{p.user.GID}, p.user.Groups...)
	for _, g := range ids {
		groups = binary.NativeEndian.AppendUint32(groups, g)
	}
	if p.pretend || sys.MayMapGroups() {
		pr.do("set groups", unix.SYS_SETGROUPS, num(len(ids)), pr.bytes(groups))
	}
	pr.do("set group id", unix.SYS_SETRESGID, num(p.user.GID), num(p.user.GID), num(p.user.GID))
	pr.do("clear ambient capabilities", unix.SYS_PRCTL, num(unix.PR_CAP_AMBIENT), num(unix.PR_CAP_AMBIENT_CLEAR_ALL), num(0), num(0), num(0))
	if p.spec.AmbientCaps {
		pr.do("keep capabilities", unix.SYS_PRCTL, num(unix.PR_SET_KEEPCAPS), num(1), num(0), num(0), num(0))
	}
	// Another user than root loses all capabilities by this call.
	pr.do("set user id", unix.SYS_SETRESUID, num(p.user.UID), num(p.user.UID), num(p.user.UID))
	p.writeCaps()
	if p.spec.KillWithParent {
		p.writeParentDeath()
	}
	for _, sig := range ignoredSignals() {
		// execve resets handlers, but what is ignored stays so.
		pr.do(fmt.Sprintf("reset signal %d", sig), unix.SYS_RT_SIGACTION, num(sig), pr.bytes(make([]byte, 32)), num(0), num(8))
	}
	pr.do("unblock signals", unix.SYS_RT_SIGPROCMASK, num(2), pr.words(num(0)), num(0), num(8)) // SIG_SETMASK
	if p.spec.NoNewPrivileges {
		pr.do("set no_new_privs", unix.SYS_PRCTL, num(unix.PR_SET_NO_NEW_PRIVS), num(1), num(0), num(0), num(0))
		p.writeSeccomp()
	}
}

// writeCaps sets the capabilities of the process.
func (p *plan) writeCaps() {
	pr := &p.prog
	caps, inherited := p.caps, capSet(0)
	switch {
	case p.spec.AmbientCaps:
		inherited = caps
	case p.user.UID != 0:
		caps = 0
	}
	var data []byte // effective, permitted, inheritable: low words, then high
	for _, w := range []uint32{uint32(caps), uint32(caps), uint32(inherited), uint32(caps >> 32), uint32(caps >> 32), uint32(inherited >> 32)} {
		data = binary.NativeEndian.AppendUint32(data, w)
	}
	header := binary.NativeEndian.AppendUint64(nil, unix.LINUX_CAPABILITY_VERSION_3)
	pr.do("set capabilities", unix.SYS_CAPSET, pr.bytes(header), pr.bytes(data))
	for c := 0; c <= p.host.lastCap; c++ {
		if inherited.has(c) {
			pr.do("raise ambient "+capSet(1 << c).names()[0], unix.SYS_PRCTL, num(unix.PR_CAP_AMBIENT), num(unix.PR_CAP_AMBIENT_RAISE), num(c), num(0), num(0))
		}
	}
}

// lastSignal is the highest signal of Linux.
const lastSignal = 64

// ignoredSignals are the signals that this process ignores.
func ignoredSignals() (out []unix.Signal) {
	const ignored = 1 // SIG_IGN
	// Real-time signals too: the C library's posix_spawn leaves those that it
	// keeps for itself ignored in what it starts.
	for sig := unix.Signal(1); sig <= lastSignal; sig++ {
		var act [4]uintptr // struct kernel_sigaction: the handler comes first
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), 0, uintptr(unsafe.Pointer(&act)), 8, 0, 0)
		if errno == 0 && act[0] == ignored {
			out = append(out, sig)
		}
	}
	return out
}

// writeSeccomp loads the filter: what follows must be allowed by it.
func (p *plan) writeSeccomp() {
	if p.filter == nil {
		return
	}
	pr := &p.prog
	pr.do("load seccomp filter", unix.SYS_SECCOMP, num(unix.SECCOMP_SET_MODE_FILTER), num(p.filter.flags), p.writeFilter(p.filter.code))
}

// writeFilter is the address of a struct sock_fprog.
func (p *plan) writeFilter(filter []sockFilter) arg {
	code := make([]byte, 0, 8*len(filter))
	for _, i := range filter {
		code = binary.NativeEndian.AppendUint16(code, i.Code)
		code = append(code, i.Jt, i.Jf)
		code = binary.NativeEndian.AppendUint32(code, i.K)
	}
	// It begins with the length in 16 bits.
	return p.prog.words(num(len(filter)), p.prog.bytes(code))
}

// writeReady has the process wait until the parent has done what it does before
// the command is executed, and leave if that comes to nothing: then the other
// end is closed. No other process holds that end and waits itself, as the
// descriptors were closed.
func (p *plan) writeReady() {
	pr := &p.prog
	ready := make([]byte, 16)
	binary.NativeEndian.PutUint64(ready, readyReport)
	pr.do("report readiness", unix.SYS_WRITE, num(reportFD), pr.bytes(ready), num(len(ready)))
	pr.ignore(0, unix.EPIPE)
	answer := pr.bytes(make([]byte, 8))
	pr.do("wait for the parent", unix.SYS_READ, num(reportFD), answer, num(1))
	pr.check("wait for the parent", answer, 0, unix.EEXIST)
	pr.ignore(1, unix.EEXIST)
	pr.do("leave", unix.SYS_EXIT_GROUP, num(codeSetup))
}

func (p *plan) writeParentDeath() {
	pr := &p.prog
	pr.do("watch parent", unix.SYS_PRCTL, num(unix.PR_SET_PDEATHSIG), num(unix.SIGKILL), num(0), num(0), num(0))
	// The parent may be gone already. Only it holds the other end of the
	// socket, which then is closed.
	pollfd := make([]byte, 8)
	binary.NativeEndian.PutUint32(pollfd, reportFD)
	at := pr.bytes(pollfd)
	pr.do("check parent", unix.SYS_PPOLL, at, num(1), pr.words(num(0), num(0)), num(0), num(0))
	revents := at
	revents.v += 6
	pr.check("check parent", revents, 0, unix.ESRCH)
}

// writeExec executes the trampoline: its argv[0] begins with the number of candidates
// as one byte, they follow, and then the command's own arguments. Where it stays as
// process 1 it puts the first letter of its name in the place of the number.
func (p *plan) writeExec() {
	pr := &p.prog
	cands := candidates(p.spec.Args[0], p.env)
	argv := append([]string{string([]byte{byte(len(cands))}) + "uilder-init"}, cands...)
	argv = append(argv, p.spec.Args...)
	pr.do("execute trampoline", unix.SYS_EXECVEAT, num(trampolineFD), pr.str(""), pr.strings(argv), pr.strings(p.env), num(unix.AT_EMPTY_PATH))
}

// maxCandidates is what fits into the byte that counts them.
const maxCandidates = 255

// candidates are the paths that are executed in turn until one is there: the
// command itself if it has a slash, else in each directory of PATH.
func candidates(command string, env []string) []string {
	if strings.Contains(command, "/") {
		return []string{command}
	}
	var out []string
	for _, e := range env {
		list, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for dir := range strings.SplitSeq(list, ":") {
			if dir == "" {
				dir = "."
			}
			if len(out) < maxCandidates {
				out = append(out, strings.TrimRight(dir, "/")+"/"+command)
			}
		}
	}
	return out
}
