// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// OnNewThread runs f on a thread that ends with it, so that f may put the thread
// into other namespaces, and returns what f does.
func OnNewThread(f func() error) error {
	done := make(chan error)
	var run func()
	run = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread can't end with its goroutine, and what
			// /proc/self shows is the main thread's. Held here meanwhile,
			// it isn't the one that the next goroutine gets.
			defer runtime.UnlockOSThread()
			inner := make(chan struct{})
			go func() { defer close(inner); run() }()
			<-inner
			return
		}
		// Never unlocked: so the thread ends with this goroutine.
		done <- f()
	}
	go run()
	return <-done
}

// AsFileUser runs f with the user and group that own what it makes in file
// systems, and with the capabilities that this process may have. It is for
// root. f makes nothing in other goroutines. Meanwhile this process's memory is
// hidden ([HideMemory]).
func AsFileUser(uid, gid uint32, f func() error) error {
	runtime.LockOSThread()
	HideMemory()
	defer ShowMemory()
	parent := os.Getppid()
	// The kernel forgets it when the user changes.
	death, err := deathSignal()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var before [2]unix.CapUserData
	if err := unix.Capget(&header, &before[0]); err != nil {
		runtime.UnlockOSThread()
		return os.NewSyscallError("capget", err)
	}
	raised := before
	for i := range raised {
		raised[i].Effective = raised[i].Permitted
	}
	ownUID, ownGID := setFileUser(uid, gid)
	if u, g := setFileUser(^uint32(0), ^uint32(0)); u != uid || g != gid { // which changes nothing
		err = fmt.Errorf("become user %d and group %d in file systems: %w", uid, gid, unix.EPERM)
	}
	if err == nil {
		err = os.NewSyscallError("capset", unix.Capset(&header, &raised[0]))
	}
	if err == nil {
		err = f()
	}
	setFileUser(ownUID, ownGID)
	back := unix.Capset(&header, &before[0])
	if back == nil && death != 0 {
		back = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(death), 0, 0, 0)
	}
	if back != nil {
		return os.NewSyscallError("go back to the own user", back) // the thread stays locked, and so ends with its goroutine
	}
	if death != 0 && os.Getppid() != parent {
		_ = unix.Kill(os.Getpid(), unix.Signal(death)) // it came when nobody listened
	}
	runtime.UnlockOSThread()
	return err
}

// deathSignal is what this thread gets when its parent ends, 0 for nothing.
func deathSignal() (int, error) {
	var sig int32
	_, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&sig)), 0)
	if errno != 0 {
		return 0, os.NewSyscallError("prctl", errno)
	}
	return int(sig), nil
}

// setFileUser is setfsuid(2) and setfsgid(2), which report no errors. It returns
// what was there before.
func setFileUser(uid, gid uint32) (oldUID, oldGID uint32) {
	g, _, _ := unix.RawSyscall(unix.SYS_SETFSGID, uintptr(gid), 0, 0)
	u, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0)
	return uint32(u), uint32(g)
}
