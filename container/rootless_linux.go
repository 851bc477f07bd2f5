// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
	"builder/mount"
)

// In a user namespace some of what a container gets can't be made anew, and is
// the machine's own, mounted once more:
//
//   - device nodes, as nobody there may make any;
//   - /sys, for who has the machine's network.
//
// A new /proc or /sys is allowed only where the mount namespace has a whole one
// (mount_too_revealing in the kernel), so the template has both.
//
// What a control group would enforce is only there if one is delegated. Then
// no device rules are needed: a device that the user may not open stays shut.

// templateSystem is where the template has the machine's /proc and /sys.
const templateSystem = "/system"

// fillSystem mounts them there; root is the template's. The namespace still
// has the machine's mounts.
func fillSystem(root *os.File) error {
	if err := unix.Mkdirat(int(root.Fd()), templateSystem[1:], 0o755); err != nil {
		return os.NewSyscallError("mkdirat", err)
	}
	for _, name := range []string{"proc", "sys"} {
		at := path.Join(templateSystem, name)[1:]
		if err := unix.Mkdirat(int(root.Fd()), at, 0o755); err != nil {
			return os.NewSyscallError("mkdirat", err)
		}
	}
	return nil
}

// mountSystem follows when root is attached.
func mountSystem(root *os.File, trees map[string]*os.File) error {
	for name, tree := range trees {
		if err := unix.MoveMount(int(tree.Fd()), "", int(root.Fd()), path.Join(templateSystem, name)[1:], unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mount the machine's /%s: %w", name, err)
		}
	}
	return nil
}

// openSystem copies the machine's /proc and /sys with all that is mounted
// there.
func openSystem() (map[string]*os.File, error) {
	trees := map[string]*os.File{}
	for _, name := range []string{"proc", "sys"} {
		tree, err := mount.Mount{Type: mount.Bind, Source: "/" + name, Recursive: true}.Open()
		if err != nil {
			closeAll(trees)
			return nil, err
		}
		trees[name] = tree
	}
	return trees, nil
}

func closeAll(trees map[string]*os.File) {
	for _, t := range trees {
		t.Close()
	}
}

// boundDevice is a device of the machine that is mounted in a container's
// /dev.
type boundDevice struct {
	name string // in /dev
	tree *os.File
}

// bindDevices opens the devices that a container gets, and makes files in its
// /dev to mount them on.
func (p *plan) bindDevices() error {
	bind := func(name, source string) error {
		tree, err := mount.Mount{Type: mount.Bind, Source: source}.Open()
		if err != nil {
			return err
		}
		p.devices = append(p.devices, boundDevice{name, p.keep(tree)})
		return makeFileIn(int(p.dev.Fd()), name)
	}
	for _, d := range deviceNodes {
		if err := bind(d.name, "/dev/"+d.name); err != nil {
			return fmt.Errorf("device /dev/%s: %w", d.name, err)
		}
	}
	for _, d := range p.spec.Devices {
		name, err := d.name()
		if err != nil {
			return fmt.Errorf("device %s: %w", d.Path, err)
		}
		source, err := d.find()
		if err == nil {
			err = bind(name, source)
		}
		if err != nil && p.spec.Privileged {
			continue // of all that there could be; the warning below says it
		}
		if err != nil {
			return fmt.Errorf("device %s: %w", d.Path, err)
		}
	}
	if p.spec.Privileged {
		p.warn("without root a privileged process gets few devices of the machine: name those that are needed with --device")
	}
	return nil
}

// makeFileIn makes an empty file, with the directories that lead to it.
func makeFileIn(dir int, name string) error {
	for i, c := range name {
		if c != '/' {
			continue
		}
		if err := unix.Mkdirat(dir, name[:i], 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return makeNode(dir, name, unix.S_IFREG|0o666, 0)
}

// find returns where the machine has a device.
func (d Device) find() (string, error) {
	kind := "char"
	if d.Type == 'b' {
		kind = "block"
	}
	text, err := os.ReadFile(fmt.Sprintf("/sys/dev/%s/%d:%d/uevent", kind, d.Major, d.Minor))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			return "/dev/" + name, nil
		}
	}
	return "", fmt.Errorf("the machine has no name for device %d:%d", d.Major, d.Minor)
}

// writeDevices mounts the machine's devices.
func (p *plan) writeDevices(dev arg) {
	for _, d := range p.devices {
		p.moveInto("/dev/"+d.name, p.prog.file(d.tree), dev, d.name)
	}
}

// ProcIsMasked says whether something is hidden in this process's /proc, as in a
// container: the kernel then refuses root of a user namespace a new one, in which
// it would be seen. So its containers have this one, of which they see what is
// hidden no more than this process, and other processes under numbers that are not
// theirs.
func ProcIsMasked() bool {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) > 4 && strings.HasPrefix(f[4], "/proc/") && !slices.Contains(emptyInProc, f[4]) {
			return true
		}
	}
	return false
}

// emptyInProc are the directories that the kernel has for mounts: what is there
// hides nothing.
var emptyInProc = []string{"/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd", "/proc/openprom"}

// machineFS mounts the machine's /proc or /sys, which can't be changed by who is
// not its root.
func (p *plan) machineFS(name string, attr uintptr) arg {
	pr := &p.prog
	m := pr.get("copy "+name, unix.SYS_OPEN_TREE, cwd, pr.str(templateSystem+name),
		num(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE))
	pr.do("set flags of "+name, unix.SYS_MOUNT_SETATTR, m, pr.str(""), num(unix.AT_EMPTY_PATH|unix.AT_RECURSIVE),
		pr.bytes(mountAttr(uint64(attr))), num(unix.MOUNT_ATTR_SIZE_VER0))
	return m
}

// probeSys mounts a new /sys in a new network namespace.
func probeSys() error {
	return sys.OnNewThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		f, err := mount.FS{Type: "sysfs", Attr: noneOfThree | unix.MOUNT_ATTR_RDONLY}.Open()
		if err != nil {
			return err
		}
		return f.Close()
	})
}

// newSys says whether the container gets a /sys of its own: its network namespace
// is one of this user namespace then, and nothing of /sys is hidden from it.
func (p *plan) newSys() bool {
	return !p.host.rootless || !p.host.maskedSys && (p.spec.Network == NetworkNone || p.spec.Network == NetworkPrivate)
}

// delegated returns the path of this process's group of version 2, if groups
// can be made below it.
func delegated(root *os.File) (string, bool) {
	own, ok := cgroupOf("self")
	if !ok {
		return "", false
	}
	if path.Base(own) == ownSuffix && mayUse(root, path.Dir(own)) {
		return path.Dir(own), true // an earlier command's vacate
	}
	return own, mayUse(root, own)
}

// cgroupOf returns the path of a process's group of version 2, without the
// leading slash.
func cgroupOf(pid string) (string, bool) {
	text, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(text)) {
		if own, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/"); ok {
			return own, !strings.HasPrefix(own, "..")
		}
	}
	return "", false
}

// mayUse says whether this user may make groups in a group and move processes
// there.
func mayUse(root *os.File, name string) bool {
	for _, file := range []string{".", "cgroup.procs"} {
		if unix.Faccessat(int(root.Fd()), path.Join(name, file), unix.W_OK, unix.AT_EACCESS) != nil {
			return false
		}
	}
	return true
}

// ownSuffix is the name of the group that the processes of a delegated group are
// moved to.
const ownSuffix = "builder-own"

// vacate moves the processes of the delegated group into one below it: a group
// that hands controllers on has no processes itself.
func (c *cgroups) vacate() error {
	to := path.Join(c.base, ownSuffix)
	if err := unix.Mkdirat(int(c.root.Fd()), to, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make control group %s: %w", to, err)
	}
	pids, err := pidsIn(c.root, c.base)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := writeFileAt(c.root, path.Join(to, "cgroup.procs"), strconv.Itoa(pid)); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("move process %d to control group %s: %w", pid, to, err)
		}
	}
	return nil
}

// groupOf opens the group of a container's process: where it is depends on the
// command that started it.
func (c *cgroups) groupOf(pid int) *cgroup {
	g := &cgroup{root: c.root, kept: true}
	name, ok := cgroupOf(strconv.Itoa(pid))
	if !ok || c.root == nil {
		return g
	}
	if g.path = name; path.Base(path.Dir(name)) == defaultCgroupParent {
		g.find()
	}
	g.kept = g.dir == nil
	return g
}

// notDelegated is why a container has no control group, and what helps.
const notDelegated = "no control group is delegated to this user: bounds of memory, CPU and processes are not enforced, and pause and stats don't work (systemd-run --user --scope -p Delegate=yes builder … has one)"

// rootlessCgroups finds what control groups there are for an ordinary user:
// those below its own if that is delegated, else none.
func rootlessCgroups() (*cgroups, error) {
	none := &cgroups{none: true, v1: map[string]*os.File{}, swept: map[string]bool{}}
	root, err := openCgroup2()
	if err != nil {
		return none, nil //nolint:nilerr // it is not there
	}
	none.root = root
	own, ok := delegated(root)
	if !ok {
		return none, nil
	}
	return &cgroups{root: root, base: own, parent: path.Join(own, defaultCgroupParent), rootless: true, v1: none.v1, swept: none.swept}, nil
}

// noCgroup is the group of a container that has none.
func noCgroup(c *cgroups, spec *Spec) (*cgroup, error) {
	wanted, err := spec.Resources.controllers()
	if err != nil {
		return nil, err
	}
	if len(wanted) > 0 {
		spec.warn(notDelegated)
	}
	return &cgroup{root: c.root, kept: true}, nil
}

// sharedNamespaces returns the flags of the namespaces that this process and
// another one have in common.
func sharedNamespaces(pid int) (flags uintptr, err error) {
	for name, flag := range map[string]uintptr{
		"pid": unix.CLONE_NEWPID, "ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS, "net": unix.CLONE_NEWNET, "cgroup": unix.CLONE_NEWCGROUP,
	} {
		mine, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			return 0, err
		}
		its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
		if err != nil {
			return 0, err
		}
		if mine == its {
			flags |= flag
		}
	}
	return flags, nil
}

// Available says why this process can't start containers, or nil.
func Available() error {
	_, err := theHost()
	return err
}

// Delegated returns where the control groups of containers are. Where there
// are none it returns an error and what to do about it.
func Delegated() (path, fix string, err error) {
	h, err := theHost()
	if err != nil {
		return "", "", errors.New("not known, as no container can be started")
	}
	if h.cgroups.none {
		return "", "systemd-run --user --scope -p Delegate=yes builder … has one", errors.New("none: bounds of memory, CPU and processes are not enforced")
	}
	return "below /" + h.cgroups.parent, "", nil
}
