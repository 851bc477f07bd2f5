// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// Target is a running container that [Exec] enters.
type Target struct {
	Pid   int
	Start uint64 // see [StartTime]
	// Spec is what the container was started with. Its confinement holds for
	// the new process too.
	Spec Spec
}

// ExecSpec says what runs in a container that runs already.
type ExecSpec struct {
	Args []string
	// Env is the whole environment; HOME and PATH are added as in [Spec].
	Env      []string
	Dir      string // "" for "/"
	User     string // as in [Spec]
	GroupAdd []string
	// Privileged gives it all capabilities and no seccomp filter.
	Privileged bool

	Terminal      bool
	Width, Height uint16
	Stdin         io.Reader
	Stdout        io.Writer
	Stderr        io.Writer

	Warn func(message string)
}

// Exec runs a process in a running container, whoever holds that: in its
// namespaces and control groups, and confined as it is. It returns when the
// command has been executed, or with a *[StartError]. When ctx ends the process
// is killed. The error wraps [ErrGone] if the container has ended.
//
// The processes of the container see the new one before it is confined. So it
// is made of nothing that they could make use of: a program of a few hundred
// bytes in a memory file with the set-up's program behind it, which shares no
// memory with this process and is nobody's to trace (CVE-2016-9962,
// CVE-2019-5736).
func Exec(ctx context.Context, t Target, spec ExecSpec) (*Process, error) {
	h, err := theHost()
	if err != nil {
		return nil, setupError("", err)
	}
	if err := context.Cause(ctx); err != nil {
		return nil, setupError("exec", err)
	}
	x, err := newExec(h, t, spec)
	if err != nil {
		return nil, err
	}
	return x.start(ctx)
}

// execution is what Exec prepares. The plan is that of a container, of which
// only a part is used.
type execution struct {
	plan
	pidfd    *os.File
	hostProc *os.File // the machine's /proc, if it is needed
	userns   bool     // the container has another user namespace
	// shared are the flags of namespaces that the container has in common
	// with this process. They are the machine's, and not for its root to join.
	shared uintptr
}

func newExec(h *host, t Target, spec ExecSpec) (*execution, error) {
	s := t.Spec
	s.Args, s.Env, s.Dir, s.User, s.GroupAdd = spec.Args, spec.Env, spec.Dir, spec.User, spec.GroupAdd
	s.Privileged, s.Init, s.KillWithParent, s.RunStep, s.BeforeExec = spec.Privileged || t.Spec.Privileged, false, false, false, nil
	s.Terminal, s.Width, s.Height = spec.Terminal, spec.Width, spec.Height
	s.Stdin, s.Stdout, s.Stderr, s.Warn = spec.Stdin, spec.Stdout, spec.Stderr, spec.Warn
	x := &execution{plan: emptyPlan(h, &s)}
	err := runPhases([]phase{
		{"enter container", func() error { return x.enter(t) }},
		{"", x.checkExec},
		{"", x.resolveUser},
		{"confine", x.resolveConfinement},
		{"prepare owners", x.openPretend},
		{"prepare streams", func() error { return s.UserNS.AsRoot(x.openExecStreams) }},
		{"join control group", func() error { return x.joinCgroups(t) }},
	})
	if err != nil {
		x.give()
		return nil, &StartError{Err: err, Code: codeSetup}
	}
	x.writeJoin()
	x.writeStreams()
	x.writeProcess(func() {})
	return x, nil
}

// enter opens the container's first process and its root. What was opened is
// that process's: the pidfd was opened before.
func (x *execution) enter(t Target) error {
	var err error
	if x.pidfd, err = OpenProcess(t.Pid, t.Start); err != nil {
		return err
	}
	x.keep(x.pidfd)
	proc := "/proc/" + strconv.Itoa(t.Pid)
	root, err := os.OpenFile(proc+"/root", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	x.root = x.keep(root)
	mine, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return err
	}
	its, err := os.Readlink(proc + "/ns/user")
	if err != nil {
		return err
	}
	x.userns = mine != its
	if !t.Spec.IDs.IsZero() {
		// It is joined later, as when the container was started.
		ns, err := os.Open(proc + "/ns/user")
		if err != nil {
			return err
		}
		if err := isChild(x.keep(ns)); err != nil {
			return err
		}
		x.spec.UserNS, x.userns = t.Spec.IDs.namespace(ns), false
	}
	if x.host.rootless {
		if x.shared, err = sharedNamespaces(t.Pid); err != nil {
			return err
		}
	}
	if t.Spec.AppArmor != "" {
		if x.hostProc, err = os.OpenFile("/proc", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
			return err
		}
		x.keep(x.hostProc)
	}
	if StartTime(t.Pid) != t.Start {
		return fmt.Errorf("process %d: %w", t.Pid, ErrGone)
	}
	return nil
}

func (x *execution) checkExec() error {
	s := x.spec
	if len(s.Args) == 0 || s.Args[0] == "" {
		return errors.New("no command specified")
	}
	for _, text := range append(append([]string{s.Dir}, s.Args...), s.Env...) {
		if strings.ContainsRune(text, 0) {
			return fmt.Errorf("a zero byte in %q", text)
		}
	}
	x.dir = path.Clean("/" + s.Dir)
	return nil
}

// openExecStreams makes the streams; a terminal is one of the container's.
func (x *execution) openExecStreams() error {
	if x.spec.Terminal {
		fd, err := unix.Openat2(int(x.root.Fd()), "dev/pts", &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
		})
		if err != nil {
			return &fs.PathError{Op: "open", Path: "/dev/pts", Err: err}
		}
		x.pts = x.keep(os.NewFile(uintptr(fd), "/dev/pts"))
		var st unix.Statfs_t
		if err := unix.Fstatfs(fd, &st); err != nil || st.Type != unix.DEVPTS_SUPER_MAGIC {
			return errors.New("the container has no /dev/pts for a terminal")
		}
	}
	return x.makeStreams(machineNull)
}

// joinCgroups opens the groups that the container's first process is in, of
// every hierarchy that can be written to.
func (x *execution) joinCgroups(t Target) error {
	x.cgroup = &cgroup{root: x.host.cgroups.root}
	if x.host.cgroups.none {
		return nil
	}
	data, err := os.ReadFile("/proc/" + strconv.Itoa(t.Pid) + "/cgroup")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || parts[2] == "/" {
			continue
		}
		root := x.host.cgroups.root
		if parts[1] != "" {
			if root = openV1(parts[1]); root == nil {
				continue
			}
			defer root.Close()
		}
		procs, err := sys.OpenInRoot(root, parts[2]+"/cgroup.procs", unix.O_WRONLY, 0)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue // of another engine, or not ours to write
		}
		if err != nil {
			return err
		}
		x.v1procs = append(x.v1procs, x.keep(procs))
	}
	return nil
}

// openV1 opens the hierarchy of a controller of version 1 where machines mount
// it, nil if it isn't there.
func openV1(controllers string) *os.File {
	for name := range strings.SplitSeq(controllers, ",") {
		name = strings.TrimPrefix(name, "name=")
		f, err := os.OpenFile("/sys/fs/cgroup/"+name, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			continue
		}
		var st unix.Statfs_t
		if unix.Fstatfs(int(f.Fd()), &st) == nil && st.Type == unix.CGROUP_SUPER_MAGIC {
			return f
		}
		f.Close()
	}
	return nil
}

// pidReport is the index of a report that is none of an error: its second word
// is the process that goes on.
const pidReport = ^uint64(2)

// writeJoin enters control groups and namespaces. A process can't enter a PID
// namespace, but its children are in it: so a child goes on, which is made this
// process's own child.
func (x *execution) writeJoin() {
	pr := &x.prog
	pr.do("be nobody's to trace", unix.SYS_PRCTL, num(unix.PR_SET_DUMPABLE), num(0), num(0), num(0), num(0))
	// The machine's /proc: no other namespace is joined yet.
	x.writeOOM(cwd, "/proc/self/oom_score_adj")
	if dir := x.hostProc; dir != nil {
		x.writeAppArmor(x.prog.file(dir), "thread-self/attr/apparmor/exec")
	}
	for _, procs := range x.v1procs {
		pr.do("join control group", unix.SYS_WRITE, pr.file(procs), pr.str("0"), num(1))
	}
	flags := uintptr(unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP)
	if x.host.rootless {
		flags &^= x.shared
	}
	if x.userns {
		flags |= unix.CLONE_NEWUSER
	}
	pr.do("join namespaces", unix.SYS_SETNS, pr.file(x.pidfd), num(flags))
	self := pr.get("get process id", unix.SYS_GETPID)
	first := pr.get("open process", unix.SYS_PIDFD_OPEN, self, num(0))
	pr.do("open process", unix.SYS_DUP3, first, num(joinerFD), num(unix.O_CLOEXEC))
	buf := make([]byte, 16)
	binary.NativeEndian.PutUint64(buf, pidReport)
	report := pr.bytes(buf)
	fork := pr.do("make process", unix.SYS_CLONE, num(unix.CLONE_PARENT|int(unix.SIGCHLD)), num(0), num(0), num(0), num(0))
	fork.result = int(report.v) + 8
	child := arg{argSlot, report.v + 8}
	// Only the parent has a process of that number: for the child it is 0, for
	// which this fails.
	pr.do("tell process", unix.SYS_PIDFD_OPEN, child, num(0))
	pr.ignore(2, unix.EINVAL)
	pr.do("report process", unix.SYS_WRITE, pr.file(x.errfd), report, num(16))
	pr.do("leave", unix.SYS_EXIT_GROUP, num(0))
	// The report is to come before whatever the container can have a hand in.
	pollfd := binary.NativeEndian.AppendUint32(nil, joinerFD)
	pollfd = binary.NativeEndian.AppendUint32(pollfd, unix.POLLIN)
	pr.do("wait for report", unix.SYS_PPOLL, pr.bytes(pollfd), num(1), num(0), num(0), num(0))
	pr.do("new session", unix.SYS_SETSID)
}

// joinerFD is the descriptor by which the process that goes on sees the end of
// the one that has made it.
const joinerFD = walkerFD - 1

// start makes the process.
func (x *execution) start(ctx context.Context) (*Process, error) {
	first, err := x.spawn()
	if err != nil {
		x.give()
		return nil, &StartError{Err: err, Code: codeSetup}
	}
	p := &Process{
		id: x.spec.ID, cause: func() error { return context.Cause(ctx) },
		io: x.io, cgroup: &cgroup{kept: true}, stubs: x.stubs, gone: make(chan struct{}), done: make(chan struct{}), joined: true,
	}
	// What it needs is its own now. The socket's other end is closed with the process.
	x.release()
	pid, errJoin := x.awaitProcess()
	reapChild(first)
	if pid == 0 {
		x.give()
		return nil, errJoin
	}
	p.pid = pid
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		_ = unix.Kill(p.pid, unix.SIGKILL)
		reapChild(p.pid)
		x.give()
		return nil, setupError("pidfd_open", err)
	}
	p.pidfd = newPidfd(fd)
	p.unhook = context.AfterFunc(ctx, func() { _ = p.Kill() })
	err = errJoin
	if err == nil {
		err = x.awaitInTime(p)
	}
	if err != nil {
		x.report.Close()
		p.unhook()
		_ = p.Kill()
		_ = p.awaitEnd()
		p.reap()
		p.io.closeAll()
		_ = p.cleanUp()
		return nil, err
	}
	p.io.started()
	go p.finish()
	return p, nil
}

// awaitProcess reads which process goes on, 0 if none does. It may have failed
// before its number was told: the two that report are at work at the same time.
// Whoever is told of must be waited for, or the container could never end.
func (x *execution) awaitProcess() (pid int, err error) {
	for {
		var report [16]byte
		if _, errRead := io.ReadFull(x.report, report[:]); errRead != nil {
			if err == nil {
				err = setupError("enter container", errors.New("the process ended while it was set up"))
			}
			return 0, err
		}
		index, value := binary.NativeEndian.Uint64(report[:]), binary.NativeEndian.Uint64(report[8:])
		if index != pidReport {
			err = x.reported(index, unix.Errno(value))
			continue
		}
		// Of the container nobody can have sent it, unless the kernel has killed
		// the one that was to.
		pid := int(value)
		if pid <= 0 {
			return 0, setupError("enter container", unix.ECHILD)
		}
		if _, _, errPeek := sys.PeekEnded(pid, unix.WNOHANG); errPeek != nil {
			return 0, setupError("enter container", errPeek)
		}
		return pid, err
	}
}

// walkerFD is the process's descriptor of the walker, below those of the
// program's files.
const walkerFD = firstFD - 1

// spawn executes the walker with the program behind it.
func (x *execution) spawn() (pid int, err error) {
	return x.prog.spawn(x.errfd, x.io.child[:], nil)
}

// give undoes what was prepared for a process that won't run.
func (p *plan) give() {
	p.release()
	if p.io != nil {
		p.io.closeAll()
	}
	if p.report != nil {
		p.report.Close()
	}
}
