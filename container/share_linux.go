// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// inPIDNamespace calls f with the calling thread's children being born in a PID
// namespace, nil being its own. The thread is locked to its goroutine.
func inPIDNamespace(ns *os.File, f func() error) (err error) {
	if ns == nil {
		return f()
	}
	own, err := os.Open("/proc/thread-self/ns/pid")
	if err != nil {
		return err
	}
	defer own.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWPID); err != nil {
		return fmt.Errorf("join PID namespace: %w", err)
	}
	defer func() {
		if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWPID); back != nil {
			err = errors.Join(err, os.NewSyscallError("setns", back))
		}
	}()
	return f()
}

// OpenNamespace opens the namespace of a kind (ipc, pid, uts, net) of the process
// of a number and a [StartTime]. The error wraps [ErrGone] if it has ended.
func OpenNamespace(pid int, start uint64, kind string) (*os.File, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/" + kind)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	if err != nil {
		return nil, err
	}
	if start == 0 || StartTime(pid) != start {
		f.Close()
		return nil, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	return f, nil
}

// SharedMemory copies the mount /dev/shm of a container, given its first process,
// for another one's Spec. It is nil if there is none.
func SharedMemory(pid int, start uint64) (*os.File, error) {
	ns, err := OpenNamespace(pid, start, "mnt")
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var tree *os.File
	err = sys.OnNewThread(func() (err error) { tree, err = copyShm(ns); return err })
	return tree, err
}

// enterMounts has the thread, which is to end with what it does, enter a mount namespace.
func enterMounts(ns *os.File) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	return os.NewSyscallError("setns", unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS))
}

// copyShm is run on a thread of its own. What the container has made of its
// /dev is only looked at: no link is followed, and what is found is a mount of
// a tmpfs or nothing.
func copyShm(ns *os.File) (*os.File, error) {
	if err := enterMounts(ns); err != nil {
		return nil, err
	}
	at, err := unix.Openat2(unix.AT_FDCWD, "/dev/shm", &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return nil, nil // it has none
	}
	defer unix.Close(at)
	var st unix.Statfs_t
	if err := unix.Fstatfs(at, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		return nil, nil
	}
	fd, err := unix.OpenTree(at, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, os.NewSyscallError("open_tree", err)
	}
	tree := os.NewFile(uintptr(fd), "/dev/shm")
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		tree.Close()
		return nil, os.NewSyscallError("mount_setattr", err)
	}
	return tree, nil
}

// kill kills all processes of the group, at once where the kernel can.
func (g *cgroup) kill() error {
	if g.dir == nil {
		return nil
	}
	err := writeFileAt(g.dir, "cgroup.kill", "1")
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for {
		pids, err := g.pids()
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// awaitEmpty waits until the group has no process.
func (g *cgroup) awaitEmpty() error {
	if g.dir == nil {
		return nil
	}
	for wait := 50 * time.Microsecond; wait < time.Minute; wait *= 2 {
		text, err := readAllAt(g.dir, "cgroup.events")
		if err != nil || number(text, "populated") == 0 {
			return err
		}
		time.Sleep(min(wait, 20*time.Millisecond))
	}
	return errors.New("its processes do not end")
}

// unconfined says that there is to be no profile.
const unconfined = "unconfined"

// CheckAppArmor says why a container can't have an AppArmor profile.
func CheckAppArmor(profile string) error {
	if profile == "" || profile == unconfined {
		return nil
	}
	on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil || !strings.HasPrefix(string(on), "Y") {
		return fmt.Errorf("AppArmor profile %q: this kernel has no AppArmor, or it is switched off: leave it out", profile)
	}
	loaded, err := os.ReadFile("/sys/kernel/security/apparmor/profiles")
	if err != nil {
		return nil // the kernel says it when it is to be used
	}
	for line := range strings.Lines(string(loaded)) { // name (mode)
		if name, _, _ := strings.Cut(line, " ("); name == profile {
			return nil
		}
	}
	return fmt.Errorf("AppArmor profile %q is not loaded: load it with apparmor_parser", profile)
}
