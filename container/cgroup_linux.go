// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
	"builder/mount"
)

const (
	defaultCgroupParent = "builder"
	// openSuffix names the parent of privileged containers' groups, which has
	// no device program, and devicesSuffix that of groups that have each a
	// program of their own: a parent's would hold for them too.
	openSuffix    = "-privileged"
	devicesSuffix = "-devices"
)

// cgroups is the version 2 hierarchy. Every kernel has it, whether or not its
// controllers are bound to version 1.
type cgroups struct {
	root    *os.File
	parent  string // of groups that are to be nowhere else
	program *deviceProgram
	// noProgram makes the version 1 devices controller be used, as happens
	// where eBPF is not available.
	noProgram bool
	v1        map[string]*os.File // hierarchies of version 1, once they are needed
	swept     map[string]bool     // parents that have been cleared of leftovers
	base      string              // the group below which groups may be made; "" for the root
	rootless  bool                // an ordinary user's: no rules for devices
	none      bool                // there are none for this user
}

// ownCgroups are those that this process may use: an ordinary user's are where
// it is given some.
func ownCgroups(rootless bool) (*cgroups, error) {
	if rootless {
		return rootlessCgroups()
	}
	return newCgroups()
}

func newCgroups() (*cgroups, error) {
	root, err := openCgroup2()
	if err != nil {
		return nil, err
	}
	return &cgroups{root: root, parent: defaultCgroupParent, program: newDeviceProgram(deviceRules), v1: map[string]*os.File{}, swept: map[string]bool{}}, nil
}

// openCgroup2 opens the hierarchy where machines mount it, alone or beside
// version 1, and mounts it for this process where it isn't there. That comes
// last: it takes the kernel ten milliseconds and sets the hierarchy's mount
// options anew for everybody.
func openCgroup2() (*os.File, error) {
	for _, name := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		fd, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		var st unix.Statfs_t
		if err := unix.Fstatfs(fd, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC && st.Flags&unix.ST_RDONLY == 0 {
			return os.NewFile(uintptr(fd), name), nil
		}
		unix.Close(fd)
	}
	return mount.FS{Type: "cgroup2"}.Open()
}

// cgroup is one container's group.
type cgroup struct {
	root *os.File
	path string
	dir  *os.File
	v1   []*cgroup // its twins in hierarchies of version 1
	// kept says that it is another one's.
	kept bool
}

// make makes the group of a container. A group of that name that is left over
// from a killed program is taken over if it is empty.
func (c *cgroups) make(spec *Spec) (*cgroup, error) {
	if c.none {
		return noCgroup(c, spec)
	}
	parent := c.parentOf(spec)
	if !c.swept[parent] {
		c.swept[parent] = true
		c.sweep(c.root, parent)
	}
	g, err := newCgroup(c.root, parent, spec.ID)
	if err != nil {
		return nil, err
	}
	_, err = c.limit(g, spec.Resources, spec.warn)
	if err != nil && c.rootless {
		spec.warn(fmt.Sprintf("bounds are not enforced: %v", err))
		err = nil
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bound resources: %w", err), g.remove())
	}
	if spec.Privileged || c.rootless {
		return g, nil
	}
	if err := c.restrict(g, spec); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict devices: %w", err), g.remove())
	}
	return g, nil
}

// parentOf is the path of the group below which a container has its own. One
// that the caller names has nothing attached to it: there may be others in it.
func (c *cgroups) parentOf(spec *Spec) string {
	if parent := path.Clean("/" + spec.CgroupParent)[1:]; parent != "" {
		return parent
	}
	switch {
	case spec.Privileged:
		return c.parent + openSuffix
	case spec.ownDevices():
		return c.parent + devicesSuffix
	}
	return c.parent
}

// ownDevices says whether the container may use other devices than most.
func (s *Spec) ownDevices() bool { return len(s.Devices)+len(s.DeviceRules) > 0 }

// restrict leaves a group only the devices of deviceRules and its own.
func (c *cgroups) restrict(g *cgroup, spec *Spec) error {
	rules, err := rulesFor(spec.Devices, spec.DeviceRules)
	if err != nil {
		return err
	}
	errProgram := errors.New("eBPF is not used")
	if !c.noProgram {
		program, group := c.program, path.Dir(g.path)
		if spec.ownDevices() || group != c.parent {
			program, group = newDeviceProgram(rules), g.path
		}
		if errProgram = program.attach(c.root, group); errProgram == nil {
			return nil
		}
	}
	twin, _, err := c.twin(g, "devices")
	if err != nil {
		return errors.Join(errProgram, err)
	}
	return restrictV1(twin.dir, rules)
}

func newCgroup(root *os.File, parent, id string) (*cgroup, error) {
	g := &cgroup{root: root, path: path.Join(parent, id)}
	err := unix.Mkdirat(int(root.Fd()), g.path, 0o755)
	if errors.Is(err, unix.ENOENT) {
		var dir *os.File
		if dir, err = sys.MkdirAllInRoot(root, parent, 0o755, nil); err != nil {
			return nil, err
		}
		dir.Close()
		err = unix.Mkdirat(int(root.Fd()), g.path, 0o755)
	}
	if errors.Is(err, unix.EEXIST) {
		// Fails if it has processes.
		if err = removeCgroup(root, g.path); err != nil {
			return nil, fmt.Errorf("a container with this ID is running: %w", err)
		}
		err = unix.Mkdirat(int(root.Fd()), g.path, 0o755)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "mkdir", Path: "cgroup " + g.path, Err: err}
	}
	g.dir, err = sys.OpenInRoot(root, g.path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, errors.Join(err, removeCgroup(root, g.path))
	}
	return g, nil
}

// remove removes the group, which has no processes left. It is done once.
func (g *cgroup) remove() error {
	if g.kept {
		return nil
	}
	var err error
	if g.dir != nil {
		err = g.dir.Close()
	}
	for _, twin := range g.v1 {
		err = errors.Join(err, twin.remove())
	}
	return errors.Join(err, removeCgroup(g.root, g.path))
}

// leftoverAge is how old an unused group must be to be a leftover: one that has
// just been made has no process yet.
const leftoverAge = time.Minute

// sweep removes leftovers from a hierarchy. In a group that the caller has named
// there may be others' groups.
func (c *cgroups) sweep(root *os.File, parent string) {
	if parent == c.parent || parent == c.parent+openSuffix || parent == c.parent+devicesSuffix {
		sweep(root, parent, time.Now())
	}
}

// sweep removes the groups that killed programs have left behind. Groups with
// processes can't be removed, so whatever goes wrong does no harm.
func sweep(root *os.File, parent string, now time.Time) {
	dir, err := sys.OpenInRoot(root, parent, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		if now.Sub(time.Unix(st.Ctim.Unix())) > leftoverAge {
			_ = unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
		}
	}
}

// removeCgroup removes a group with the groups below it, which a privileged
// container may have made.
func removeCgroup(root *os.File, name string) error {
	// A process that has been waited for may for a moment still be counted.
	for wait := 50 * time.Microsecond; ; wait *= 2 {
		err := unix.Unlinkat(int(root.Fd()), name, unix.AT_REMOVEDIR)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || wait > 50*time.Millisecond {
			return &fs.PathError{Op: "rmdir", Path: "cgroup " + name, Err: err}
		}
		if err := removeBelow(root, name); err != nil {
			return err
		}
		time.Sleep(wait)
	}
}

func removeBelow(root *os.File, name string) error {
	dir, err := sys.OpenInRoot(root, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := removeCgroup(root, path.Join(name, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// oomKilled says whether the kernel has killed a process of the group for want
// of memory. Where no memory controller counts for the group it isn't known:
// false.
func (g *cgroup) oomKilled() bool {
	if g.dir != nil && killed(g.dir, "memory.events") {
		return true
	}
	for _, twin := range g.v1 {
		if killed(twin.dir, "memory.oom_control") {
			return true
		}
	}
	return false
}

func killed(dir *os.File, file string) bool {
	f, err := sys.OpenInRoot(dir, file, unix.O_RDONLY, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if n, ok := strings.CutPrefix(lines.Text(), "oom_kill "); ok {
			return n != "0"
		}
	}
	return false
}
