// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"builder/container"
	"builder/image"
	"builder/internal/sys"
	"builder/supervisor"

	"golang.org/x/term"
)

// execOptions are the flags of exec.
type execOptions struct {
	interactive, tty, detach, privileged bool

	user, workdir string
	env, envFile  []string
	keys          []byte // that leave it
}

// runExec runs a further command in a running container.
func runExec(ctx context.Context, e *env, args []string) error {
	fs := flags("exec")
	fs.SetInterspersed(false)
	var o execOptions
	fs.BoolVarP(&o.interactive, "interactive", "i", false, "pass standard input to the process")
	fs.BoolVarP(&o.tty, "tty", "t", false, "give the process a terminal")
	fs.BoolVarP(&o.detach, "detach", "d", false, "don't wait for it")
	fs.BoolVar(&o.privileged, "privileged", false, "give the process all capabilities")
	fs.StringVarP(&o.user, "user", "u", "", "user and group, `NAME|UID[:GROUP|GID]` (default the container's)")
	fs.StringVarP(&o.workdir, "workdir", "w", "", "working `DIR`ectory (default the container's)")
	wordsVarP(fs, &o.env, "env", "e", "set a variable, `NAME=VALUE`, or NAME for the environment's")
	wordsVar(fs, &o.envFile, "env-file", "read variables from a `FILE`")
	keyText := fs.String("detach-keys", "", "`KEYS` that leave the process, which runs on (default ctrl-p,ctrl-q)")
	words, err := e.parse(fs, args, 2, -1)
	if err != nil {
		return setupFailure(err)
	}
	if o.tty {
		if o.keys, err = e.detachKeys(*keyText); err != nil {
			return setupFailure(&usageError{msg: fmt.Sprintf("exec: --detach-keys: %v", err)})
		}
	}
	code, err := e.execIn(ctx, o, words[0], words[1:])
	if err != nil {
		var start *container.StartError
		if errors.As(err, &start) {
			return setupFailure(err)
		}
		return err
	}
	if code != 0 {
		return &exitError{code}
	}
	return nil
}

// execIn runs a command in the container of a name and returns its exit code.
func (e *env) execIn(ctx context.Context, o execOptions, name string, args []string) (int, error) {
	if o.tty && o.interactive && !term.IsTerminal(int(e.stdin.Fd())) {
		return 0, &usageError{msg: "exec: standard input is no terminal: leave out -t"}
	}
	s, err := e.store()
	if err != nil {
		return 0, err
	}
	records := supervisor.NewRecords(s)
	c, err := e.find(ctx, records, name)
	if err != nil {
		return 0, err
	}
	if err := s.Leave(); err != nil {
		return 0, err
	}
	switch {
	case c.State.Status == supervisor.Paused:
		return 0, fmt.Errorf("container %s is paused: unpause it first", c.Name)
	case !c.State.Alive():
		return 0, fmt.Errorf("container %s is not running", c.Name)
	}
	spec, err := o.spec(e, records, c, args)
	if err != nil {
		return 0, err
	}
	return e.execProcess(ctx, o, records, c, spec)
}

func (o execOptions) spec(e *env, records supervisor.Records, c supervisor.Container, args []string) (container.ExecSpec, error) {
	spec := container.ExecSpec{
		Args: args, Dir: first(o.workdir, c.Spec.Dir), User: first(o.user, c.Spec.User), GroupAdd: c.Spec.GroupAdd,
		Privileged: o.privileged, Terminal: o.tty, Warn: e.warn,
	}
	vars := image.NewEnv(variables(records.Environment(c.Config, o.tty))...)
	if _, err := setEnv(e, vars, o.envFile, o.env); err != nil {
		return spec, err
	}
	spec.Env = vars.List()
	return spec, nil
}

func (e *env) execProcess(ctx context.Context, o execOptions, records supervisor.Records, c supervisor.Container, spec container.ExecSpec) (int, error) {
	restore := func() {}
	left := make(chan struct{})
	if !o.detach {
		if o.interactive {
			spec.Stdin = e.stdin
		}
		spec.Stdout, spec.Stderr = e.stdout, e.stderr
		if o.tty {
			if o.interactive {
				spec.Stdin = supervisor.DetachReader(e.stdin, o.keys, func() { close(left) })
			}
			spec.Width, spec.Height = e.terminalSize()
			var err error
			if restore, err = e.rawTerminal(o.interactive); err != nil {
				return 0, err
			}
		}
	}
	defer restore()
	target := container.Target{Pid: c.State.Pid, Start: c.State.PidStart, Spec: c.Spec}
	target.Spec.ID = c.ID
	caught := catchSignals()
	defer caught.stop()
	if err := e.interrupts.err(); err != nil { // what has come before went to nobody else
		return 0, err
	}
	run := execRun{records: records, c: c, id: supervisor.NewID()}
	command := ": " + strings.Join(spec.Args, " ")
	run.event("exec_create"+command, nil)
	p, err := container.Exec(context.WithoutCancel(ctx), target, spec)
	if err != nil {
		return 0, err
	}
	forget := records.NoteExec(c.Config, run.id, p.Pid())
	run.event("exec_start"+command, nil)
	if o.detach {
		if o.tty {
			err = e.keepTerminal(records, p.Terminal())
		}
		return 0, err
	}
	e.forwardSignals(caught, inProcess{p}, o.tty)
	ended := make(chan error, 1)
	go func() { ended <- p.Wait() }()
	select {
	case err = <-ended:
	case <-left:
		restore()
		fmt.Fprintln(e.stderr)
		if err := e.keepTerminal(records, p.Terminal()); err != nil {
			return 0, fmt.Errorf("leave the terminal: %w", err)
		}
		run.event("exec_detach", nil)
		return 0, errLeft
	}
	forget()
	code, err := exitCode(err)
	run.event("exec_die", map[string]string{"exitCode": strconv.Itoa(code)})
	return code, err
}

// execRun is one running of a command in a container.
type execRun struct {
	records supervisor.Records
	c       supervisor.Container
	id      string
}

// event notes what happens to it.
func (r execRun) event(action string, attributes map[string]string) {
	if attributes == nil {
		attributes = map[string]string{}
	}
	attributes["execID"] = r.id
	r.records.Event(r.c.Config, action, attributes)
}

// exitCode is what a process ended with.
func exitCode(err error) (int, error) {
	var exit *container.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.Code, nil
	case errors.Is(err, os.ErrClosed), errors.Is(err, syscall.EPIPE):
		return 0, nil
	}
	return 0, err
}

// keepTerminal has a process read a terminal from now on, as it would hang up, or its
// programs wait for ever, if nobody did.
func (e *env) keepTerminal(records supervisor.Records, terminal *os.File) error {
	// The state directory tells who looks at processes whose it is.
	_, err := sys.StartDetached([]string{"/proc/self/exe", "--root", records.Root(), "hold-terminal"}, os.DevNull, terminal)
	return err
}

// runHoldTerminal reads the terminal that is descriptor 4 until it hangs up. It is told by
// descriptor 3 being closed that it has begun.
func runHoldTerminal(ctx context.Context, e *env, args []string) error {
	if _, err := e.parse(flags("hold-terminal"), args, 0, 0); err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { os.Exit(exitInterrupted) })
	_ = os.NewFile(3, "ready").Close()
	_, err := io.Copy(io.Discard, os.NewFile(4, "terminal"))
	if errors.Is(err, syscall.EIO) { // how a terminal ends
		return nil
	}
	return err
}
