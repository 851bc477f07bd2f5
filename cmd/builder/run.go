// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"builder/container"
	"builder/dockerfile"
	"builder/image"
	"builder/internal/filelock"
	"builder/mount"
	"builder/progress"
	"builder/rootfs"
	"builder/snapshot"
	"builder/store"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// exitSetup is docker's exit code for a container that could not be run.
const exitSetup = 125

// runOptions are the flags of builder run.
type runOptions struct {
	rm, interactive, tty, readOnly, init, privileged, quiet bool

	name, workdir, user, entrypoint, network, hostname, shmSize, pull string

	env, envFile, volumes, addHosts, ulimits, capAdd, capDrop, securityOpt, groupAdd []string

	entrypointSet bool
}

func (o *runOptions) addFlags(fs *pflag.FlagSet) {
	fs.SetInterspersed(false)
	fs.BoolVar(&o.rm, "rm", false, "remove the container when it has ended")
	fs.BoolVarP(&o.interactive, "interactive", "i", false, "pass standard input to the process")
	fs.BoolVarP(&o.tty, "tty", "t", false, "give the process a terminal")
	fs.StringArrayVarP(&o.env, "env", "e", nil, "set a variable, `NAME=VALUE`, or NAME for the environment's")
	fs.StringArrayVar(&o.envFile, "env-file", nil, "read variables from a `FILE`")
	fs.StringVarP(&o.workdir, "workdir", "w", "", "working `DIR`ectory")
	fs.StringVarP(&o.user, "user", "u", "", "user and group, `NAME|UID[:GROUP|GID]`")
	fs.StringArrayVar(&o.groupAdd, "group-add", nil, "further group of the process")
	fs.StringArrayVarP(&o.volumes, "volume", "v", nil, "mount a directory or file of this machine, `PATH:TARGET[:ro]`")
	fs.StringVar(&o.entrypoint, "entrypoint", "", "run this instead of the image's entry point")
	fs.StringVar(&o.network, "network", "host", "network: host or none")
	fs.StringVar(&o.name, "name", "", "name of the container")
	fs.StringVarP(&o.hostname, "hostname", "h", "", "host name in the container")
	fs.BoolVar(&o.readOnly, "read-only", false, "make the file system read-only")
	fs.BoolVar(&o.init, "init", false, "run a small init process that reaps others")
	fs.BoolVar(&o.privileged, "privileged", false, "drop nearly all confinement")
	fs.StringArrayVar(&o.capAdd, "cap-add", nil, "give a capability")
	fs.StringArrayVar(&o.capDrop, "cap-drop", nil, "take a capability away")
	fs.StringArrayVar(&o.securityOpt, "security-opt", nil, "no-new-privileges, or seccomp=unconfined|FILE")
	fs.StringArrayVar(&o.addHosts, "add-host", nil, "further line of /etc/hosts, `NAME:IP`")
	fs.StringVar(&o.shmSize, "shm-size", "", "size of /dev/shm, such as 64m")
	fs.StringArrayVar(&o.ulimits, "ulimit", nil, "resource limit, `NAME=SOFT[:HARD]`")
	fs.StringVar(&o.pull, "pull", "missing", "fetch the image: always, missing or never")
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "don't show the fetching of the image")
}

func runRun(ctx context.Context, e *env, args []string) error {
	fs := flags("run")
	var o runOptions
	o.addFlags(fs)
	rest, err := e.parse(fs, args, 1, -1)
	if err != nil {
		return setupFailure(err)
	}
	o.entrypointSet = fs.Changed("entrypoint")
	code, err := e.runContainer(ctx, &o, rest[0], rest[1:])
	if err != nil {
		return setupFailure(err)
	}
	if code != 0 {
		return &exitError{code}
	}
	return nil
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
	if err == nil || errors.Is(err, pflag.ErrHelp) {
		return err
	}
	code := exitSetup
	var start *container.StartError
	if errors.As(err, &start) {
		code = start.Code
	}
	return &codedError{code, err}
}

// runContainer makes a container, runs it to its end, and returns its exit
// code.
func (e *env) runContainer(ctx context.Context, o *runOptions, name string, args []string) (code int, err error) {
	if o.tty && o.interactive && !term.IsTerminal(int(e.stdin.Fd())) {
		return 0, &usageError{msg: "run: standard input is no terminal: leave out -t"}
	}
	s, err := e.store()
	if err != nil {
		return 0, err
	}
	rfs, err := rootfs.Open(s)
	if err != nil {
		return 0, err
	}
	img, below, err := e.unpackForRun(ctx, s, rfs, o, name)
	if err != nil {
		return 0, err
	}
	spec, err := o.spec(e, img, args)
	if err != nil {
		return 0, err
	}
	cs := containerStore{s}
	rec := &record{Name: o.name, Image: name, ImageID: img.ID().String(), Snapshot: string(below), Args: spec.Args, Created: time.Now(), AutoRemove: o.rm}
	lock, err := cs.create(rec)
	if err != nil {
		return 0, err
	}
	defer func() {
		if o.rm || rec.Pid == 0 {
			err = errors.Join(err, cs.removeHeld(*rec))
		}
		lock.Release()
	}()
	active, err := rfs.Snapshots().Prepare(ctx, below, cs.dir(rec.ID))
	if err != nil {
		return 0, err
	}
	spec.ID = rec.ID
	// What the container stands on is kept by its record from now on: others
	// need not wait for its end to collect the rest.
	if err := s.Leave(); err != nil {
		return 0, err
	}
	return e.runProcess(ctx, o, cs, rec, spec, active, lock)
}

// unpackForRun finds the image, fetching it if need be, and makes its file
// system.
func (e *env) unpackForRun(ctx context.Context, s *store.Store, rfs *rootfs.RootFS, o *runOptions, name string) (image.Image, snapshot.ID, error) {
	mode := "auto"
	if o.quiet {
		mode = "quiet"
	}
	lazy := &lazyDisplay{open: func() (progress.Display, error) { return e.display(mode) }}
	img, err := e.findImage(ctx, s, lazy, o.pull, name)
	var below snapshot.ID
	if err == nil {
		below, err = rfs.Unpack(ctx, img, lazy, "unpack "+name)
	}
	return img, below, errors.Join(err, lazy.close())
}

// findImage resolves a reference or an image ID.
func (e *env) findImage(ctx context.Context, s *store.Store, sink progress.Sink, pull, name string) (image.Image, error) {
	switch pull {
	case "always", "missing", "never":
	default:
		return image.Image{}, &usageError{msg: fmt.Sprintf("run: --pull %q: want always, missing or never", pull)}
	}
	if pull != "always" {
		entry, err := s.Resolve(name)
		var img image.Image
		if err == nil {
			img, err = s.Image(entry.Desc, image.HostPlatform())
		}
		if err == nil {
			return img, nil
		}
		if pull == "never" || !errors.Is(err, store.ErrNotFound) {
			return image.Image{}, err
		}
	}
	ref, err := image.ParseRef(name)
	if err != nil {
		return image.Image{}, err
	}
	return newImageSource(e, s, sink).Image(ctx, ref, image.HostPlatform(), true)
}

// lazyDisplay opens the progress display when there is something to show.
type lazyDisplay struct {
	open func() (progress.Display, error)
	d    progress.Display
	err  error
	once sync.Once
}

func (l *lazyDisplay) Event(ev progress.Event) {
	l.once.Do(func() { l.d, l.err = l.open() })
	if l.d != nil {
		l.d.Event(ev)
	}
}

func (l *lazyDisplay) close() error {
	if l.d == nil {
		return l.err
	}
	return l.d.Close()
}

// spec is the container that flags and image ask for.
func (o *runOptions) spec(e *env, img image.Image, args []string) (container.Spec, error) {
	c := img.Config.Config
	entrypoint, cmd := c.Entrypoint, c.Cmd
	if o.entrypointSet {
		entrypoint, cmd = nil, nil
		if o.entrypoint != "" {
			entrypoint = []string{o.entrypoint}
		}
	}
	if len(args) > 0 {
		cmd = args
	}
	spec := container.Spec{
		Args: append(append([]string(nil), entrypoint...), cmd...), Dir: first(o.workdir, c.WorkingDir), User: first(o.user, c.User),
		GroupAdd: o.groupAdd, Hostname: o.hostname, ReadOnly: o.readOnly, Init: o.init, Privileged: o.privileged,
		CapAdd: o.capAdd, CapDrop: o.capDrop, Terminal: o.tty, KillWithParent: true,
		Warn: func(msg string) { fmt.Fprintf(e.stderr, "builder: warning: %s\n", msg) },
	}
	if len(spec.Args) == 0 {
		return spec, errors.New("no command given, and the image names none")
	}
	if spec.Dir != "" && !filepath.IsAbs(spec.Dir) {
		return spec, &usageError{msg: fmt.Sprintf("run: --workdir %q is not an absolute path", spec.Dir)}
	}
	vars := dockerfile.NewEnv(c.Env...)
	if o.tty {
		vars.Set("TERM", "xterm")
	}
	if err := o.setEnv(e, vars); err != nil {
		return spec, err
	}
	spec.Env = vars.List()
	return spec, o.confine(&spec)
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// setEnv adds the variables of --env-file and -e.
func (o *runOptions) setEnv(e *env, vars *dockerfile.Env) error {
	var words []string
	for _, name := range o.envFile {
		data, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("--env-file: %w", err)
		}
		for _, line := range strings.Split(string(data), "\n") {
			line = strings.TrimSuffix(line, "\r")
			if trimmed := strings.TrimSpace(line); trimmed == "" || strings.HasPrefix(trimmed, "#") {
				continue
			}
			words = append(words, strings.TrimLeft(line, " \t"))
		}
	}
	for _, w := range append(words, o.env...) {
		k, v, ok := strings.Cut(w, "=")
		if k == "" {
			return &usageError{msg: fmt.Sprintf("run: invalid environment variable %q", w)}
		}
		if !ok {
			if v, ok = lookupEnv(e, k); !ok {
				continue
			}
		}
		vars.Set(k, v)
	}
	return nil
}

// confine sets networks, limits and mounts.
func (o *runOptions) confine(spec *container.Spec) error {
	bad := func(flag string, err error) error {
		return &usageError{msg: fmt.Sprintf("run: --%s: %v", flag, err), hint: "builder run --help"}
	}
	switch o.network {
	case "host":
		spec.Network = container.NetworkHost
	case "none":
		spec.Network = container.NetworkNone
	default:
		return bad("network", fmt.Errorf("%q is not supported: want host or none", o.network))
	}
	var err error
	if spec.Hosts, err = parseHosts(o.addHosts); err != nil {
		return bad("add-host", err)
	}
	if spec.Rlimits, err = parseUlimits(o.ulimits); err != nil {
		return bad("ulimit", err)
	}
	if o.shmSize != "" {
		if spec.ShmSize, err = units.RAMInBytes(o.shmSize); err != nil {
			return bad("shm-size", err)
		}
	}
	for _, opt := range o.securityOpt {
		if err := securityOption(opt, &spec.Seccomp, &spec.NoNewPrivileges); err != nil {
			return bad("security-opt", err)
		}
	}
	for _, v := range o.volumes {
		m, err := parseVolume(v)
		if err != nil {
			return bad("volume", err)
		}
		spec.Mounts = append(spec.Mounts, m)
	}
	return nil
}

// parseVolume reads PATH:TARGET[:OPTIONS]. A path that isn't there is made as
// a directory, as docker does.
func parseVolume(v string) (mount.Mount, error) {
	parts := strings.SplitN(v, ":", 3)
	m := mount.Mount{Type: mount.Bind, Recursive: true}
	if len(parts) < 2 {
		return m, fmt.Errorf("%q: want PATH:TARGET[:OPTIONS]; volumes without a path are not supported yet", v)
	}
	m.Source, m.Target = parts[0], parts[1]
	if !filepath.IsAbs(m.Source) {
		if !strings.HasPrefix(m.Source, ".") {
			return m, fmt.Errorf("%q: named volumes are not supported yet: give a path", v)
		}
		abs, err := filepath.Abs(m.Source)
		if err != nil {
			return m, err
		}
		m.Source = abs
	}
	if !filepath.IsAbs(m.Target) || filepath.Clean(m.Target) == "/" {
		return m, fmt.Errorf("%q: %q must be an absolute path other than /", v, m.Target)
	}
	if len(parts) == 3 {
		for _, opt := range strings.Split(parts[2], ",") {
			switch opt {
			case "ro":
				m.ReadOnly = true
			case "rw", "z", "Z": // z and Z relabel for SELinux, which builder doesn't use
			case "private", "rprivate", "slave", "rslave", "shared", "rshared":
				m.Propagation = opt
			default:
				return m, fmt.Errorf("%q: option %q is not supported", v, opt)
			}
		}
	}
	return m, os.MkdirAll(missingDir(m.Source), 0o755)
}

// missingDir is name if nothing is there, else a directory that is.
func missingDir(name string) string {
	if _, err := os.Stat(name); err == nil {
		return "/"
	}
	return name
}

// runProcess starts the container's process and sees it through.
func (e *env) runProcess(ctx context.Context, o *runOptions, cs containerStore, rec *record, spec container.Spec, active snapshot.Active, _ *filelock.Lock) (int, error) {
	root, err := active.Mount()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	spec.Root = root
	if o.interactive {
		spec.Stdin = e.stdin
	}
	spec.Stdout, spec.Stderr = e.stdout, e.stderr
	restore := func() {}
	if o.tty {
		spec.Width, spec.Height = e.terminalSize()
		if restore, err = e.rawTerminal(o.interactive); err != nil {
			return 0, err
		}
	}
	defer restore()
	// Signals go to the process, which decides what they mean: the
	// container does not end with ctx.
	p, err := container.Start(context.WithoutCancel(ctx), spec)
	if err != nil {
		return 0, err
	}
	rec.Pid = p.Pid()
	err = cs.save(rec)
	stop := e.forwardSignals(p, o.tty)
	waitErr := p.Wait()
	stop()
	var exit *container.ExitError
	if waitErr != nil && !errors.As(waitErr, &exit) {
		return 0, waitErr
	}
	if exit != nil {
		rec.ExitCode = exit.Code
	}
	rec.Done, rec.Finished = true, time.Now()
	if !o.rm {
		err = errors.Join(err, cs.save(rec))
	}
	return rec.ExitCode, err
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

// forwardSignals passes what this process is sent on to the container's, and
// the terminal's changes of size. stop ends that.
func (e *env) forwardSignals(p *container.Process, tty bool) (stop func()) {
	ch := make(chan os.Signal, 64)
	signal.Notify(ch)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case sig := <-ch:
				e.forward(p, sig.(syscall.Signal), tty)
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		close(done)
	}
}

func (e *env) forward(p *container.Process, sig syscall.Signal, tty bool) {
	switch sig {
	case syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGURG, syscall.SIGTTIN, syscall.SIGTTOU:
		// Meant for this process: its children, its streams, its runtime.
	case syscall.SIGWINCH:
		if tty {
			w, h := e.terminalSize()
			_ = p.Resize(w, h) // it may have ended meanwhile
		}
	default:
		_ = p.Signal(sig) // it may have ended meanwhile
	}
}
