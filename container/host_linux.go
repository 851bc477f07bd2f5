// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
	"builder/mount"
)

// host is what all containers of this process share. It is made when the first
// one starts and lives as long as the process.
type host struct {
	template    *os.File // mount namespace, see newTemplate
	trampolines trampolines
	caps        capSet // what this process may hand on
	bounding    capSet
	lastCap     int
	abis        abiSupport
	oomScoreAdj int          // of this process
	rootless    bool         // it is root of a user namespace only
	maskedProc  bool         // a new /proc is refused: see ProcIsMasked
	maskedSys   bool         // a new /sys is refused likewise
	bare        bool         // it makes no namespaces: see runBare
	throttles   []maskedPath // see thermalPaths

	mu      sync.Mutex // guards what follows
	cgroups *cgroups
	filters map[capSet]*seccompFilter // docker's default profile, compiled

	spawn chan func() // runs on the spawner thread
}

// theHost makes the host once. It can't be made without root.
var theHost = sync.OnceValues(newHost)

// Prepare does beforehand what the first container of a process needs and that
// does not depend on it. It may be called beside [Start], and needn't be.
func Prepare() { _, _ = theHost() }

func newHost() (*host, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("%w: this build is for %s, and containers are made on amd64 only", ErrUnsupported, runtime.GOARCH)
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: starting a container needs root, or to be root of a user namespace", ErrUnsupported)
	}
	h := &host{rootless: sys.InUserNamespace(), lastCap: lastCap(), abis: probeABIs(), filters: map[capSet]*seccompFilter{}, spawn: make(chan func())}
	var err error
	if h.caps, h.bounding, err = ownCaps(); err != nil {
		return nil, err
	}
	if !h.caps.has(unix.CAP_SYS_ADMIN) {
		return nil, fmt.Errorf("%w: this process is root, but lacks CAP_SYS_ADMIN", ErrUnsupported)
	}
	if h.trampolines, err = newTrampolines(); err != nil {
		return nil, err
	}
	if h.cgroups, err = ownCgroups(h.rootless); err != nil {
		return nil, err
	}
	if h.template, err = newTemplate(h.rootless); err != nil {
		return nil, err
	}
	h.oomScoreAdj = oomScoreAdj()
	if h.maskedProc = h.rootless && ProcIsMasked(); h.maskedProc {
		h.maskedSys = probeSys() != nil
	}
	h.throttles = thermalPaths()
	go h.spawner()
	return h, nil
}

func oomScoreAdj() int {
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return n
}

// spawner runs functions on a thread of its own, one at a time. Children are
// made there: PR_SET_PDEATHSIG means the death of the thread that made the
// child, and other threads end when the runtime likes.
func (h *host) spawner() {
	runtime.LockOSThread()
	for f := range h.spawn {
		f()
	}
}

// onSpawner runs f on the spawner thread and waits for it.
func (h *host) onSpawner(f func()) {
	done := make(chan struct{})
	h.spawn <- func() { defer close(done); f() }
	<-done
}

// filter returns the compiled seccomp profile for a Spec, or nil for none.
func (h *host) filter(spec *Spec, caps capSet) (*seccompFilter, error) {
	if spec.Privileged {
		return nil, nil
	}
	if spec.Seccomp != "" {
		return loadSeccomp(spec.Seccomp, caps, h.abis)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.filters[caps]; f != nil {
		return f, nil
	}
	f, err := loadSeccomp("", caps, h.abis)
	if err == nil {
		h.filters[caps] = f
	}
	return f, err
}

// machineCaps is what of them holds for the machine as a whole.
func (h *host) machineCaps() capSet {
	if h.rootless {
		return 0
	}
	return h.caps
}

func (h *host) makeCgroup(spec *Spec) (*cgroup, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cgroups.make(spec)
}

// Sizes of docker's default file systems.
const (
	devSize = "65536k"
	shmSize = 64 << 20
)

// deviceNodes are the nodes of a container's /dev.
var deviceNodes = []struct {
	name         string
	major, minor uint32
}{
	{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
}

// deviceLinks are its symbolic links.
var deviceLinks = [][2]string{
	{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"},
	{"stderr", "/proc/self/fd/2"}, {"ptmx", "pts/ptmx"}, {"core", "/proc/kcore"},
}

// openDev makes a container's /dev: detached, so no path of the image is
// involved.
func openDev(spec *Spec, rootless bool) (*os.File, error) {
	m, err := mount.FS{
		Type:    "tmpfs",
		Options: []mount.Option{{Key: "mode", Value: "0755"}, {Key: "size", Value: devSize}},
		Attr:    unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_STRICTATIME,
	}.Open()
	if err != nil {
		return nil, err
	}
	if err := fillDev(int(m.Fd()), spec, rootless); err != nil {
		m.Close()
		return nil, fmt.Errorf("fill /dev: %w", err)
	}
	return m, nil
}

// fillDev makes what is in a /dev. With rootless the devices are left out: see
// bindDevices.
func fillDev(dir int, spec *Spec, rootless bool) error {
	for _, name := range []string{"pts", "shm", "mqueue"} {
		if name == "shm" && spec.NoShm {
			continue
		}
		if err := unix.Mkdirat(dir, name, 0o755); err != nil {
			return err
		}
	}
	if !rootless {
		if err := makeDevices(dir, spec); err != nil {
			return err
		}
	}
	for _, l := range deviceLinks {
		if err := unix.Symlinkat(l[1], dir, l[0]); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	if spec.Terminal {
		// What the terminal is mounted on.
		return makeNode(dir, "console", unix.S_IFREG|0o620, 0)
	}
	return nil
}

// makeDevices makes the device nodes of a /dev.
func makeDevices(dir int, spec *Spec) error {
	if spec.Privileged {
		if err := copyDevices(dir, "/dev"); err != nil {
			return err
		}
	}
	for _, d := range spec.Devices {
		if err := makeDevice(dir, d, spec.IDs); err != nil {
			return fmt.Errorf("device %s: %w", d.Path, err)
		}
	}
	for _, d := range deviceNodes {
		if err := makeNode(dir, d.name, unix.S_IFCHR|0o666, unix.Mkdev(d.major, d.minor)); err != nil {
			return err
		}
	}
	return nil
}

// makeDevice makes the node of a Spec's device, with the directories that lead
// to it. Its owner is one of the ids' inside.
func makeDevice(dir int, d Device, ids IDMap) error {
	name, err := d.name()
	if err != nil {
		return err
	}
	for i, c := range name {
		if c != '/' {
			continue
		}
		if err := unix.Mkdirat(dir, name[:i], 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	kind, mode := uint32(unix.S_IFCHR), d.Mode
	if d.Type == 'b' {
		kind = unix.S_IFBLK
	}
	if mode == 0 {
		mode = 0o666
	}
	if err := unix.Unlinkat(dir, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := makeNode(dir, name, kind|mode, unix.Mkdev(d.Major, d.Minor)); err != nil {
		return err
	}
	uid, _ := ids.UID(d.UID) // itself if it is none of the container's
	gid, _ := ids.GID(d.GID)
	return unix.Fchownat(dir, name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW)
}

// name is the device's path in /dev.
func (d Device) name() (string, error) {
	name, ok := strings.CutPrefix(path.Clean("/"+d.Path), "/dev/")
	if !ok {
		return "", errors.New("its path is not below /dev")
	}
	if d.Type != 'b' && d.Type != 'c' {
		return "", fmt.Errorf("type %q is neither b nor c", d.Type)
	}
	return name, nil
}

// HostDevice describes a device of the machine, with all access to it.
func HostDevice(name string) (Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return Device{}, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	d := Device{
		Path: path.Clean(name), Type: 'c', Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev),
		Mode: st.Mode & 0o777, UID: st.Uid, GID: st.Gid,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
	case unix.S_IFBLK:
		d.Type = 'b'
	default:
		return Device{}, fmt.Errorf("%s is not a device", name)
	}
	return d, nil
}

// makeNode makes a device node, whatever the umask; one that exists stays.
func makeNode(dir int, name string, mode uint32, dev uint64) error {
	if err := unix.Mknodat(dir, name, mode, int(dev)); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return err
	}
	return unix.Fchmodat(dir, name, mode&0o7777, 0)
}

// notCopied are entries of the machine's /dev that a privileged container has
// of its own.
var notCopied = map[string]bool{
	"pts": true, "shm": true, "mqueue": true, "fd": true, "console": true, "ptmx": true, "core": true,
	"stdin": true, "stdout": true, "stderr": true, ".lxc": true, ".udev": true,
}

// copyDevices makes nodes for all devices of the machine, for a privileged
// container.
func copyDevices(to int, from string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if from == "/dev" && notCopied[e.Name()] {
			continue
		}
		name := from + "/" + e.Name()
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			continue // unplugged meanwhile
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFCHR, unix.S_IFBLK:
			if err := makeNode(to, e.Name(), st.Mode, st.Rdev); err != nil {
				return err
			}
			if err := unix.Fchownat(to, e.Name(), int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
		case unix.S_IFDIR:
			if err := copyDeviceDir(to, name, e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

func copyDeviceDir(to int, from, name string) error {
	if err := unix.Mkdirat(to, name, 0o755); err != nil {
		return err
	}
	fd, err := unix.Openat(to, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return copyDevices(fd, from)
}
