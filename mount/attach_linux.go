// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Attach moves a detached mount to a directory, where everybody sees it until
// it is unmounted (move_mount(2)).
func Attach(m *os.File, dir string) error {
	if err := unix.MoveMount(int(m.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: dir, Err: err}
	}
	return nil
}

// Unmount takes away the mount at a directory, at once even if it is in use
// (umount2(2), MNT_DETACH). Where nothing is mounted it does nothing.
func Unmount(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "umount", Path: dir, Err: err}
	}
	return nil
}
