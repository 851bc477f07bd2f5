// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
	"builder/mount"
)

// The template is a mount namespace that holds one small read-only file system
// and nothing else. A container's child joins it and copies it, instead of
// copying the caller's: that costs the same however many mounts the machine
// has, and there is no path from it to a file of the machine, so nothing that
// an image makes us resolve can lead there.
const (
	templateEmpty = "/empty" // an empty directory: covers masked directories
	templateNull  = "/null"  // an empty file: covers masked files where /dev is not ours
	templateFiles = "/files" // where a container's /etc files are mounted
)

// newTemplate makes the namespace and returns the descriptor that keeps it.
func newTemplate(rootless bool) (*os.File, error) {
	var ns *os.File
	err := sys.OnNewThread(func() (err error) { ns, err = enterTemplate(rootless); return err })
	return ns, err
}

// enterTemplate makes the namespace and leaves the calling thread in it.
func enterTemplate(rootless bool) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("new mount namespace: %w", err)
	}
	ns, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, err
	}
	if err := fillTemplate(rootless); err != nil {
		ns.Close()
		return nil, fmt.Errorf("mount namespace template: %w", err)
	}
	return ns, nil
}

// fillTemplate makes the new root. With rootless it has the machine's /proc and
// /sys as well: see rootless_linux.go.
func fillTemplate(rootless bool) error {
	// Nothing done here may reach the namespace it was copied from.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount private", err)
	}
	root, err := mount.FS{Type: "tmpfs", Options: []mount.Option{{Key: "size", Value: "65536"}, {Key: "mode", Value: "0755"}}}.Open()
	if err != nil {
		return err
	}
	defer root.Close()
	for _, dir := range []string{templateEmpty, templateFiles} {
		if err := unix.Mkdirat(int(root.Fd()), dir[1:], 0o755); err != nil {
			return os.NewSyscallError("mkdirat", err)
		}
	}
	if err := unix.Mknodat(int(root.Fd()), templateNull[1:], unix.S_IFREG|0o444, 0); err != nil {
		return os.NewSyscallError("mknodat", err)
	}
	var system map[string]*os.File
	if rootless {
		if err = fillSystem(root); err == nil {
			system, err = openSystem()
		}
		if err != nil {
			return err
		}
		defer closeAll(system)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
	if err := unix.MountSetattr(int(root.Fd()), "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	if err := unix.MoveMount(int(root.Fd()), "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return os.NewSyscallError("move_mount", err)
	}
	if err := mountSystem(root, system); err != nil {
		return err
	}
	if err := unix.Fchdir(int(root.Fd())); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	// With both paths the same the old root is put on top of the new one,
	// from where it is unmounted with all that is below it: pivot_root(2).
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	return os.NewSyscallError("umount", unix.Unmount(".", unix.MNT_DETACH))
}
