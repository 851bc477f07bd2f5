// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// Process is a container's first process, process 1 of its own PID namespace:
// when it ends the kernel kills all others there. All methods may be called
// from several goroutines.
type Process struct {
	id     string
	cause  func() error // why Start's context has ended, or nil
	pid    int
	pidfd  *os.File
	io     *stdio
	cgroup *cgroup
	stubs  *stubs
	unhook func() bool // undoes the wait for ctx
	// many says that others of the container can be there after process 1: it
	// is none in its PID namespace.
	many bool
	// joined says that it has entered a container: nobody asks later how it ended.
	joined bool
	// adopted is set if it is no child of this process.
	adopted *Adoption
	gone    chan struct{} // closed when all its processes are
	done    chan struct{} // closed when err is set
	err     error
	reaping sync.Once

	groupMu sync.Mutex // guards what is known of the group, and
	ended   bool       // that it is about to be removed
}

// Start starts the container and returns when its command has been executed,
// or with a *[StartError] if that can't be done; nothing is left running then.
// When ctx ends, during Start or later, every process of the container is
// killed. The caller calls [Process.Wait].
func Start(ctx context.Context, spec Spec) (*Process, error) {
	h, err := theHost()
	if err != nil {
		return nil, setupError("", err)
	}
	return h.start(ctx, spec, bestCarrier)
}

func (h *host) start(ctx context.Context, spec Spec, carry carrier) (*Process, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, setupError("start container", err)
	}
	pl, err := newPlan(h, &spec)
	if err != nil {
		return nil, err
	}
	p := &Process{
		id: spec.ID, cause: func() error { return context.Cause(ctx) },
		io: pl.io, cgroup: pl.cgroup, stubs: pl.stubs, gone: make(chan struct{}), done: make(chan struct{}), many: spec.PID.With != ShareNot,
	}
	var c child
	h.onSpawner(func() {
		err = inPIDNamespace(spec.PID.NS, func() error { c, err = carry(pl); return err })
	})
	if err != nil {
		return nil, &StartError{Err: errors.Join(err, pl.abandon()), Code: codeSetup}
	}
	p.pid, p.pidfd = c.pid, newPidfd(c.pidfd)
	p.unhook = context.AfterFunc(ctx, func() { _ = p.Kill() })
	pl.release()
	err = pl.awaitInTime(p)
	if err != nil {
		// Nothing is said about how it ends. Until it has, it may use what
		// the carrier has given it.
		p.unhook()
		_ = p.Kill()
		_ = p.awaitEnd()
		p.reap()
	}
	if c.executed != nil {
		c.executed()
	}
	if err != nil {
		_ = p.endOthers()
		p.io.closeAll()
		_ = p.cleanUp()
		if cause := context.Cause(ctx); cause != nil {
			return nil, setupError("start container", cause)
		}
		return nil, err
	}
	p.io.started()
	go p.finish()
	return p, nil
}

// newPidfd makes the descriptor one that the runtime waits for without a
// thread. That only fails for a bad descriptor.
func newPidfd(fd int) *os.File {
	_ = unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), "pidfd")
}

// setupTime is how long a process may take until it executes its command. Others
// of a PID namespace that it shares can stop it.
var setupTime = time.Minute

// awaitInTime is await, but kills the process after setupTime.
func (p *plan) awaitInTime(made *Process) error {
	late := time.AfterFunc(setupTime, func() { _ = made.Signal(syscall.SIGKILL) })
	err := p.await(made.pid)
	if !late.Stop() {
		err = setupError("wait for process", fmt.Errorf("it was not set up within %v, and is killed", setupTime))
	}
	return err
}

// await waits until the command has been executed or the child has reported an
// error, and returns that. On the way it does what is to be done before, once:
// in a moment that is too short to be told, the socket is the container's.
func (p *plan) await(pid int) error {
	defer p.report.Close()
	for before := p.spec.BeforeExec; ; {
		var report [16]byte
		switch _, err := io.ReadFull(p.report, report[:]); {
		case errors.Is(err, io.EOF) && before != nil:
			return setupError("wait for process", errors.New("it ended while it was set up"))
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return setupError("wait for process", err)
		}
		index := binary.NativeEndian.Uint64(report[:])
		if index != readyReport || before == nil {
			return p.reported(index, unix.Errno(binary.NativeEndian.Uint64(report[8:])))
		}
		if err := before(pid, p.io.terminal); err != nil {
			return &StartError{Err: err, Code: codeSetup}
		}
		before = nil
		if _, err := p.report.Write([]byte{1}); err != nil {
			return setupError("start process", err)
		}
	}
}

// reported is the error that a child has reported.
func (p *plan) reported(index uint64, errno unix.Errno) error {
	tooLong := index == uint64(len(p.prog.steps)-1) && errno == unix.E2BIG
	if index == execReport || tooLong { // the trampoline got the same arguments
		return p.execError(errno)
	}
	return p.prog.failure(index, uint64(errno))
}

// execError explains why no candidate of the command could be executed, in
// docker's words.
func (p *plan) execError(errno unix.Errno) error {
	command := p.spec.Args[0]
	fail := func(code int, why error) error {
		return &StartError{Err: fmt.Errorf("exec: %q: %w", command, why), Code: code}
	}
	if errno == unix.ENOENT && !strings.Contains(command, "/") {
		for _, name := range candidates(command, p.env) {
			if st := p.stat(name); st != nil && !st.IsDir() {
				return fail(codeNotFound, fmt.Errorf("%s: %w: %s", name, errno, noInterpreter))
			}
		}
		return fail(codeNotFound, notInPath{errno})
	}
	st := p.stat(command)
	switch {
	case errno == unix.ENOENT && st != nil:
		return fail(codeNotFound, fmt.Errorf("%w: %s", errno, noInterpreter))
	case errno == unix.ENOENT:
		return fail(codeNotFound, errno)
	case errno == unix.EACCES && st != nil && st.IsDir():
		return fail(codeNotExecutable, unix.EISDIR)
	}
	return fail(codeNotExecutable, errno)
}

// noInterpreter is why a file that is there can't be found.
const noInterpreter = "its interpreter or loader is missing"

// stat is what the container's root has at a path, relative to the working
// directory if it isn't absolute; nil if nothing.
func (p *plan) stat(name string) os.FileInfo {
	if !strings.HasPrefix(name, "/") {
		name = p.dir + "/" + name
	}
	f, err := sys.OpenInRoot(p.root, name, unix.O_PATH, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil
	}
	return st
}

// notInPath is the error for a command that no directory of PATH has.
type notInPath struct{ errno unix.Errno }

func (notInPath) Error() string   { return "executable file not found in $PATH" }
func (e notInPath) Unwrap() error { return e.errno }

// finish waits for the end of the container and cleans up.
func (p *Process) finish() {
	defer close(p.done)
	status, known := syscall.WaitStatus(0), true
	if p.adopted != nil {
		status, known = p.awaitAdopted()
	} else {
		status = p.awaitEnd()
		if p.joined {
			p.reap() // its output may be held open for long
		}
	}
	killed := !p.unhook()
	err := p.endOthers()
	close(p.gone)
	err = errors.Join(err, p.io.wait(!p.joined))
	p.groupMu.Lock()
	p.ended = true
	p.groupMu.Unlock()
	exit := p.exitError(status)
	if !known {
		exit = &ExitError{Code: codeUnknown, Unknown: true, OOM: p.cgroup.oomKilled()}
	}
	if cause := p.cause(); killed && cause != nil && exit != nil {
		exit = fmt.Errorf("container %s: %w", p.id, cause)
	}
	p.io.endInput()
	p.err = joinNonNil(exit, err, p.cleanUp())
}

// endOthers ends what the kernel doesn't end with process 1.
func (p *Process) endOthers() error {
	if !p.many {
		return nil
	}
	return errors.Join(p.cgroup.kill(), p.cgroup.awaitEmpty())
}

// joinNonNil is errors.Join, but a single error stays what it is.
func joinNonNil(errs ...error) error {
	var only error
	for _, err := range errs {
		if err != nil && only != nil {
			return errors.Join(errs...)
		}
		if err != nil {
			only = err
		}
	}
	return only
}

// awaitEnd waits until process 1 has ended, which stays to be reaped. All others
// of its namespace are gone then: the kernel waits for them before it reports
// the end of the first.
func (p *Process) awaitEnd() (status syscall.WaitStatus) {
	ended := func(options int) (over bool) {
		pid, how, err := sys.PeekEnded(p.pid, options)
		status = how
		return pid != 0 || err != nil
	}
	conn, err := p.pidfd.SyscallConn()
	if err == nil {
		err = conn.Read(func(uintptr) bool { return ended(unix.WNOHANG) })
	}
	if err != nil {
		ended(0) // the descriptor can't be polled: wait with a thread
	}
	return status
}

// reap lets the kernel forget process 1, which has ended. One that was adopted
// is its parent's to reap.
func (p *Process) reap() {
	if p.adopted == nil {
		p.reaping.Do(func() { reapChild(p.pid) })
	}
}

// reapChild waits for the end of a child, and has the kernel forget it.
func reapChild(pid int) (status syscall.WaitStatus) {
	for {
		if _, err := syscall.Wait4(pid, &status, 0, nil); !errors.Is(err, unix.EINTR) {
			return status
		}
	}
}

func (p *Process) exitError(status syscall.WaitStatus) error {
	return exitError(status, p.cgroup)
}

// exitError says how the first process of a group has ended, nil for well.
func exitError(status syscall.WaitStatus, g *cgroup) error {
	switch {
	case status.Signaled():
		return &ExitError{Code: codeSignal + int(status.Signal()), Signal: status.Signal(), OOM: g.oomKilled()}
	case status.ExitStatus() != 0:
		return &ExitError{Code: status.ExitStatus(), OOM: g.oomKilled()}
	}
	return nil
}

// cleanUp removes what was made for the container.
func (p *Process) cleanUp() error {
	err := p.cgroup.remove()
	return errors.Join(err, p.stubs.clean(), p.pidfd.Close())
}

// Wait returns when every process of the container is gone, all its output has
// been copied, and what was made for it is removed again: the control group
// and mount points that were missing in Root. It returns nil if process 1
// ended with code 0, else an *[ExitError]; if it was killed because Start's
// context ended, an error that wraps that context's cause. Calling it again
// returns the same.
//
// A Stdin that is no *os.File may still be being read when Wait returns.
func (p *Process) Wait() error {
	err := p.Ended()
	p.reap()
	return err
}

// Gone is closed when every process of the container is gone. What they wrote is
// perhaps not copied yet: that may wait for whoever takes it.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// Ended is [Process.Wait], but process 1 stays a zombie until somebody calls
// that: if this process is killed before it has noted the end, whoever becomes
// the parent can still learn of it.
func (p *Process) Ended() error {
	<-p.done
	return p.err
}

// Signal sends a signal to process 1. Signals that it has no handler for are
// dropped by the kernel, except SIGKILL and SIGSTOP: see [Spec].Init. After
// the process has ended it returns [os.ErrProcessDone].
func (p *Process) Signal(sig syscall.Signal) error {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return os.ErrProcessDone
	}
	var errSend error
	err = conn.Control(func(fd uintptr) { errSend = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	// The descriptor is closed after the end.
	if err != nil || errors.Is(errSend, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return os.NewSyscallError("pidfd_send_signal", errSend)
}

// Kill kills every process of the container. It does not wait.
func (p *Process) Kill() error {
	if !p.many {
		return p.Signal(syscall.SIGKILL)
	}
	err := p.cgroup.kill()
	if own := p.Signal(syscall.SIGKILL); err != nil || !errors.Is(own, os.ErrProcessDone) {
		err = errors.Join(err, own) // else the group's kill was quicker
	}
	return err
}

// Resize sets the size of the terminal. Without a terminal it does nothing.
func (p *Process) Resize(width, height uint16) error { return p.io.resize(width, height) }

// Pid is the process's id in the caller's PID namespace.
func (p *Process) Pid() int { return p.pid }

// Terminal is our side of the process's pseudo terminal, nil if it has none. It is the
// Process's, which copies its output until this process ends.
func (p *Process) Terminal() *os.File { return p.io.terminal }

// Run is [Start] followed by [Process.Wait]: when it returns, the container is
// gone. When ctx ends the whole container is killed, and the error wraps the
// context's cause.
//
// Where this process may not mount it runs steps alone, without a container: in
// their root.
func Run(ctx context.Context, spec Spec) error {
	if !sys.MayMount() && os.Geteuid() == 0 {
		return runBare(ctx, spec)
	}
	p, err := Start(ctx, spec)
	if err != nil {
		return err
	}
	return p.Wait()
}
