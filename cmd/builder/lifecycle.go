// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"builder/internal/sys"
	"builder/rootfs"
	"builder/store"
	"builder/supervisor"
	"builder/userns"
)

// runMonitor is the process that holds the containers of the state directory,
// or the one that keeps it running; [supervisor.Client] starts that one.
func runMonitor(ctx context.Context, e *env, args []string) error {
	fs := flags("monitor")
	worker := fs.Bool("kept", false, "be the monitor")
	terminals := fs.StringArray("terminal", nil, "container whose terminal is inherited")
	lock := fs.Int("lock", 0, "descriptor of the lock that a monitor has passed on to become the keeper")
	outputs := fs.StringArray("output", nil, "KEY=DESCRIPTOR of what it has passed on too")
	if _, err := e.parse(fs, args, 0, 0); err != nil {
		return err
	}
	log := func(msg string) {
		fmt.Fprintf(e.stderr, "%s %s\n", time.Now().UTC().Format(time.RFC3339), msg)
	}
	s, rfs, err := e.monitorStore(*worker)
	for *lock > 0 && err != nil { // the parent of containers stays, whatever happens
		log(err.Error())
		time.Sleep(time.Second)
		s, rfs, err = e.monitorStore(*worker)
	}
	if err != nil {
		return err
	}
	records := e.records(s)
	keeper := []string{os.Args[0], "--root", s.Path(), "monitor"}
	command := append(slices.Clone(keeper), "--kept")
	switch {
	case *lock > 0:
		return supervisor.KeepOn(records, command, *lock, *outputs, log)
	case !*worker:
		return supervisor.Keep(records, command, os.NewFile(3, "ready"), log)
	}
	ready, kept, err := supervisor.Inherit(*terminals)
	if err != nil {
		return err
	}
	err = supervisor.NewMonitor(records, rfs.Snapshots(), kept, keeper, log).Run(ctx, func() { ready.Close() })
	if errors.Is(err, supervisor.ErrMonitor) {
		return nil
	}
	return err
}

// monitorStore is the store of a process that stays, for which others need not
// wait, with what images are unpacked to if it needs that.
func (e *env) monitorStore(unpacked bool) (s *store.Store, rfs *rootfs.RootFS, err error) {
	if unpacked {
		s, rfs, err = e.rootFS()
	} else {
		s, err = e.store()
	}
	if err == nil {
		err = s.Leave()
	}
	if err == nil && rootless() {
		err = userns.Register(s.Path(membersDir))
	}
	return s, rfs, err
}

// find finds a container for a command that only looks at it. A monitor that was
// killed for good is started again: the container needs one.
func (e *env) find(ctx context.Context, records supervisor.Records, name string) (supervisor.Container, error) {
	c, err := records.Find(name)
	if err == nil && e.revive(ctx, c) {
		return records.Find(name)
	}
	return c, err
}

// list is find of all containers.
func (e *env) list(ctx context.Context, records supervisor.Records) ([]supervisor.Container, error) {
	all, err := records.List()
	if err == nil && e.revive(ctx, all...) {
		return records.List()
	}
	return all, err
}

// revive is [supervisor.Client.Revive]. That it fails is no reason not to look.
// Commands outside of the user's namespace leave it to those inside.
func (e *env) revive(ctx context.Context, list ...supervisor.Container) bool {
	if entersNamespace("monitor", nil) {
		return false
	}
	client, err := e.client()
	if err != nil {
		return false
	}
	done, err := client.Revive(ctx, list...)
	if err != nil {
		e.warn(err.Error())
	}
	return done
}

// forContainers calls do for each container named and prints the name when it
// is done. All are tried; several at once, for each may take as long as it
// takes a process to end.
func (e *env) forContainers(names []string, do func(*supervisor.Client, supervisor.Container) error) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	find := client.Records.Finder()
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	var mu sync.Mutex
	slots := make(chan struct{}, 32)
	for i, name := range names {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			c, err := find(name)
			if err == nil {
				err = do(client, c)
			}
			if errs[i] = err; err == nil {
				mu.Lock()
				defer mu.Unlock()
				fmt.Fprintln(e.stdout, name)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// named are the containers that a command is for: those named, or all that a
// filter wants.
func (e *env) named(words []string, all bool, want func(supervisor.Container) bool) ([]string, error) {
	if !all {
		return words, nil
	}
	if len(words) > 0 {
		return nil, &usageError{msg: "name containers or give --all, not both"}
	}
	s, err := e.store()
	if err != nil {
		return nil, err
	}
	list, err := supervisor.NewRecords(s).List()
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		if want(c) {
			words = append(words, c.ID)
		}
	}
	return words, nil
}

func running(c supervisor.Container) bool { return c.State.Alive() }

func runStart(ctx context.Context, e *env, args []string) error {
	fs := flags("start")
	attach := fs.BoolP("attach", "a", false, "attach to its output and pass signals on")
	interactive := fs.BoolP("interactive", "i", false, "pass standard input too")
	keyText := fs.String("detach-keys", "", "`KEYS` that leave the container, which runs on (default ctrl-p,ctrl-q)")
	sigProxy := fs.Bool("sig-proxy", true, "pass signals on to the process")
	all := fs.Bool("all", false, "start all containers that don't run")
	filters := fs.StringArray("filter", nil, "with --all, only those of a filter as ps has")
	boot := fs.Bool("boot", false, "start all containers whose restart policy has them run when the machine starts")
	words, err := e.parse(fs, args, 0, -1)
	if err != nil {
		return err
	}
	match, err := parseContainerFilters(e, *filters)
	if err != nil {
		return err
	}
	if len(*filters) > 0 && !*all && !*boot {
		return &usageError{msg: "start: --filter is for --all", hint: "builder start --help"}
	}
	if *boot { // a power cut may have left some that would have removed themselves
		s, err := e.store()
		if err != nil {
			return err
		}
		if err := e.records(s).Sweep(); err != nil {
			e.warn(err.Error())
		}
	}
	words, err = e.named(words, *all || *boot, func(c supervisor.Container) bool {
		return !c.State.Alive() && match(c) && (!*boot || c.Restart.AtBoot(c.State))
	})
	if err != nil {
		return err
	}
	if len(words) == 0 && !*all && !*boot {
		return &usageError{msg: "start: name a container", hint: "builder start --help"}
	}
	if *attach || *interactive {
		if len(words) != 1 {
			return &usageError{msg: "start: attach to one container at a time"}
		}
		keys, err := e.detachKeys(*keyText)
		if err != nil {
			return &usageError{msg: fmt.Sprintf("start: --detach-keys: %v", err)}
		}
		return e.startAttached(ctx, words[0], attachOptions{stdin: *interactive, sigProxy: *sigProxy, keys: keys})
	}
	rounds, err := e.startOrder(words)
	if err != nil {
		return err
	}
	var errs []error
	for _, words := range rounds {
		errs = append(errs, e.startAll(ctx, words))
	}
	return errors.Join(errs...)
}

// startOrder sorts containers into rounds, each of which needs only those before it.
func (e *env) startOrder(words []string) (rounds [][]string, err error) {
	if len(words) < 2 {
		return [][]string{words}, nil
	}
	s, err := e.store()
	if err != nil {
		return nil, err
	}
	find := supervisor.NewRecords(s).Finder()
	needs := map[string][]string{} // by word
	ids := map[string]string{}
	for _, w := range words {
		if c, err := find(w); err == nil { // who isn't there is told of when it is started
			needs[w], ids[w] = c.Needs(), c.ID
		}
	}
	for len(words) > 0 {
		var now, later []string
		for _, w := range words {
			if slices.ContainsFunc(words, func(other string) bool { return ids[other] != "" && slices.Contains(needs[w], ids[other]) }) {
				later = append(later, w)
			} else {
				now = append(now, w)
			}
		}
		if len(now) == 0 { // they need each other: each says so
			now, later = later, nil
		}
		rounds, words = append(rounds, now), later
	}
	return rounds, nil
}

// startAll starts containers in the background.
func (e *env) startAll(ctx context.Context, words []string) error {
	return e.forContainers(words, func(client *supervisor.Client, c supervisor.Container) error {
		if c.State.Alive() {
			if err := client.Records.EndOrphan(c.Config); err != nil {
				return err
			}
			switch now := client.Records.State(c.ID); {
			case now.Status == supervisor.Paused:
				return fmt.Errorf("container %s is paused: builder unpause has it go on", c.Name)
			case now.Alive():
				return nil
			}
		}
		err := e.startDetached(ctx, client, c.Config)
		if errors.Is(err, supervisor.ErrRunning) {
			return nil // somebody else, or its restart policy, was first
		}
		return err
	})
}

func (e *env) startAttached(ctx context.Context, name string, a attachOptions) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	c, err := client.Records.Find(name)
	if err != nil {
		return err
	}
	a.tty, a.stdin, a.note = c.Spec.Terminal, a.stdin && c.OpenStdin, noteFor(client.Records, c.Config)
	code, err := e.attached(ctx, a, func(ctx context.Context, s *supervisor.Session) error {
		a.note("attach")
		if c.State.Alive() {
			return client.Attach(ctx, c.Config, s)
		}
		warnings, err := client.Start(ctx, c.Config, s)
		for _, w := range warnings {
			e.warn(w)
		}
		return err
	})
	if err == nil && code != 0 {
		return &exitError{code}
	}
	return err
}

// stopping are the flags of stop and restart.
type stopping struct {
	seconds int
	signal  string
	changed func(string) bool
}

// how is the signal and the time that a container gets to end.
func (o *stopping) how(c *supervisor.Config) (sig syscall.Signal, grace time.Duration, err error) {
	grace = c.Grace()
	if o.changed("time") || o.changed("timeout") {
		grace = time.Duration(o.seconds) * time.Second
	}
	if o.signal != "" {
		sig, err = sys.ParseSignal(o.signal)
	} else {
		sig, err = c.Stop()
	}
	return sig, grace, err
}

func runStop(ctx context.Context, e *env, args []string) error {
	return e.stopOrRestart(ctx, "stop", args)
}
func runRestart(ctx context.Context, e *env, args []string) error {
	return e.stopOrRestart(ctx, "restart", args)
}

func (e *env) stopOrRestart(ctx context.Context, name string, args []string) error {
	fs := flags(name)
	o := stopping{changed: fs.Changed}
	fs.IntVarP(&o.seconds, "time", "t", 10, "seconds to wait before it is killed, -1 for any (default the container's, or 10)")
	fs.IntVar(&o.seconds, "timeout", 10, "the same")
	fs.StringVarP(&o.signal, "signal", "s", "", "signal to send (default the container's, or SIGTERM)")
	all := fs.BoolP("all", "a", false, "all that run")
	ignore := fs.BoolP("ignore", "i", false, "don't mind containers that are not there")
	shutdown := new(bool)
	if name == "stop" {
		fs.BoolVar(shutdown, "shutdown", false, "all that run, as the machine goes down: start --boot starts them again")
	}
	words, err := e.parse(fs, args, 0, -1)
	if err != nil {
		return err
	}
	if o.signal != "" {
		if _, err := sys.ParseSignal(o.signal); err != nil {
			return &usageError{msg: fmt.Sprintf("%s: --signal: %v", name, err)}
		}
	}
	words, err = e.named(words, *all || *shutdown, func(c supervisor.Container) bool {
		return c.State.Alive() || c.State.Status == supervisor.Restarting
	})
	if err != nil {
		return err
	}
	if len(words) == 0 && !*all && !*shutdown {
		return &usageError{msg: name + ": name a container", hint: "builder " + name + " --help"}
	}
	if *ignore {
		if words, err = e.known(words); err != nil {
			return err
		}
	}
	return e.forContainers(words, func(client *supervisor.Client, c supervisor.Container) error {
		sig, grace, err := o.how(&c.Config)
		if err != nil {
			return err
		}
		if name == "restart" {
			return client.Restart(ctx, c.Config, sig, grace)
		}
		if *shutdown {
			return client.ShutDown(ctx, c.Config, sig, grace)
		}
		return client.Stop(ctx, c.Config, sig, grace)
	})
}

// known are those of the names that containers have.
func (e *env) known(names []string) ([]string, error) {
	s, err := e.store()
	if err != nil {
		return nil, err
	}
	find := supervisor.NewRecords(s).Finder()
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, err := find(name)
		return errors.Is(err, supervisor.ErrNotFound)
	}), nil
}

func runKill(ctx context.Context, e *env, args []string) error {
	fs := flags("kill")
	name := fs.StringP("signal", "s", "KILL", "signal to send")
	all := fs.BoolP("all", "a", false, "all that run")
	words, err := e.parse(fs, args, 0, -1)
	if err != nil {
		return err
	}
	sig, err := sys.ParseSignal(*name)
	if err != nil {
		return &usageError{msg: fmt.Sprintf("kill: --signal: %v", err)}
	}
	words, err = e.named(words, *all, running)
	if err != nil {
		return err
	}
	if len(words) == 0 && !*all {
		return &usageError{msg: "kill: name a container", hint: "builder kill --help"}
	}
	return e.forContainers(words, func(client *supervisor.Client, c supervisor.Container) error {
		return client.Kill(ctx, c.Config, sig)
	})
}

func runPause(ctx context.Context, e *env, args []string) error {
	return e.pauseOrUnpause(args, "pause", running, func(client *supervisor.Client, c supervisor.Config) error { return client.Pause(ctx, c) })
}

func runUnpause(ctx context.Context, e *env, args []string) error {
	paused := func(c supervisor.Container) bool { return c.State.Status == supervisor.Paused }
	return e.pauseOrUnpause(args, "unpause", paused, func(client *supervisor.Client, c supervisor.Config) error { return client.Unpause(ctx, c) })
}

func (e *env) pauseOrUnpause(args []string, name string, want func(supervisor.Container) bool, do func(*supervisor.Client, supervisor.Config) error) error {
	fs := flags(name)
	all := fs.BoolP("all", "a", false, "all for which it can be done")
	words, err := e.parse(fs, args, 0, -1)
	if err != nil {
		return err
	}
	words, err = e.named(words, *all, want)
	if err != nil {
		return err
	}
	if len(words) == 0 && !*all {
		return &usageError{msg: name + ": name a container", hint: "builder " + name + " --help"}
	}
	return e.forContainers(words, func(client *supervisor.Client, c supervisor.Container) error { return do(client, c.Config) })
}

// runWait prints the exit codes of containers when they end.
func runWait(ctx context.Context, e *env, args []string) error {
	fs := flags("wait")
	condition := fs.String("condition", "stopped", "wait until it is `created|running|paused|stopped|healthy|unhealthy|removed`")
	names, err := e.parse(fs, args, 1, -1)
	if err != nil {
		return err
	}
	met, err := waitCondition(*condition)
	if err != nil {
		return err
	}
	client, err := e.client()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		c, err := client.Records.Find(name)
		switch {
		case err != nil:
		case met != nil:
			err = awaitCondition(ctx, client.Records, c, met)
		default:
			var st supervisor.State
			if st, err = client.Wait(ctx, c.Config); err == nil {
				fmt.Fprintln(e.stdout, st.ExitCode)
			}
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// waitCondition is a condition of wait that a state meets or not, nil for the end of the
// container, of which the exit code is shown. The state of a container that was removed
// is nil.
func waitCondition(name string) (met func(*supervisor.State) bool, err error) {
	status := func(want supervisor.Status) func(*supervisor.State) bool {
		return func(s *supervisor.State) bool { return s != nil && s.Status == want }
	}
	health := func(want string) func(*supervisor.State) bool {
		return func(s *supervisor.State) bool {
			return s != nil && s.Alive() && s.Health != nil && s.Health.Status == want
		}
	}
	switch name {
	case "stopped", "exited":
		return nil, nil
	case "created":
		return status(supervisor.Created), nil
	case "running":
		return status(supervisor.Running), nil
	case "paused":
		return status(supervisor.Paused), nil
	case "healthy":
		return health(supervisor.Healthy), nil
	case "unhealthy":
		return health(supervisor.Unhealthy), nil
	case "removed":
		return func(s *supervisor.State) bool { return s == nil }, nil
	}
	return nil, &usageError{msg: fmt.Sprintf("wait: --condition %q: there are created, running, paused, stopped, healthy, unhealthy and removed", name)}
}

// awaitCondition looks at a container until a condition is met.
func awaitCondition(ctx context.Context, records supervisor.Records, c supervisor.Container, met func(*supervisor.State) bool) error {
	for {
		now, err := records.Find(c.ID)
		gone := errors.Is(err, supervisor.ErrNotFound)
		switch {
		case gone && met(nil), err == nil && met(&now.State):
			return nil
		case gone:
			return fmt.Errorf("container %s was removed", c.Name)
		case err != nil:
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func runRename(_ context.Context, e *env, args []string) error {
	fs := flags("rename")
	words, err := e.parse(fs, args, 2, 2)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	records := supervisor.NewRecords(s)
	c, err := records.Find(words[0])
	if err != nil {
		return err
	}
	name := strings.TrimPrefix(words[1], "/")
	if name == c.Name {
		return fmt.Errorf("container %s has this name already", c.Name)
	}
	if err := records.Rename(c.Config, name); err != nil {
		return err
	}
	records.Event(c.Config, "rename", map[string]string{"oldName": c.Name, "name": name})
	return nil
}

func runRm(ctx context.Context, e *env, args []string) error {
	fs := flags("rm")
	force := fs.BoolP("force", "f", false, "kill it first if it runs, and don't mind if it isn't there")
	all := fs.BoolP("all", "a", false, "all containers")
	volumes := fs.BoolP("volumes", "v", false, "remove its anonymous volumes too")
	stop := fs.IntP("time", "t", 0, "with --force, seconds that it gets to stop")
	ignore := fs.BoolP("ignore", "i", false, "don't mind containers that are not there")
	words, err := e.parse(fs, args, 0, -1)
	if err != nil {
		return err
	}
	words, err = e.named(words, *all, func(supervisor.Container) bool { return true })
	if err != nil {
		return err
	}
	if len(words) == 0 && !*all {
		return &usageError{msg: "rm: name a container", hint: "builder rm --help"}
	}
	if *force || *ignore {
		if words, err = e.known(words); err != nil {
			return err
		}
	}
	return e.forContainers(words, func(client *supervisor.Client, c supervisor.Container) error {
		err := e.removeContainer(ctx, client, c, *force, time.Duration(*stop)*time.Second)
		if err == nil && *volumes {
			err = client.Records.RemoveVolumes(c.Config)
		}
		return err
	})
}

// removeContainer removes a container, with force one that runs too.
func (e *env) removeContainer(ctx context.Context, client *supervisor.Client, c supervisor.Container, force bool, grace time.Duration) error {
	if force {
		sig := syscall.SIGKILL
		if grace > 0 {
			var err error
			if sig, err = c.Stop(); err != nil {
				return err
			}
		}
		if err := client.Stop(ctx, c.Config, sig, grace); err != nil {
			return err
		}
	}
	for wait := time.Millisecond; ; wait *= 2 {
		err := client.Records.Remove(c.Config)
		if err == nil {
			client.Records.Event(c.Config, "destroy", nil)
			return nil
		}
		if !errors.Is(err, supervisor.ErrRunning) {
			return err
		}
		if !force || wait > time.Second {
			return fmt.Errorf("%w: stop it first, or use --force", err)
		}
		time.Sleep(wait) // its holder is about to let go of it
	}
}
