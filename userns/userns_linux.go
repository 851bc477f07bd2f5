// SPDX-License-Identifier: Apache-2.0

// Package userns lets a process of an ordinary user go on as root of a user
// namespace: with all the ids that the machine's administrator has assigned to
// the user (subuid(5)), or with the user's own alone.
//
// A process with several threads can't enter a user namespace, and every Go
// process has several. So the program is executed anew in it, once, and the
// first process waits for the second and ends as it does.
package userns

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"builder/container"
)

// waitVar names the descriptor on which a process that was made in a user
// namespace waits for its ids.
const waitVar = "BUILDER_USERNS_WAIT"

// Init is called first of all in main. In a process that [Enter] made it waits
// until its ids are assigned; else it does nothing.
func Init() {
	text := os.Getenv(waitVar)
	if text == "" {
		return
	}
	fd, err := strconv.Atoi(text)
	if err = errors.Join(err, os.Unsetenv(waitVar)); err != nil {
		return
	}
	var b [1]byte
	pipe := os.NewFile(uintptr(fd), "wait")
	if n, err := pipe.Read(b[:]); n != 1 || err != nil {
		unix.Exit(125) // the one that waits for this process says why
	}
	pipe.Close()
}

// Options say how a namespace is entered.
type Options struct {
	Args   []string // of the process there; nil for those of this one
	Env    []string
	Stdout *os.File // nil for that of this process
	// Members is the directory that names the processes of the namespace: if
	// one of them lives, its namespace is joined rather than one made. "" for
	// a namespace that is nobody else's.
	Members string
	// Warn is told what is weaker than it could be.
	Warn func(string)
}

// Enter executes this program with the same arguments as root of a user
// namespace and waits for its end. It returns the exit code that this process
// is to end with.
func Enter(o Options) (int, error) {
	// The end of this thread is what the child takes for the end of its parent.
	runtime.LockOSThread()
	if o.Args == nil {
		o.Args = os.Args
	}
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	defer signal.Stop(signals)
	pid, err := o.begin()
	if err != nil {
		return 0, err
	}
	go forward(signals, pid)
	code := wait(pid)
	if o.Members == "" {
		return code, nil
	}
	_ = os.Remove(filepath.Join(o.Members, strconv.Itoa(pid)))
	return code, nil
}

// begin makes the process in a namespace of the user's.
func (o Options) begin() (int, error) {
	if o.Members == "" {
		return o.start()
	}
	locked, err := lock(o.Members)
	if err != nil {
		return 0, err
	}
	defer locked.Close()
	pid, err := o.join()
	if err == nil && pid == 0 {
		pid, err = o.start()
	}
	if err != nil {
		return 0, err
	}
	if err := register(o.Members, pid); err != nil {
		o.Warn(err.Error())
	}
	return pid, nil
}

// join makes it in the namespace of a living member, if there is one: else it
// returns 0.
func (o Options) join() (int, error) {
	m, err := member(o.Members)
	if m == nil || err != nil {
		return 0, err
	}
	defer m.Close()
	pid, err := container.ExecuteIn(m, o.Args, o.Env)
	if err != nil {
		return 0, fmt.Errorf("join the user namespace of the containers that run: %w", err)
	}
	return pid, nil
}

// start makes the process in a new namespace and assigns its ids.
func (o Options) start() (int, error) {
	ids, err := lookUp()
	if err != nil {
		return 0, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer w.Close()
	defer r.Close()
	const waitFD = 3
	// Until it has ids the process is nobody, for whom execve drops all
	// capabilities but ambient ones.
	pid, err := syscall.ForkExec("/proc/self/exe", o.Args, &syscall.ProcAttr{
		Env:   append(o.Env, waitVar+"="+strconv.Itoa(waitFD)),
		Files: []uintptr{0, o.Stdout.Fd(), 2, r.Fd()},
		Sys: &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, AmbientCaps: everyCap(),
			Pdeathsig: syscall.SIGKILL,
		},
	})
	if err != nil {
		return 0, &Error{Err: fmt.Errorf("make user namespace: %w", err), Fix: fixNamespace()}
	}
	if err := ids.assign(pid, o.Warn); err != nil {
		w.Close()
		wait(pid)
		return 0, err
	}
	if _, err := w.Write([]byte{1}); err != nil {
		return 0, errors.Join(err, fmt.Errorf("exit code %d", wait(pid)))
	}
	return pid, nil
}

// everyCap lists the capabilities that the kernel knows.
func everyCap() (all []uintptr) {
	for c := uintptr(0); c < 64; c++ {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err != nil {
			break
		}
		all = append(all, c)
	}
	return all
}

// forwarded are the signals that are meant for the process that does the work.
var forwarded = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2,
	syscall.SIGCONT, syscall.SIGWINCH,
}

// forward passes signals on. Those that a terminal makes reach the whole group
// of processes by themselves.
func forward(signals <-chan os.Signal, pid int) {
	for s := range signals {
		switch s {
		case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGWINCH:
			if ofTerminal() {
				continue
			}
		}
		_ = syscall.Kill(pid, s.(syscall.Signal))
	}
}

// ofTerminal says whether this process is in its terminal's foreground.
func ofTerminal() bool {
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// wait returns the exit code of the process, as a shell counts it.
func wait(pid int) int {
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(pid, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 125
		case status.Signaled():
			return 128 + int(status.Signal())
		case status.Exited():
			return status.ExitStatus()
		}
	}
}

// An Error says why there is no user namespace, and what would help.
type Error struct {
	Err error
	Fix string
}

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Hint is what to do about it.
func (e *Error) Hint() string { return e.Fix }
