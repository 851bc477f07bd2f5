// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"os"
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
	pid, errno := cloneBlocked(args, base)
	c := child{pid: pid, pidfd: int(*pidfd), executed: func() {
		sys.ShowMemory()
		_ = unix.Munmap(arena)
	}}
	if errno != 0 || share == 0 { // a copy stays hidden, and as it is
		c.executed()
		c.executed = nil
	}
	if errno != 0 {
		return child{}, os.NewSyscallError("clone3", errno)
	}
	return c, nil
}

// cloneBlocked makes the child with every signal blocked: it must not run a
// handler of ours, and unblocks them itself in the end.
func cloneBlocked(args *cloneArgs, image unsafe.Pointer) (int, unix.Errno) {
	all, old := ^uint64(0), uint64(0)
	mask := func(set, old *uint64) {
		unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, 2, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
	}
	mask(&all, &old)
	r := cloneWalk(unsafe.Pointer(args), unsafe.Sizeof(*args), image)
	mask(&old, nil)
	if int(r) < 0 {
		return 0, unix.Errno(-int(r))
	}
	return int(r), 0
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
