// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// WithUmask runs f on a thread of its own that has the umask, and returns what
// f does. The rest of the process keeps its own: a process that f starts, and
// files that f makes without starting goroutines, have this one. The thread
// ends with f, so a child with a parent-death signal must be waited for in f.
func WithUmask(mask int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- err
			return
		}
		syscall.Umask(mask)
		done <- f()
	}()
	return <-done
}
