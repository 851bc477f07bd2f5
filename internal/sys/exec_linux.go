// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// born is what the main thread knows when the process begins: while variables are set the
// runtime keeps the main goroutine on it.
var born = struct{ death, parent int }{death: firstOf(deathSignal()), parent: os.Getppid()}

func firstOf(n int, _ error) int { return n }

// ExecuteAnew executes the file of this process anew, with its arguments and other
// variables. Unlike [syscall.Exec], which takes the place of the process with whatever
// thread it is called on, it keeps the signal that the process gets when its parent ends
// (PR_SET_PDEATHSIG(2const)), and the process's name. It returns if it fails.
func ExecuteAnew(env []string) error {
	const self = "/proc/self/exe"
	path := self
	if name, err := os.Executable(); err == nil { // by which it is called something else than "exe"
		one, err1 := os.Stat(name)
		two, err2 := os.Stat(self)
		if err1 == nil && err2 == nil && os.SameFile(one, two) {
			path = name
		}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if born.death != 0 {
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(born.death), 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl", err)
		}
		if os.Getppid() != born.parent {
			_ = unix.Kill(os.Getpid(), unix.Signal(born.death)) // it came when nobody listened
		}
	}
	return fmt.Errorf("execute %s: %w", path, syscall.Exec(path, os.Args, env))
}
