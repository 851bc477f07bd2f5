// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"builder/container"
	"builder/image"
	"builder/internal/filelock"
	"builder/progress"
	"builder/rootfs"
	"builder/snapshot"
	"builder/store"
	"builder/supervisor"

	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// exitSetup is docker's exit code for a container that could not be run.
const exitSetup = 125

// runOptions are the flags of builder run.
type runOptions struct {
	createOptions
	detach, sigProxy bool
	detachKeys       string
}

func runRun(ctx context.Context, e *env, args []string) error {
	fs := flags("run")
	var o runOptions
	o.addFlags(fs)
	fs.BoolVarP(&o.detach, "detach", "d", false, "run it in the background and print its ID")
	fs.BoolVar(&o.sigProxy, "sig-proxy", true, "pass signals on to the process")
	fs.StringVar(&o.detachKeys, "detach-keys", "", "`KEYS` that leave the container, which runs on (default ctrl-p,ctrl-q)")
	rest, err := e.parse(fs, args, 1, -1)
	if err != nil {
		return setupFailure(err)
	}
	o.given(fs)
	code, err := e.runContainer(ctx, &o, rest[0], rest[1:])
	if err != nil {
		return setupFailure(err)
	}
	if code != 0 {
		return &exitError{code}
	}
	return nil
}

// checkAttach says what is wrong with --attach.
func (o *runOptions) checkAttach() error {
	for _, w := range o.attach {
		if w := strings.ToLower(w); w != "stdin" && w != "stdout" && w != "stderr" {
			return &usageError{msg: fmt.Sprintf("run: --attach %q: want stdin, stdout or stderr", w)}
		}
	}
	if o.detach && len(o.attach) > 0 {
		return &usageError{msg: "run: --attach and --detach contradict each other: give one of them"}
	}
	return nil
}

// attaches tells whether a stream is one of those of --attach, which are all
// where none is named.
func (o *runOptions) attaches(stream string) bool {
	return len(o.attach) == 0 || slices.ContainsFunc(o.attach, func(w string) bool { return strings.EqualFold(w, stream) })
}

// codedError is an error with an exit code of its own.
type codedError struct {
	code int
	err  error
}

func (c *codedError) Error() string { return c.err.Error() }
func (c *codedError) Unwrap() error { return c.err }

// setupFailure gives an error docker's exit code: that of a command that can't
// be started, or 125.
func setupFailure(err error) error {
	if err == nil || errors.Is(err, pflag.ErrHelp) || errors.Is(err, context.Canceled) {
		return err
	}
	code := exitSetup
	var start *container.StartError
	if errors.As(err, &start) {
		code = start.Code
	}
	return &codedError{code, err}
}

// runContainer makes a container, runs it to its end unless it is detached, and
// returns its exit code.
func (e *env) runContainer(ctx context.Context, o *runOptions, name string, args []string) (code int, err error) {
	if o.tty && o.interactive && !o.detach && !term.IsTerminal(int(e.stdin.Fd())) {
		return 0, &usageError{msg: "run: standard input is no terminal: leave out -t"}
	}
	keys, err := e.detachKeys(o.detachKeys)
	if err != nil {
		return 0, &usageError{msg: fmt.Sprintf("run: --detach-keys: %v", err)}
	}
	if err := o.checkAttach(); err != nil {
		return 0, err
	}
	o.attachStdin = o.interactive && !o.detach && o.attaches("stdin")
	o.atOnce = true
	if !o.detach {
		go container.Prepare() // beside what is to be read first
	}
	c, lock, err := e.createContainer(ctx, &o.createOptions, name, args)
	if err != nil {
		return 0, err
	}
	// Detached, to be detached by keys, to be started again, or of processes
	// that would outlive this one: the monitor has it. Else it is ours, which is
	// sooner begun.
	if o.detach || c.Spec.PID.With != container.ShareNot || o.tty && o.interactive || c.Restart.Name != "" && c.Restart.Name != supervisor.RestartNo ||
		c.Health != nil && c.Health.OnFailure == supervisor.OnFailureRestart {
		if err := lock.Release(); err != nil {
			return 0, err
		}
		return e.runByMonitor(ctx, o, c, keys)
	}
	return e.runHere(o, c, lock)
}

// runHere runs a container as a part of this process.
func (e *env) runHere(o *runOptions, c supervisor.Config, lock *filelock.Lock) (int, error) {
	s, rfs, err := e.rootFS()
	if err != nil {
		return 0, errors.Join(err, lock.Release())
	}
	var streams supervisor.IO
	if o.attaches("stdout") || o.tty && o.attaches("stderr") {
		streams.Stdout = e.stdout
	}
	if o.attaches("stderr") {
		streams.Stderr = e.stderr
	}
	if o.interactive && o.attaches("stdin") {
		streams.Stdin = e.stdin
	}
	restore := func() {}
	if o.tty {
		streams.Width, streams.Height = e.terminalSize()
		if restore, err = e.rawTerminal(o.interactive); err != nil {
			return 0, errors.Join(err, lock.Release())
		}
	}
	defer restore()
	// Signals go to the process, which decides what they mean: the
	// container does not end with ctx.
	var caught *caughtSignals
	if o.sigProxy {
		caught = beginToCatch()
		defer caught.stop()
		streams.Ready = func() error {
			<-caught.begun
			return e.interrupts.err() // what has come before went to nobody else
		}
	}
	records := e.records(s)
	swept := make(chan error, 1)
	go func() { swept <- records.Sweep() }()
	defer func() {
		if err := <-swept; err != nil {
			e.warn(err.Error())
		}
	}()
	f, err := records.RunForeground(rfs.Snapshots(), c, lock, streams, e.warn)
	if err != nil {
		return 0, err
	}
	if o.sigProxy {
		e.forwardSignals(caught, f, o.tty)
	}
	if streams.Stdout == nil && streams.Stderr == nil {
		fmt.Fprintln(e.stdout, c.ID)
	}
	st := f.Wait()
	if st.Error != "" {
		return st.ExitCode, errors.New(st.Error)
	}
	return st.ExitCode, nil
}

func (e *env) warn(msg string) { fmt.Fprintf(e.stderr, "builder: warning: %s\n", msg) }

// runByMonitor has the monitor run a container.
func (e *env) runByMonitor(ctx context.Context, o *runOptions, c supervisor.Config, keys []byte) (int, error) {
	client, err := e.client()
	if err != nil {
		return 0, err
	}
	if o.detach {
		if err := e.startDetached(ctx, client, c); err != nil {
			return 0, err
		}
		fmt.Fprintln(e.stdout, c.ID)
		return 0, nil
	}
	a := attachOptions{stdin: o.interactive && o.attaches("stdin"), tty: o.tty, sigProxy: o.sigProxy, keys: keys, note: noteFor(client.Records, c)}
	begun := false
	code, err := e.attached(ctx, a, func(ctx context.Context, s *supervisor.Session) error {
		if !o.attaches("stdout") && (!o.tty || !o.attaches("stderr")) {
			s.Stdout = nil
		}
		if !o.attaches("stderr") {
			s.Stderr = nil
		}
		a.note("attach")
		warnings, err := client.Start(ctx, c, s)
		for _, w := range warnings {
			e.warn(w)
		}
		if begun = err == nil; begun && s.Stdout == nil && s.Stderr == nil {
			fmt.Fprintln(e.stdout, c.ID)
		}
		return err
	})
	if !begun && o.rm {
		err = errors.Join(err, e.removeCreated(client.Records, c))
	}
	return code, err
}

// startDetached starts a container in the background. One that was to remove
// itself does so if it can't be started.
func (e *env) startDetached(ctx context.Context, client *supervisor.Client, c supervisor.Config) error {
	warnings, err := client.Start(ctx, c, nil)
	for _, w := range warnings {
		e.warn(w)
	}
	if err != nil && c.AutoRemove {
		err = errors.Join(err, e.removeCreated(client.Records, c))
	}
	return err
}

// removeCreated removes a container that could not be started, if the monitor
// hasn't.
func (e *env) removeCreated(r supervisor.Records, c supervisor.Config) error {
	err := r.Remove(c)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, supervisor.ErrRunning) {
		return nil
	}
	return err
}

// client asks the holders of containers. It needs no store for itself: what
// the containers stand on is kept by their records.
func (e *env) client() (*supervisor.Client, error) {
	s, err := e.store()
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	spawn := []string{exe, "--root", s.Path(), "monitor"}
	return &supervisor.Client{Records: e.records(s), Spawn: spawn}, nil
}

// rootFS opens what images are unpacked to.
func (e *env) rootFS() (*store.Store, *rootfs.RootFS, error) {
	s, err := e.store()
	if err != nil {
		return nil, nil, err
	}
	rfs, err := rootfs.Open(s)
	return s, rfs, err
}

// unpackForRun finds the image, fetching it if need be, and makes its file
// system.
func (e *env) unpackForRun(ctx context.Context, s *store.Store, rfs *rootfs.RootFS, o *createOptions, name string, owners rootfs.Owners) (image.Image, snapshot.ID, error) {
	mode := "auto"
	if o.quiet {
		mode = "quiet"
	}
	lazy := &lazyDisplay{open: func() (progress.Display, error) { return e.display(mode) }}
	img, err := e.findImage(ctx, s, lazy, o, name)
	var below snapshot.ID
	if err == nil {
		var sink progress.Sink = lazy
		if lazy.d == nil && !term.IsTerminal(int(e.stderr.Fd())) {
			// Nothing was fetched: in a script, standard error is the command's.
			sink = progress.Discard{}
		}
		if q, bad := e.quota(); (bad != nil || q.limited()) && len(rfs.Packed(ctx, img, owners)) > 0 {
			err = e.makeRoom(ctx, s)
		}
		if err == nil {
			below, err = rfs.UnpackAs(ctx, img, owners, sink, "unpack "+name)
		}
		if err == nil && o.platform == "" {
			if other := checkPlatform(name, img, image.HostPlatform()); other != nil {
				e.warn(other.Error())
			}
		}
	}
	return img, below, errors.Join(err, lazy.close())
}

// findImage resolves a reference or an image ID, which may be for another platform than
// this machine's.
func (e *env) findImage(ctx context.Context, s *store.Store, sink progress.Sink, o *createOptions, name string) (image.Image, error) {
	switch o.pull {
	case "always", "missing", "never":
	default:
		return image.Image{}, &usageError{msg: fmt.Sprintf("run: --pull %q: want always, missing or never", o.pull)}
	}
	want := image.HostPlatform()
	if o.platform != "" {
		var err error
		if want, err = image.ParsePlatform(o.platform); err != nil {
			return image.Image{}, &usageError{msg: fmt.Sprintf("run: --platform: %v", err)}
		}
	}
	var other *platformError
	if o.pull != "always" {
		entry, err := s.Resolve(name)
		var img image.Image
		if err == nil {
			img, err = s.Image(entry.Desc, want)
		}
		if err == nil {
			err = checkPlatform(name, img, want)
		}
		isOther := errors.As(err, &other)
		switch {
		case err == nil:
			return img, nil
		case isOther && o.platform == "":
			return img, nil
		case o.pull == "never" || isOther && !byName(name, entry) || !isOther && !errors.Is(err, store.ErrNotFound):
			return image.Image{}, err
		}
	}
	ref, err := image.ParseRef(name)
	if err != nil {
		return image.Image{}, err
	}
	if err := e.makeRoom(ctx, s); err != nil {
		return image.Image{}, err
	}
	img, err := e.fetchImage(ctx, s, sink, ref, want, o.verify)
	switch {
	case err != nil && other != nil:
		return img, fmt.Errorf("%w, and the one for %s can't be fetched: %w", other, image.FormatPlatform(want), err)
	case err == nil && o.platform != "":
		err = checkPlatform(name, img, want)
	}
	return img, err
}

func (e *env) terminalSize() (width, height uint16) {
	for _, f := range []*os.File{e.stdin, e.stdout, e.stderr} {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil {
			return uint16(w), uint16(h)
		}
	}
	return 0, 0
}

// rawTerminal makes the user's terminal pass every key on; restore makes it
// what it was.
func (e *env) rawTerminal(interactive bool) (restore func(), err error) {
	fd := int(e.stdin.Fd())
	if !interactive || !term.IsTerminal(fd) {
		return func() {}, nil
	}
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("set up terminal: %w", err)
	}
	return func() { term.Restore(fd, state) }, nil
}
