// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// ErrGone says that a process has ended, or that its number is another one's
// by now.
var ErrGone = errors.New("process is gone")

// StartTime is when a process began, in clock ticks since boot: with its
// number it names the process for as long as the machine is up. It is 0 for a
// process that is not there or has ended and was not waited for yet. See
// proc_pid_stat(5).
func StartTime(pid int) uint64 {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The command's name may hold anything but ends at the last parenthesis.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 || string(fields[0]) == "Z" || string(fields[0]) == "X" {
		return 0
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0
	}
	return start
}

// OpenProcess opens the process of a number and a [StartTime] as a pidfd, by
// which it can be signalled without ever meeting another one. The error wraps
// [ErrGone] if it has ended.
func OpenProcess(pid int, start uint64) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	// Read after the opening: now the number can't change its meaning.
	if start == 0 || StartTime(pid) != start {
		unix.Close(fd)
		return nil, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// SignalProcess sends a signal to a process opened by [OpenProcess]. After it
// has ended it returns [os.ErrProcessDone].
func SignalProcess(pidfd *os.File, sig syscall.Signal) error {
	return (&Process{pidfd: pidfd}).Signal(sig)
}

// Adopt takes over a container that another process has started and no longer
// holds, because it was killed: the container's first process with the time at
// which it began. spec is what it was started with. [Process.Wait] then works
// as for one that was started here, except that streams are nobody's, and that
// before Linux 6.15 the exit code can't be known: it is an [ExitError] with
// Unknown set. The error wraps [ErrGone] if the container has ended.
func Adopt(spec Spec, pid int, start uint64) (*Process, error) {
	h, err := theHost()
	if err != nil {
		return nil, err
	}
	pidfd, err := OpenProcess(pid, start)
	if err != nil {
		return nil, err
	}
	p := &Process{
		id: spec.ID, cause: func() error { return nil }, pid: pid, pidfd: pidfd, adopted: true,
		io: &stdio{}, cgroup: h.findCgroup(&spec), stubs: &stubs{}, unhook: func() bool { return true }, done: make(chan struct{}),
	}
	go p.finish()
	return p, nil
}

// findCgroup opens the groups that makeCgroup made for a container in another
// process. What is not there is left out.
func (h *host) findCgroup(spec *Spec) *cgroup {
	parent := cgroupParent(spec)
	g := &cgroup{root: h.cgroups.root, path: path.Join(parent, spec.ID)}
	if dir, err := sys.OpenInRoot(g.root, g.path, unix.O_RDONLY|unix.O_DIRECTORY, 0); err == nil {
		g.dir = dir
	}
	return g
}

// pidfdInfo is struct pidfd_info of linux/pidfd.h in its first form.
type pidfdInfo struct {
	mask, cgroup uint64
	ids          [11]uint32
	exitCode     int32
}

const (
	pidfdGetInfo  = 0xC0000000 | 64<<16 | 0xFF<<8 | 11 // _IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)
	pidfdInfoExit = 1 << 3
)

// reapAdopted waits for the end of a process that is no child of this one. ok
// is false if the kernel doesn't say how it ended.
func (p *Process) reapAdopted() (status syscall.WaitStatus, ok bool) {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return 0, false
	}
	ended := func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	}
	if err := conn.Read(ended); err != nil {
		for StartTime(p.pid) != 0 { // it can't be polled
			time.Sleep(50 * time.Millisecond)
		}
	}
	// The code is there once its parent has waited for it.
	for wait := 100 * time.Microsecond; wait < time.Second; wait *= 2 {
		info := pidfdInfo{mask: pidfdInfoExit}
		var errno unix.Errno
		err := conn.Control(func(fd uintptr) {
			_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
		})
		if err != nil || errno != 0 && errno != unix.ESRCH {
			return 0, false
		}
		if errno == 0 && info.mask&pidfdInfoExit != 0 {
			return syscall.WaitStatus(info.exitCode), true
		}
		time.Sleep(wait)
	}
	return 0, false
}

// WaitGone waits until a process opened by [OpenProcess] has ended, or ctx has.
func WaitGone(ctx context.Context, pidfd *os.File) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 0); n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}
