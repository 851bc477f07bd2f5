// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// The fast carrier makes the child with clone3(CLONE_VM): it shares this
// process's memory until it executes the trampoline, so the cost does not grow
// with the heap, and a few lines of assembly walk the program's image where it
// is. The copying carrier leaves CLONE_VM out. Unlike with vfork the parent goes
// on meanwhile.

// trampolineAddrs returns the addresses of the code in trampoline_amd64.s.
func trampolineAddrs() (exec, init uintptr)

// walkerAddr returns the address of the walker's code.
func walkerAddr() (addr uintptr)

//go:noescape
func cloneWalk(args unsafe.Pointer, size uintptr, image unsafe.Pointer) (pid uintptr)

// cloneArgs is a struct clone_args.
type cloneArgs struct {
	flags, pidfd, childTid, parentTid, exitSignal, stack, stackSize, tls, setTid, setTidSize, cgroup uint64
}

// childStack is not used by the child, but clone3 wants one that is not its
// parent's.
const childStack = 4096

// fastCarrier and copyingCarrier are carriers. They fail with ENOSYS or EINVAL
// where the kernel lacks something they need.
func fastCarrier(p *plan) (child, error)    { return cloneCarrier(p, unix.CLONE_VM) }
func copyingCarrier(p *plan) (child, error) { return cloneCarrier(p, 0) }

// cloneCarrier is a carrier. Its child shares this process's memory if share is
// CLONE_VM, and has a copy of it if that is 0.
func cloneCarrier(p *plan, share uint64) (child, error) {
	// Descriptors that the program sets itself must not be those of its files.
	fds, dups, err := highFDs(p.prog.files)
	defer func() {
		for _, fd := range dups {
			unix.Close(fd)
		}
	}()
	if err != nil {
		return child{}, err
	}
	argsAt := (p.prog.size() + 63) &^ 63
	stackAt := argsAt + 128
	arena, err := unix.Mmap(-1, 0, stackAt+childStack, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return child{}, os.NewSyscallError("mmap", err)
	}
	// The arena is no memory of Go's: it does not move, and is not freed
	// while the child uses it.
	base := unsafe.Pointer(&arena[0])
	p.prog.encodeTo(arena[:p.prog.size()], uintptr(base), fds[p.prog.fdOf(p.errfd)], func(i int) int { return fds[i] })
	args := (*cloneArgs)(unsafe.Add(base, argsAt))
	pidfd := (*int32)(unsafe.Add(base, argsAt+int(unsafe.Sizeof(*args))))
	*args = cloneArgs{
		flags: uint64(p.cloneFlags()) | share | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND,
		pidfd: uint64(uintptr(unsafe.Pointer(pidfd))), exitSignal: uint64(unix.SIGCHLD),
		stack: uint64(uintptr(unsafe.Add(base, stackAt))), stackSize: childStack,
	}
	if p.cgroup.dir != nil {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(p.cgroup.dir.Fd())
	}
	// The child has this process's memory and may already run as the container's
	// user: a process of the same user on the machine could otherwise trace it.
	sys.HideMemory()
	var pid int
	clone := func() (err error) {
		pid, err = cloneBlocked(args, base)
		return err
	}
	if p.amongOthers() {
		args.flags &^= unix.CLONE_PIDFD // it would be the thread's that makes it
		if p.cgroup.dir != nil {
			fds = append(fds, int(args.cgroup))
		}
		if err = p.cloneWith(fds, clone); err == nil {
			var fd int
			fd, err = unix.PidfdOpen(pid, 0) // nobody else waits for it
			*pidfd = int32(fd)
		}
	} else {
		err = clone()
	}
	c := child{pid: pid, pidfd: int(*pidfd), executed: func() {
		sys.ShowMemory()
		_ = unix.Munmap(arena)
	}}
	if err != nil || share == 0 { // a copy stays hidden, and as it is
		c.executed()
		c.executed = nil
	}
	if err != nil {
		return child{}, err
	}
	return c, nil
}

// amongOthers says whether the child is born where others can stop it.
func (p *plan) amongOthers() bool {
	// Who is to die with the thread that makes it can't be made by one that ends at once.
	return p.spec.PID.With == ShareOther && !p.spec.KillWithParent
}

// cloneWith makes a child in the PID namespace that the Spec names, which has these
// descriptors alone: one that is stopped at once keeps no lock and no pipe of this process
// open. It has those of the Go runtime's poller, too, which every thread may wake.
func (p *plan) cloneWith(fds []int, clone func() error) error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, f := range open {
		what, _ := os.Readlink("/proc/self/fd/" + f.Name())
		if fd, err := strconv.Atoi(f.Name()); err == nil && (what == "anon_inode:[eventpoll]" || what == "anon_inode:[eventfd]") {
			fds = append(fds, fd)
		}
	}
	slices.Sort(fds)
	ns := int(p.spec.PID.NS.Fd())
	return sys.OnNewThread(func() error {
		// From here on nothing is opened or closed that is to be so elsewhere.
		if err := unix.Setns(ns, unix.CLONE_NEWPID); err != nil {
			return os.NewSyscallError("setns", err)
		}
		next := 0
		for _, fd := range append(fds, math.MaxInt32) {
			if next < fd {
				if err := unix.CloseRange(uint(next), uint(fd-1), unix.CLOSE_RANGE_UNSHARE); err != nil {
					return os.NewSyscallError("close_range", err)
				}
			}
			next = fd + 1
		}
		return clone()
	})
}

// cloneBlocked makes the child with every signal blocked: it must not run a
// handler of ours, and unblocks them itself in the end.
func cloneBlocked(args *cloneArgs, image unsafe.Pointer) (int, error) {
	all, old := ^uint64(0), uint64(0)
	mask := func(set, old *uint64) {
		unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, 2, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
	}
	mask(&all, &old)
	r := cloneWalk(unsafe.Pointer(args), unsafe.Sizeof(*args), image)
	mask(&old, nil)
	if int(r) < 0 {
		return 0, os.NewSyscallError("clone3", unix.Errno(-int(r)))
	}
	return int(r), nil
}

// highFDs returns the descriptors of files, duplicates of those below firstFD.
func highFDs(files []*os.File) (fds, dups []int, err error) {
	for _, f := range files {
		fd := int(f.Fd())
		if fd < firstFD {
			if fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, firstFD); err != nil {
				return nil, dups, fmt.Errorf("duplicate descriptor: %w", err)
			}
			dups = append(dups, fd)
		}
		fds = append(fds, fd)
	}
	return fds, dups, nil
}
