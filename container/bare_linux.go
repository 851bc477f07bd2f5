// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// Where nothing can be mounted and no namespace made, as in a container with
// docker's default confinement, a RUN step's process runs in its root alone
// (chroot(2)), in the namespaces that this process is in. What is mounted
// elsewhere is put into the root while it runs (bare_tree_linux.go). There is no
// /proc and no /sys. What the process leaves behind is killed.

// bareOnce is held by the step that runs so: there is one at a time, as what it
// leaves is told from others by being this process's orphans.
var bareOnce sync.Mutex

// theBareHost is the part of the host that such a step needs.
var theBareHost = sync.OnceValues(func() (*host, error) {
	h := &host{bare: true, lastCap: lastCap(), abis: probeABIs(), filters: map[capSet]*seccompFilter{}, oomScoreAdj: oomScoreAdj(), cgroups: &cgroups{none: true}}
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("%w: this build is for %s, and containers are made on amd64 only", ErrUnsupported, runtime.GOARCH)
	}
	var err error
	if h.caps, h.bounding, err = ownCaps(); err != nil {
		return nil, err
	}
	if !h.caps.has(unix.CAP_SYS_CHROOT) {
		return nil, fmt.Errorf("%w: this process can make no namespace, and has no CAP_SYS_CHROOT to do without", ErrUnsupported)
	}
	h.trampolines, err = newTrampolines()
	return h, err
})

// bareStep is a step that runs so. Of the plan a part is used.
type bareStep struct {
	plan
	tree    bareTree
	outputs []barePipe
}

// barePipe is a named pipe in /dev. Without /proc there is no other way to open
// a stream anew.
type barePipe struct {
	from, to *os.File // the end that is read, and the process's
	out      io.Writer
}

// runBare is Run for a step where this process may not mount.
func runBare(ctx context.Context, spec Spec) (err error) {
	bareOnce.Lock()
	defer bareOnce.Unlock()
	h, err := theBareHost()
	if err != nil {
		return setupError("", err)
	}
	if err := context.Cause(ctx); err != nil {
		return setupError("start container", err)
	}
	s := &bareStep{plan: emptyPlan(h, &spec)}
	s.cgroup = &cgroup{}
	defer s.closeOutputs()
	defer func() {
		if undo := joinNonNil(s.tree.undo(), s.stubs.clean()); undo != nil {
			err = joinNonNil(err, fmt.Errorf("take out what was put into the root: %w", undo))
		}
	}()
	err = runPhases([]phase{
		{"", s.checkBare},
		{"", s.checkSpec},
		{"", s.resolveUser},
		{"confine", s.confineBare},
		{"prepare root", s.fillTree},
		{"prepare working directory", s.makeDir},
		{"prepare streams", s.openBareStreams},
	})
	if err != nil {
		s.give()
		return &StartError{Err: err, Code: codeSetup}
	}
	s.writeBare()
	return s.carryOut(ctx)
}

// checkBare refuses what can't be had without mounts and namespaces.
func (s *bareStep) checkBare() error {
	spec := s.spec
	refuse := func(what string) error {
		return fmt.Errorf("%s can't be had here: no namespace can be made, and nothing mounted", what)
	}
	switch {
	case !spec.RunStep:
		return refuse("a container")
	case spec.Privileged:
		return refuse("--security=insecure")
	case spec.Network == NetworkNone:
		return refuse("--network=none")
	case spec.Network == NetworkPrivate:
		return refuse("a network of its own")
	case len(spec.Devices) > 0 || len(spec.GroupAdd) > 0:
		return refuse("a device")
	case spec.Seccomp != "" && spec.Seccomp != unconfined && !spec.NoNewPrivileges:
		return refuse("a seccomp profile without no-new-privileges")
	}
	wanted, err := spec.Resources.controllers()
	if err != nil {
		return err
	}
	if len(wanted) > 0 {
		s.warn("no control group can be made here: bounds of memory, CPU and processes are not enforced")
	}
	return nil
}

// confineBare takes from the process the right to change its root: with it, the
// root would hold nobody.
func (s *bareStep) confineBare() error {
	if err := s.resolveConfinement(); err != nil {
		return err
	}
	s.caps &^= 1 << unix.CAP_SYS_CHROOT
	if !s.spec.NoNewPrivileges {
		s.filter = nil // loading one takes CAP_SYS_ADMIN then
	}
	return nil
}

func (s *bareStep) openBareStreams() error {
	for name, out := range map[string]*io.Writer{"stdout": &s.spec.Stdout, "stderr": &s.spec.Stderr} {
		if *out == nil {
			continue
		}
		p, err := openBarePipe(s.root, name)
		if err != nil {
			return err
		}
		p.out, *out = *out, p.to
		s.outputs = append(s.outputs, p)
	}
	return s.makeStreams(machineNull)
}

// openBarePipe opens a pipe that makeBareDev has made.
func openBarePipe(root *os.File, name string) (p barePipe, err error) {
	if p.from, err = sys.OpenInRoot(root, "/dev/"+name, unix.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
		return p, err
	}
	// The process gets a blocking one.
	fd, err := unix.Openat2(int(root.Fd()), "dev/"+name, &unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return p, errors.Join(err, p.from.Close())
	}
	p.to = os.NewFile(uintptr(fd), name)
	return p, nil
}

// closeOutputs gives up the pipes of a process that has not run.
func (s *bareStep) closeOutputs() {
	for _, p := range s.outputs {
		p.to.Close()
		p.from.Close()
	}
	s.outputs = nil
}

// copyOutputs copies until end is called and nobody has a pipe open for writing.
func (s *bareStep) copyOutputs() (end func() error) {
	var g sync.WaitGroup
	pipes, errs := s.outputs, make([]error, len(s.outputs))
	s.outputs = nil
	for i, p := range pipes {
		g.Go(func() { errs[i] = copying{to: p.out, from: p.from, end: p.from}.output() })
	}
	return func() error {
		for _, p := range pipes {
			p.to.Close()
		}
		g.Wait()
		return errors.Join(errs...)
	}
}

// fillTree puts into the root what is mounted elsewhere.
func (s *bareStep) fillTree() error {
	if err := s.tree.open(s.root); err != nil {
		return err
	}
	// These stay in layers, as with mounts.
	for _, name := range []string{"/proc", "/dev", "/sys"} {
		f, err := s.stubs.ensure(s.root, name, true, true)
		if err != nil {
			return err
		}
		f.Close()
	}
	if s.mounted("/dev") || s.mounted("/proc") || s.mounted("/sys") {
		return errors.New("nothing can be mounted on /dev, /proc and /sys here")
	}
	if err := s.tree.put("/dev", s.makeBareDev); err != nil {
		return fmt.Errorf("/dev: %w", err)
	}
	for _, name := range []string{"/proc", "/sys"} {
		// What the image has there is not to be seen, nor what a step makes there
		// to be kept.
		if err := s.tree.put(name, func(at string) error { return makeDirAt(at, 0o555) }); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	files, err := etcFiles(s.spec, s.hostname)
	if err != nil {
		return err
	}
	for _, f := range files {
		name := "/etc/" + f.name
		if s.mounted(name) {
			continue
		}
		if err := s.tree.put(name, func(at string) error {
			return errors.Join(os.WriteFile(at, f.content, 0o644), os.Chmod(at, 0o644))
		}); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, m := range s.spec.Mounts {
		if err := s.tree.mount(m); err != nil {
			return fmt.Errorf("mount on %q: %w", m.Target, err)
		}
	}
	return nil
}

// makeBareDev makes a /dev with the usual nodes.
func (s *bareStep) makeBareDev(at string) error {
	if err := makeDirAt(at, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(at)
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, name := range []string{"stdout", "stderr"} {
		if err := makeNode(int(dir.Fd()), name, unix.S_IFIFO|0o622, 0); err != nil {
			return err
		}
	}
	if err := fillDev(int(dir.Fd()), s.spec, false); err != nil { // which leaves what is there
		return err
	}
	return os.Chmod(at+"/shm", 0o777|os.ModeSticky)
}

// makeDirAt makes a directory, whatever the umask.
func makeDirAt(at string, mode os.FileMode) error {
	return errors.Join(os.Mkdir(at, mode), os.Chmod(at, mode))
}

// writeBare makes the child's program.
func (s *bareStep) writeBare() {
	pr := &s.prog
	pr.do("new session", unix.SYS_SETSID)
	pr.do("enter /", unix.SYS_FCHDIR, pr.file(s.root))
	pr.do("chroot", unix.SYS_CHROOT, pr.str("."))
	s.writeStreams()
	s.writeProcess(func() {})
}

// carryOut runs the process on a thread that is there as long as it is.
func (s *bareStep) carryOut(ctx context.Context) error {
	runtime.LockOSThread() // its death is what PR_SET_PDEATHSIG means
	defer runtime.UnlockOSThread()
	others := foreign()
	if err := sys.AdoptOrphans(true); err != nil {
		s.give()
		return setupError("adopt orphans", err)
	}
	defer func() { _ = sys.AdoptOrphans(false) }()
	pid, err := s.prog.spawn(s.errfd, s.io.child[:], nil)
	if err != nil {
		s.give()
		return &StartError{Err: err, Code: codeSetup}
	}
	kill := func() { _ = unix.Kill(pid, unix.SIGKILL) }
	stop := context.AfterFunc(ctx, kill)
	s.release()
	if err := s.await(pid); err != nil {
		stop()
		kill()
		reapChild(pid)
		s.io.closeAll()
		left := killOrphans(others)
		if cause := context.Cause(ctx); cause != nil {
			err = setupError("start container", cause)
		}
		return joinNonNil(err, left)
	}
	s.io.started()
	endOutputs := s.copyOutputs()
	status := reapChild(pid)
	killed := !stop()
	// Else they hold the streams.
	if err := killOrphans(others); err != nil {
		return joinNonNil(exitError(status, s.cgroup), err)
	}
	err = joinNonNil(s.io.wait(false), endOutputs())
	s.io.endInput()
	if cause := context.Cause(ctx); killed && cause != nil {
		return fmt.Errorf("container %s: %w", s.spec.ID, cause)
	}
	return joinNonNil(exitError(status, s.cgroup), err)
}

// orphan is a process, by its number and start.
type orphan struct {
	pid   int
	start uint64
}

// foreign are the children of this process that are in sessions of their own, which
// what it starts itself is not: a step and what has lost its parent.
func foreign() map[orphan]bool {
	out := map[orphan]bool{}
	own, err := unix.Getsid(0)
	if err != nil {
		return out
	}
	for _, pid := range children() {
		if sid, err := unix.Getsid(pid); err == nil && sid != own {
			out[orphan{pid, StartTime(pid)}] = true
		}
	}
	return out
}

// mostKills is how long the end of what a step has left is waited for.
const mostKills = 10 * time.Second

// killOrphans ends what a step has left: the foreign children but for the others
// that were there before it.
func killOrphans(others map[orphan]bool) error {
	for begun := time.Now(); ; time.Sleep(time.Millisecond) {
		left := 0
		all := foreign()
		for o := range all {
			if !others[o] {
				_ = unix.Kill(o.pid, unix.SIGKILL)
			}
		}
		for o := range all {
			if others[o] {
				continue
			}
			left++ // its children are this process's then
			_, _ = syscall.Wait4(o.pid, nil, syscall.WNOHANG, nil)
		}
		switch {
		case left == 0:
			return nil
		case time.Since(begun) > mostKills:
			return fmt.Errorf("%d processes that the step has left do not end", left)
		}
	}
}

// children are the processes whose parent this one is.
func children() (out []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	own := strconv.Itoa(os.Getpid())
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if f := statFields(pid); len(f) > 1 && string(f[1]) == own {
			out = append(out, pid)
		}
	}
	return out
}

// MayRunBare says whether this process has what a step without a container
// needs, and what it takes to unpack an image: the rights over files that docker
// gives to a container's root.
func MayRunBare() bool {
	caps, _, err := ownCaps()
	for _, c := range []int{
		unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_MKNOD, unix.CAP_SETFCAP, unix.CAP_SYS_CHROOT,
		unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETPCAP, unix.CAP_KILL,
	} {
		if err != nil || !caps.has(c) {
			return false
		}
	}
	return os.Geteuid() == 0 && !sys.InUserNamespace() // where there are no devices to be made
}
