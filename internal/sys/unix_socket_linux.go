// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ListenUnix listens on a new socket at path, whose name stays when it is closed. It is
// what [net.ListenUnix] does, without the 64 KiB into which that reads how long a queue
// may be (net.core.somaxconn): the kernel knows, and shortens it.
func ListenUnix(path string) (*net.UnixListener, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close() // the listener has a descriptor of its own
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, &os.PathError{Op: "bind", Path: path, Err: err}
	}
	const longest = 1<<16 - 1
	if err := unix.Listen(fd, longest); err != nil {
		return nil, &os.PathError{Op: "listen", Path: path, Err: err}
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}
