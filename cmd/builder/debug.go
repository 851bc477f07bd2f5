// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"builder/build"
	"builder/cache"
	"builder/container"
	"builder/rootfs"

	"github.com/docker/go-units"
	"golang.org/x/term"
)

// debugID is what may be the ID of a failed step, or the beginning of one.
var debugID = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{4,12}$`) })

// runDebug runs a process in what a failed step left, or lists or removes
// failed steps.
func runDebug(ctx context.Context, e *env, args []string) error {
	fs := flags("debug")
	fs.SetInterspersed(false)
	var secret secretFlags
	secret.addFlags(fs)
	cdiDir := fs.String("cdi-config-dir", "", "`DIR`ectory of CDI specifications (default /etc/cdi and /var/run/cdi)")
	all := fs.Bool("all", false, "with rm: all of them")
	rest, err := e.parse(fs, args, 0, -1)
	if err != nil {
		return setupFailure(err)
	}
	s, err := e.store()
	if err != nil {
		return setupFailure(err)
	}
	failed := build.NewFailedSteps(s)
	if len(rest) > 0 {
		switch rest[0] {
		case "ls":
			return e.listFailed(failed)
		case "rm":
			rest, *all = withoutFlag(rest[1:], "--all", *all)
			return e.removeFailed(ctx, failed, rest, *all)
		}
	}
	id, command, err := debugArgs(failed, rest)
	if err != nil {
		return setupFailure(err)
	}
	var opts build.Options
	if flag, err := secret.resolve(e, &opts); err != nil {
		return setupFailure(&usageError{msg: fmt.Sprintf("debug: --%s: %v", flag, err), hint: "builder debug --help"})
	}
	opts.Devices = cdiRegistry(*cdiDir)
	code, err := e.debugStep(ctx, failed, id, command, opts)
	if err != nil {
		return setupFailure(err)
	}
	if code != 0 {
		return &exitError{code}
	}
	return nil
}

func withoutFlag(args []string, flag string, set bool) ([]string, bool) {
	rest := slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == flag })
	return rest, set || len(rest) < len(args)
}

// debugArgs tells an ID from a command: it is one if a failed step has it.
func debugArgs(failed build.FailedSteps, args []string) (id string, command []string, err error) {
	if len(args) == 0 || !debugID().MatchString(args[0]) {
		return "", args, nil
	}
	_, err = failed.Find(args[0])
	if errors.Is(err, build.ErrNoFailedStep) && len(args) > 1 {
		return "", args, nil
	}
	return args[0], args[1:], err
}

// debug runs a command, or the step's shell, and returns its exit code.
func (e *env) debugStep(ctx context.Context, failed build.FailedSteps, id string, command []string, opts build.Options) (code int, err error) {
	step, err := failed.Find(id)
	if err != nil {
		return 0, err
	}
	s, err := e.store()
	if err != nil {
		return 0, err
	}
	c, err := cache.Open(s)
	if err != nil {
		return 0, err
	}
	rfs, err := rootfs.Open(s)
	if err != nil {
		return 0, err
	}
	networks := e.buildNetworks(s)
	d, err := failed.Open(ctx, build.Env{Store: s, Cache: c, RootFS: rfs, Networks: networks}, step, command, opts)
	defer func() { err = errors.Join(err, d.Release(), networks.close()) }()
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(e.stderr, "%s (%s) failed: %s\n", step.Step, step.Place, step.Error)
	for _, m := range d.Missing {
		fmt.Fprintf(e.stderr, "builder: warning: the step had %s, which is not given again\n", m)
	}
	spec := d.Spec
	spec.Stdin, spec.Stdout, spec.Stderr, spec.KillWithParent = e.stdin, e.stdout, e.stderr, true
	spec.Warn = func(msg string) { fmt.Fprintf(e.stderr, "builder: warning: %s\n", msg) }
	if term.IsTerminal(int(e.stdin.Fd())) && term.IsTerminal(int(e.stdout.Fd())) {
		spec.Terminal = true
		spec.Env = append([]string{"TERM=xterm"}, spec.Env...)
	}
	return e.attach(ctx, spec)
}

// attach runs a container at the user's terminal to its end and returns its
// exit code.
func (e *env) attach(ctx context.Context, spec container.Spec) (int, error) {
	restore := func() {}
	if spec.Terminal {
		spec.Width, spec.Height = e.terminalSize()
		var err error
		if restore, err = e.rawTerminal(true); err != nil {
			return 0, err
		}
	}
	defer restore()
	caught := catchSignals()
	defer caught.stop()
	p, err := container.Start(context.WithoutCancel(ctx), spec)
	if err != nil {
		return 0, err
	}
	e.forwardSignals(caught, inProcess{p}, spec.Terminal)
	err = p.Wait()
	var exit *container.ExitError
	if errors.As(err, &exit) {
		return exit.Code, nil
	}
	return 0, err
}

func (e *env) listFailed(failed build.FailedSteps) error {
	all, err := failed.List()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "ID\tFAILED\tWHERE\tSTEP")
	for _, step := range all {
		fmt.Fprintf(w, "%s\t%s ago\t%s\t%s\n", step.ID, units.HumanDuration(time.Since(step.Created)), step.Place, firstLineOf(step.Step))
	}
	return w.Flush()
}

func firstLineOf(s string) string {
	line, _, more := strings.Cut(s, "\n")
	if more {
		line += "…"
	}
	return line
}

func (e *env) removeFailed(ctx context.Context, failed build.FailedSteps, ids []string, all bool) error {
	s, err := e.store()
	if err != nil {
		return err
	}
	rfs, err := rootfs.Open(s)
	if err != nil {
		return err
	}
	var steps []build.Failed
	switch {
	case all && len(ids) > 0:
		return &usageError{msg: "debug rm: give IDs or --all, not both"}
	case all:
		if steps, err = failed.List(); err != nil {
			return err
		}
	case len(ids) == 0:
		return &usageError{msg: "debug rm: give the IDs of failed steps, or --all", hint: "builder debug ls lists them"}
	}
	for _, id := range ids {
		step, err := failed.Find(id)
		if err != nil {
			return err
		}
		steps = append(steps, step)
	}
	for _, step := range steps {
		if err := failed.Remove(ctx, step, rfs.Snapshots()); err != nil {
			return err
		}
		fmt.Fprintln(e.stdout, step.ID)
	}
	return nil
}
