// SPDX-License-Identifier: Apache-2.0

package container

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// carrier makes a child process in new namespaces and in the container's
// control group, and has it walk the plan's program. It returns as soon as the
// child exists. It runs on the spawner thread.
type carrier func(p *plan) (child, error)

// child is a process that a carrier has made.
type child struct {
	pid, pidfd int
	// executed is called when the child has executed its command, or has
	// ended before. nil does nothing.
	executed func()
}

// bestCarrier is the fast carrier, or the copying one for a child that is to be apart, or
// where the kernel is too old for them the portable one.
func bestCarrier(p *plan) (child, error) {
	carry := fastCarrier
	if p.apart() {
		carry = copyingCarrier
	}
	c, err := carry(p)
	if p.spec.UserNS != nil || p.spec.PID.With == ShareOther {
		// A process of several threads can't enter a user namespace, and the one that
		// syscall.ForkExec waits for can be stopped by others of its PID namespace.
		return c, err
	}
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.E2BIG) {
		return portableCarrier(p)
	}
	return c, err
}

// apart says whether the child is not to share this process's memory, as that is no matter
// of the two alone:
//
//   - in the PID namespace of others, of whom one that may trace everything there
//     (CAP_SYS_PTRACE) could write to it;
//   - with an oom_score_adj, which is that of all who share memory;
//   - below a group that the caller names, where there may be no memory left: the kernel
//     kills all who share memory with what it finds there.
func (p *plan) apart() bool {
	return p.spec.PID.With == ShareOther || p.setsOOM() || p.spec.CgroupParent != ""
}

// The portable carrier executes this program anew, whose main calls Init.

const (
	// carrierName is argv[0] of the child.
	carrierName = "builder-container-carrier"
	// imageAddr is where the child maps the program's image. Nothing else is
	// there: the Go heap begins far above, and the kernel places mappings
	// from the top of the address space.
	imageAddr = 0x30_0000_0000
	// imageFD is the child's descriptor of the image.
	imageFD = 3
	// carrierErrFD is a copy of the socket for errors, for what goes wrong before the
	// image is there. The program replaces it.
	carrierErrFD = 4
	// firstFD is the child's descriptor of the first of the program's files,
	// beyond all that the program sets itself.
	firstFD = 16
)

// initCalled says that main has called Init, as the portable carrier needs.
var initCalled bool

// Init must be the first statement of the main function of any program (and
// of TestMain of any test) that starts containers: where a container's child
// process is made by executing the program anew, Init does the child's part
// and never returns. Otherwise it returns at once.
func Init() {
	initCalled = true
	if len(os.Args) != 1 || os.Args[0] != carrierName {
		return
	}
	// Process 1, or one of a PID namespace that is shared: what tells it from
	// a program of that name is its image.
	if _, err := unix.FcntlInt(imageFD, unix.F_GET_SEALS, 0); err == nil {
		becomeContainer()
	}
}

// portableCarrier is a carrier.
func portableCarrier(p *plan) (child, error) {
	if !initCalled {
		return child{}, errors.New("main does not call container.Init")
	}
	image := p.prog.encode(imageAddr, p.prog.fdOf(p.errfd)+firstFD, func(i int) int { return firstFD + i })
	fd, err := unix.MemfdCreate("builder-program", unix.MFD_CLOEXEC)
	if err != nil {
		return child{}, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "program")
	defer f.Close()
	if _, err := f.Write(image); err != nil {
		return child{}, err
	}
	files := make([]uintptr, firstFD, firstFD+len(p.prog.files))
	for i := range files {
		files[i] = ^uintptr(0) // closed
	}
	for i, c := range p.io.child {
		files[i] = c.Fd()
	}
	files[imageFD] = f.Fd()
	files[carrierErrFD] = p.errfd.Fd()
	for _, f := range p.prog.files {
		files = append(files, f.Fd())
	}
	cgroupFD := -1
	if p.cgroup.dir != nil {
		cgroupFD = int(p.cgroup.dir.Fd())
	}
	var pidfd int
	pid, err := syscall.ForkExec("/proc/self/exe", []string{carrierName}, &syscall.ProcAttr{
		Files: files,
		// One thread at work is enough.
		Env: []string{"GOMAXPROCS=1"},
		Sys: &syscall.SysProcAttr{
			Cloneflags: p.cloneFlags(), PidFD: &pidfd,
			UseCgroupFD: cgroupFD >= 0, CgroupFD: cgroupFD,
		},
	})
	runtime.KeepAlive(p)
	if err != nil {
		return child{}, fmt.Errorf("make process: %w", err)
	}
	return child{pid: pid, pidfd: pidfd}, nil
}

// becomeContainer is the life of the portable carrier's child.
func becomeContainer() {
	// Everything below happens to this thread alone, which in the end
	// replaces the whole process.
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	fail := func(errno error) {
		var report [16]byte
		binary.NativeEndian.PutUint64(report[:], carrierReport)
		var e unix.Errno
		errors.As(errno, &e)
		binary.NativeEndian.PutUint64(report[8:], uint64(e))
		_, _ = unix.Write(carrierErrFD, report[:])
		unix.Exit(codeSetup)
	}
	// The memory of this process is a copy of the builder's program; nobody
	// in the container is to look into it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		fail(os.NewSyscallError("prctl", err))
	}
	// A mount namespace can't be joined by a thread that shares its root and
	// working directory with others. With descriptors of its own it can close
	// those of the Go runtime, which polls them from another thread.
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_FILES); err != nil {
		fail(os.NewSyscallError("unshare", err))
	}
	var st unix.Stat_t
	if err := unix.Fstat(imageFD, &st); err != nil {
		fail(os.NewSyscallError("fstat", err))
	}
	_, _, errno := unix.Syscall6(unix.SYS_MMAP, imageAddr, uintptr(st.Size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_FIXED_NOREPLACE|unix.MAP_POPULATE, imageFD, 0)
	if errno != 0 {
		fail(os.NewSyscallError("mmap", errno))
	}
	addr := uintptr(imageAddr)
	walk(*(*unsafe.Pointer)(unsafe.Pointer(&addr)))
}

// walk applies the program whose image is at an address. It returns only by
// exiting or executing.
func walk(image unsafe.Pointer) {
	word := func(op uintptr, i int) uintptr {
		return *(*uintptr)(unsafe.Add(image, 8*(headerWords+opWords*op)+uintptr(8*i)))
	}
	for op := uintptr(0); ; op++ {
		nr, indirect := word(op, 0), word(op, 1)
		var args [6]uintptr
		for i := range args {
			args[i] = word(op, 2+i)
			if indirect>>i&1 != 0 {
				args[i] = *at[uintptr](args[i])
			}
		}
		var result uintptr
		var errno unix.Errno
		switch nr {
		case opEnd:
			return
		case opCheck:
			if uintptr(*at[byte](args[0])) != args[1] {
				errno = unix.Errno(args[2])
			}
		default:
			result, _, errno = unix.RawSyscall6(nr, args[0], args[1], args[2], args[3], args[4], args[5])
		}
		tolerate := word(op, 9)
		switch {
		case errno == 0:
			if dst := word(op, 8); dst != 0 {
				*at[uintptr](dst) = result
			}
		case tolerate == ^uintptr(0) || errno < 64 && tolerate>>errno&1 != 0:
			op += word(op, 10)
		default:
			report := [2]uint64{uint64(op), uint64(errno)}
			errfd := *(*uintptr)(image)
			unix.RawSyscall(unix.SYS_WRITE, errfd, uintptr(unsafe.Pointer(&report)), unsafe.Sizeof(report))
			unix.RawSyscall(unix.SYS_EXIT_GROUP, codeNotFound, 0, 0)
		}
	}
}

// at turns an address in the image into a pointer. The image is no memory of
// Go's, so there is nothing for the collector to know.
func at[T any](addr uintptr) *T {
	return *(**T)(unsafe.Pointer(&addr))
}
