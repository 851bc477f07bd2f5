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
func StartTime(pid int) uint64 { return startTime(pid, false) }

// EndedStartTime is [StartTime] of a process that has ended and was not waited
// for yet.
func EndedStartTime(pid int) uint64 { return startTime(pid, true) }

// statFields are what proc_pid_stat(5) has behind the command's name: state, parent
// and so on. There are none of a process that isn't there.
func statFields(pid int) [][]byte {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil
	}
	// The name may hold anything but ends at the last parenthesis.
	return bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
}

func startTime(pid int, ended bool) uint64 {
	fields := statFields(pid)
	if len(fields) < 20 || !ended && (string(fields[0]) == "Z" || string(fields[0]) == "X") {
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

// Adoption is what [Adopt] needs to know of a container besides its Spec.
type Adoption struct {
	Pid   int
	Start uint64 // see [StartTime]
	// Terminal is the other side of its terminal, which becomes the Process's;
	// the Spec's Stdin and Stdout are then copied from and to it. Other
	// streams are the caller's business.
	Terminal *os.File
	// Exit says how a process ended that is no child of this one, if anybody
	// knows.
	Exit func() (syscall.WaitStatus, bool)
}

// Adopt takes over a container that another process has started and no longer
// holds, because it was killed. spec is what it was started with.
// [Process.Wait] then works as for one that was started here; the exit code is
// that of Adoption.Exit or, from Linux 6.15 on, the kernel's, or it is an
// [ExitError] with Unknown set. The error wraps [ErrGone] if the container has
// ended.
func Adopt(spec Spec, a Adoption) (*Process, error) {
	h, err := theHost()
	if err != nil {
		return nil, err
	}
	pidfd, err := OpenProcess(a.Pid, a.Start)
	if err != nil {
		return nil, err
	}
	p := &Process{
		id: spec.ID, cause: func() error { return nil }, pid: a.Pid, pidfd: pidfd, adopted: &a, many: spec.PID.With != ShareNot,
		io: &stdio{}, cgroup: h.findCgroup(&spec, a.Pid), stubs: &stubs{}, unhook: func() bool { return true },
		gone: make(chan struct{}), done: make(chan struct{}),
	}
	if a.Terminal != nil {
		p.io.terminalStreams(&spec, a.Terminal)
	}
	p.io.started()
	go p.finish()
	return p, nil
}

// findCgroup opens the groups that makeCgroup made for a container in another
// process. What is not there is left out.
func (h *host) findCgroup(spec *Spec, pid int) *cgroup {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cgroups.find(spec, pid)
}

func (c *cgroups) find(spec *Spec, pid int) *cgroup {
	if c.rootless || c.none {
		return c.groupOf(pid)
	}
	return c.named(spec)
}

// named opens the groups that a container has by its ID.
func (c *cgroups) named(spec *Spec) *cgroup {
	g := &cgroup{root: c.root, path: path.Join(c.parentOf(spec), spec.ID)}
	g.find()
	all, err := hierarchies()
	if err != nil {
		return g
	}
	for _, controllers := range all {
		root, err := c.hierarchy(controllers[0])
		if err != nil {
			continue
		}
		if twin := (&cgroup{root: root, path: g.path}); twin.find() {
			g.v1 = append(g.v1, twin)
		}
	}
	return g
}

// RemoveGroups removes the control groups of a container that has ended, which
// are still there if its holder was killed, with what its end has left of its
// processes in a PID namespace that it shares. Those of an ordinary user are
// found where a command like this one makes them. The error is EBUSY if a
// process is in one.
func RemoveGroups(spec Spec) error {
	c, err := ownCgroups(sys.InUserNamespace())
	if err != nil {
		return err
	}
	defer c.close()
	if c.none {
		return nil
	}
	g := c.named(&spec)
	if spec.PID.With != ShareNot {
		err = errors.Join(g.kill(), g.awaitEmpty())
	}
	return errors.Join(err, g.remove())
}

// close gives up the hierarchies.
func (c *cgroups) close() {
	for _, root := range c.v1 {
		root.Close()
	}
	if c.root != nil {
		c.root.Close()
	}
}

// find opens the group's directory if it is there.
func (g *cgroup) find() bool {
	dir, err := sys.OpenInRoot(g.root, g.path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == nil {
		g.dir = dir
	}
	return err == nil
}

// awaitAdopted waits for the end of a process that is no child of this one. ok
// is false if the kernel doesn't say how it ended.
func (p *Process) awaitAdopted() (status syscall.WaitStatus, ok bool) {
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
	// It is known once its parent has waited for it.
	for wait := 100 * time.Microsecond; wait < time.Second; wait *= 2 {
		if p.adopted.Exit != nil {
			if status, ok := p.adopted.Exit(); ok {
				return status, true
			}
		}
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		var errGet error
		err := conn.Control(func(fd uintptr) { errGet = unix.IoctlPidfdInfo(int(fd), &info) })
		if err == nil && errGet == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0 {
			return syscall.WaitStatus(info.Exit_code), true
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
