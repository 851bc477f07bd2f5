// SPDX-License-Identifier: Apache-2.0

package container

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"builder/internal/testutil"
)

// TestSetReadOnly holds a descriptor open for writing for a moment, as a child
// does that has not executed yet.
func TestSetReadOnly(t *testing.T) {
	testutil.Require(t, "root")
	m, err := openEtc([]etcFile{{"hosts", nil}}, "etc", false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	fd, err := unix.Openat(int(m.Fd()), "hosts", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(int(m.Fd()), "", unix.AT_EMPTY_PATH, &attr); err != unix.EBUSY {
		t.Fatalf("a mount that is written to: %v", err)
	}
	time.AfterFunc(20*time.Millisecond, func() { unix.Close(fd) })
	if err := setReadOnly(m); err != nil {
		t.Error(err)
	}
	if _, err := unix.Openat(int(m.Fd()), "hosts", unix.O_WRONLY|unix.O_CLOEXEC, 0); err != unix.EROFS {
		t.Errorf("written to: %v", os.NewSyscallError("openat", err))
	}
}
