// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"builder/container"
	"builder/internal/filelock"
	"builder/internal/sys"
	"builder/snapshot"
)

// holder holds one container: it starts it, sees it through, and starts it
// again if that is its policy.
type holder struct {
	records Records
	snaps   *snapshot.Overlay
	config  Config
	lock    *filelock.Lock
	warn    func(string)

	mu      sync.Mutex
	state   State
	unsaved bool               // it could not be written down
	last    State              // after the last end of its process
	process *container.Process // while it runs
	input   *input             // while it runs
	out     *output            // while it runs
	waiting []*viewer          // for the next start

	foreground *IO   // of a container in the foreground
	kept       *Kept // of the monitor

	joined *os.File // network namespace of another container, during a start
	root   *os.File // of the process; nil if another holder has mounted it

	size     [2]uint16     // of the terminal
	stopping bool          // it is not to be started again
	shutdown bool          // the machine goes down: nobody wants it stopped
	asked    bool          // a user has asked for its stop
	again    bool          // it is to be started again, whatever its policy is
	unwell   bool          // that is because of its health check, and not asked for
	resting  bool          // it pauses before a restart
	over     bool          // it has ended and is not started again
	begun    atomic.Bool   // its first start is over
	wake     chan struct{} // ends the pause before a restart
	ended    chan struct{} // closed when it is no longer held
}

func newHolder(r Records, snaps *snapshot.Overlay, c Config, lock *filelock.Lock) *holder {
	return &holder{
		records: r, snaps: snaps, config: c, lock: lock, warn: func(string) {},
		wake: make(chan struct{}, 1), ended: make(chan struct{}),
	}
}

// input feeds a container's standard input. Each container has one, those who
// are attached write to it.
type input struct {
	w    *os.File
	r    *os.File
	once sync.Once
}

func newInput() (*input, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &input{w: w, r: r}, nil
}

func (i *input) Write(b []byte) (int, error) { return i.w.Write(b) }

// end is what a process sees as the end of its input.
func (i *input) end() { i.once.Do(func() { i.w.Close() }) }

// close gives it up when the process is gone.
func (i *input) close() {
	i.end()
	i.r.Close()
}

// run starts the container and holds it until it has ended for good. started
// is called once, with the error if it could not be started at first.
func (h *holder) run(started func(error)) {
	defer close(h.ended)
	defer h.release()
	err := h.startApart()
	if err != nil {
		h.mu.Lock()
		h.over = true
		h.save()
		h.mu.Unlock()
	}
	started(err)
	if err == nil {
		h.hold()
	}
}

// hold sees a container that has been started or taken over to its end.
func (h *holder) hold() {
	for failures := 0; ; failures++ {
		begun := time.Now()
		h.wait()
		pause, again := h.decide(time.Since(begun), failures)
		if !again {
			return
		}
		if time.Since(begun) > steady {
			failures = 0
		}
		h.rest(pause)
		if !h.restart() {
			return
		}
	}
}

const (
	steady       = 10 * time.Second // a container that has run so long works
	firstPause   = 100 * time.Millisecond
	longestPause = time.Minute
)

// rest waits before a restart, until it is woken. h.resting is set.
func (h *holder) rest(pause time.Duration) {
	select {
	case <-time.After(pause):
	case <-h.wake:
	}
}

// decide says whether the ended container is to be started again, and after
// which pause; the state says so then.
func (h *holder) decide(ran time.Duration, failures int) (time.Duration, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return 0, false
	}
	if h.again {
		return 0, true
	}
	if ran > steady {
		failures = 0
	}
	return min(firstPause<<min(failures, 20), longestPause), true
}

// wants says whether a container that has ended so is to be started again.
func (p Restart) wants(s State) bool {
	switch p.Name {
	case RestartAlways, RestartUnlessStopped:
		return true
	case RestartOnFailure:
		return s.ExitCode != 0 && (p.Max == 0 || s.Restarts < p.Max)
	}
	return false
}

// startsAgain says whether the container, which has ended as its state says, is
// to be started again: because it was asked, by its policy, or as it was unhealthy. h.mu
// is held.
func (h *holder) startsAgain() bool {
	return h.again || !h.stopping && (h.config.Restart.wants(h.state) || h.config.renews(h.state))
}

// AtBoot says whether a container with this policy that was left so is started
// when the machine is, as docker's daemon does.
func (p Restart) AtBoot(s State) bool {
	switch {
	case s.Status == Created || s.Foreground:
		return false
	case p.Name == RestartAlways:
		return true
	}
	return !s.Stopped && p.wants(s)
}

// restart starts the container once more. One that can't be started is tried
// again as one that has ended with an error.
func (h *holder) restart() bool {
	for failures := 1; ; failures++ {
		h.mu.Lock()
		stop := h.stopping && !h.again
		asked := h.again
		if asked {
			h.stopping = false
		}
		unwell := h.unwell
		h.again, h.unwell, h.resting = false, false, false
		if stop {
			h.over = true
			h.state.Status, h.state.Stopped = Exited, !h.shutdown
			h.save()
			h.mu.Unlock()
			return false
		}
		if h.state.Restarts++; asked && !unwell {
			h.state.Restarts = 0 // only those are counted that nobody asked for
		}
		h.mu.Unlock()
		err := h.startApart()
		if err == nil {
			if asked {
				h.records.event(h.config, "restart", nil)
			}
			return true
		}
		h.mu.Lock()
		again := h.startsAgain()
		h.over, h.resting = !again, again
		if again { // one word, so that a kill in between leaves nothing half said
			h.state.Status = Restarting
		}
		h.save()
		h.mu.Unlock()
		if !again {
			return false
		}
		h.rest(min(firstPause<<min(failures, 20), longestPause))
	}
}

// save writes the state. h.mu is held. What can't be written is told by the
// kernel as well, except for how a container ended.
func (h *holder) save() {
	err := h.records.saveState(h.config.ID, h.state)
	h.unsaved = err != nil
	if err != nil {
		h.warn(fmt.Sprintf("write state of container %s: %v", h.config.Name, err))
	}
}

// startApart is start on a stack of its own, so that the one that stays until the
// container's end, of which there are as many as containers, is small.
func (h *holder) startApart() error {
	done := make(chan error)
	go func() { done <- h.start() }()
	return <-done
}

// start makes the container's root and starts its process. That it has failed is
// in its state then, but not written down.
func (h *holder) start() (err error) {
	defer func() {
		if h.joined != nil {
			h.joined.Close()
			h.joined = nil
		}
		if err != nil {
			h.failed(err)
		}
	}()
	dir := h.records.Dir(h.config.ID)
	active, err := h.snaps.Reopen(dir, snapshot.ID(h.config.Snapshot))
	if err != nil {
		return err
	}
	spec := h.config.Spec
	ns, err := h.userNamespace(&spec)
	if err != nil {
		return err
	}
	defer func() { ns.close() }()
	root, err := active.MountWith(snapshot.Properties{Durable: !h.config.AutoRemove, UserNS: shownBy(spec.UserNS)})
	if err != nil {
		return err
	}
	spec.ID, spec.Root, spec.Warn = h.config.ID, root, h.warn
	opened, err := h.mounts(&spec)
	defer closeAll(opened)
	if err != nil {
		root.Close()
		return err
	}
	shared, err := h.share(&spec)
	defer closeAll(shared)
	if err != nil {
		root.Close()
		return err
	}
	att, err := h.connect(&spec, ns.net)
	if att != nil {
		ns.net = nil // it has taken it
	}
	if err != nil {
		root.Close()
		return err
	}
	if att != nil || spec.Network == container.NetworkNone {
		spec.SysctlDefaults = ownNetwork()
	}
	spec.Env = h.records.Environment(h.config, spec.Terminal)
	out, in, ends, err := h.streams(&spec, dir)
	if err != nil {
		root.Close()
		return errors.Join(err, att.Close())
	}
	running := State{Status: Running, Boot: sys.BootID(), Restarts: h.current().Restarts, Foreground: spec.KillWithParent, Network: att, Resolv: resolvSum(spec.ResolvConf)}
	spec.BeforeExec = func(pid int, terminal *os.File) error {
		if h.foreground != nil && h.foreground.Ready != nil {
			if err := h.foreground.Ready(); err != nil {
				return err
			}
		}
		if err := h.keepOutput(out, terminal); err != nil {
			return err
		}
		running.Pid, running.PidStart, running.Started = pid, container.StartTime(pid), time.Now()
		if err := h.records.saveState(h.config.ID, running); err != nil {
			return fmt.Errorf("write state: %w", err)
		}
		return nil
	}
	p, err := container.Start(context.Background(), spec)
	closeAll(ends)
	if err != nil {
		root.Close()
		if in != nil {
			in.close()
		}
		_ = out.close() // nothing was written
		h.kept.drop(h.config)
		h.mu.Lock()
		h.waiting = append(h.waiting, out.watched()...) // they are told by failed
		h.mu.Unlock()
		return errors.Join(err, att.Close())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.process, h.out, h.input, h.state, h.root = p, out, in, running, root
	for _, v := range h.waiting { // who has come meanwhile
		out.add(v)
	}
	h.waiting = nil
	var events []Event
	if h.foreground != nil {
		events = append(events, h.records.containerEvent(h.config, "attach", nil))
	}
	events = append(events, placeEvents(h.config, att, "connect", "mount")...)
	h.records.Note(append(events, h.records.containerEvent(h.config, "start", nil))...)
	go h.watchHealth(p)
	go h.watchTime(p)
	return nil
}

// keepOutput has the keeper keep open where the output comes from, so that nothing
// of it is lost with this process.
func (h *holder) keepOutput(out *output, terminal *os.File) error {
	var errs []error
	if terminal != nil {
		errs = append(errs, h.kept.keep(h.config.ID, terminal))
	}
	for stream, pipe := range out.readers {
		if pipe != nil {
			errs = append(errs, h.kept.keep(pipeKey(h.config.ID, Stream(stream)), pipe))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("keep its output: %w", err)
	}
	return nil
}

// failed notes that a start has failed.
func (h *holder) failed(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	code := 125
	var start *container.StartError
	if errors.As(err, &start) {
		code = start.Code
	}
	// What never ran stays created, as with docker.
	if h.state.Status == "" {
		h.state.Status = Created
	}
	if h.state.Status != Created {
		h.state.Status = Exited
		h.state.Finished = time.Now()
	}
	h.state.ExitCode, h.state.Error, h.state.Pid = code, err.Error(), 0
	for _, v := range h.waiting {
		v.close(h.state)
	}
	h.waiting = nil
}

// streams gives the container its streams. ends are to be closed once it has
// started.
func (h *holder) streams(spec *container.Spec, dir string) (out *output, in *input, ends []*os.File, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.foreground != nil {
		out, ends, err = h.foregroundStreams(spec, dir)
		return out, nil, ends, err
	}
	if out, err = h.newOutput(dir); err != nil {
		return nil, nil, nil, err
	}
	out.viewers, h.waiting = h.waiting, nil
	defer func() {
		if err != nil {
			_ = out.close()
		}
	}()
	if h.config.OpenStdin {
		if in, err = newInput(); err != nil {
			return nil, nil, nil, err
		}
		spec.Stdin = in.r
		if spec.Terminal {
			spec.Stdin = struct{ io.Reader }{in.r} // copied to the terminal
		} else {
			ends = append(ends, in.r)
		}
	}
	if spec.Terminal {
		spec.Width, spec.Height = h.size[0], h.size[1]
		spec.Stdout = out
		return out, in, ends, nil
	}
	child, err := out.pipes(dir, true)
	if err != nil {
		return nil, nil, nil, err
	}
	spec.Stdout, spec.Stderr = child[Stdout], child[Stderr]
	return out, in, append(ends, child[Stdout], child[Stderr]), nil
}

// wait waits for the process's end and notes it.
func (h *holder) wait() {
	p := h.process
	<-p.Gone()
	h.mu.Lock()
	out, in := h.out, h.input
	h.mu.Unlock()
	out.end()
	err := p.Ended()
	defer func() { _ = p.Wait() }() // when the end is written down
	if h.root != nil {
		// The kernel writes a whole disk's changes when the last user of a
		// durable root goes: nobody is to wait for that.
		go h.root.Close()
		h.root = nil
	}
	if in != nil {
		in.close()
	}
	logErr := out.close()
	h.noteEnd(err, logErr)
	h.awaitSaved()
	h.kept.drop(h.config) // when the end is written down, in case nobody listens
	out.tellViewers(h.lastEnd())
}

// awaitSaved tries for a while to write down what could not be, for want of disk
// perhaps: until it is, the process stays a zombie, and the next monitor would learn of
// its end.
func (h *holder) awaitSaved() {
	for pause := firstPause; pause < releaseWait; pause *= 2 {
		h.mu.Lock()
		unsaved := h.unsaved
		h.mu.Unlock()
		if !unsaved {
			return
		}
		time.Sleep(pause)
		h.mu.Lock()
		h.save()
		h.mu.Unlock()
	}
}

// lastEnd is how the process has ended last.
func (h *holder) lastEnd() State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// noteEnd writes down how the process has ended.
func (h *holder) noteEnd(err, logErr error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := placeEvents(h.config, h.state.Network, "disconnect", "unmount")
	if err := h.state.Network.Close(); err != nil {
		h.warn(fmt.Sprintf("network of container %s: %v", h.config.Name, err))
	}
	h.state.Network = nil
	h.process, h.input, h.out = nil, nil, nil
	h.state.Status, h.state.Finished, h.state.Pid, h.state.PidStart = Exited, time.Now(), 0, 0
	h.state.ExitCode, h.state.OOM, h.state.Error = 0, false, ""
	var exit *container.ExitError
	switch {
	case errors.As(err, &exit):
		h.state.ExitCode, h.state.OOM = exit.Code, exit.OOM
		if exit.Unknown {
			h.state.Error = exit.Error()
		}
	case err != nil:
		h.state.Error = err.Error()
	}
	if logErr != nil {
		h.state.Error = logErr.Error()
	}
	h.state.Stopped = h.stopping && !h.again && !h.shutdown
	h.last = h.state
	h.resting = h.foreground == nil && h.startsAgain()
	h.over = !h.resting
	if h.resting { // one word, so that a kill in between leaves nothing half said
		h.state.Status = Restarting
	}
	if h.foreground == nil || !h.config.AutoRemove { // else it is removed now
		h.save()
	}
	h.tellEnd(left)
	if h.asked {
		h.records.event(h.config, "stop", nil)
	}
	h.asked = false
}

// tellEnd tells how the process has ended, and what it has left by that. h.mu is held.
func (h *holder) tellEnd(left []Event) { h.records.tellEnd(h.config, h.last, left) }

// tellEnd notes how the process of a container has ended, and what it has left.
func (r Records) tellEnd(c Config, last State, left []Event) {
	var events []Event
	if last.OOM {
		events = append(events, r.containerEvent(c, "oom", nil))
	}
	events = append(events, r.containerEvent(c, "die", map[string]string{"exitCode": fmt.Sprint(last.ExitCode)}))
	r.Note(append(events, left...)...)
}

// release gives up the container, which has ended, and removes it if it is to
// be removed.
func (h *holder) release() {
	var err error
	if h.config.AutoRemove {
		err = h.records.RemoveHeld(h.config)
	}
	if err := errors.Join(err, h.lock.Release()); err != nil {
		h.warn(err.Error())
	}
	if h.config.AutoRemove {
		h.records.event(h.config, "destroy", nil)
	}
}

// current is the state as it is.
func (h *holder) current() State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state
}

// signal sends a signal to the container's process.
func (h *holder) signal(sig syscall.Signal) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process == nil {
		return h.notRunning()
	}
	return h.send(h.process, sig)
}

// send sends a process a signal. That it has ended already is no error.
func (h *holder) send(p *container.Process, sig syscall.Signal) error {
	if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// sendTold sends a signal and tells of it, before the end it may bring.
// h.mu is held.
func (h *holder) sendTold(p *container.Process, sig syscall.Signal) error {
	err := h.send(p, sig)
	if err == nil {
		h.records.event(h.config, "kill", map[string]string{"signal": fmt.Sprint(int(sig))})
	}
	return err
}

func (h *holder) notRunning() error {
	return fmt.Errorf("container %s is not running", h.config.Name)
}

// kill sends a signal as a user's kill does: after SIGKILL and the stop signal
// it is not started again.
func (h *holder) kill(sig syscall.Signal) error {
	h.mu.Lock()
	if stop, err := h.config.Stop(); sig == syscall.SIGKILL || err == nil && sig == stop {
		h.stopping = true
		h.saveStop()
	}
	h.mu.Unlock()
	if sig == syscall.SIGKILL {
		_ = h.thaw()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.resting && h.stopping:
		h.wakeUp()
		return nil
	case h.process == nil:
		return h.notRunning()
	}
	return h.sendTold(h.process, sig)
}

// saveStop writes down that the user wants it stopped, so that whoever takes it
// over doesn't start it again. h.mu is held.
func (h *holder) saveStop() {
	if h.process != nil && !h.shutdown && h.foreground == nil {
		h.state.Stopped = true
		h.save()
	}
}

// wakeUp ends the pause before a restart, which sees then what is asked.
func (h *holder) wakeUp() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// stop ends the container: by its stop signal and, after the grace time, by
// SIGKILL. A negative grace is for ever. shutdown says that it is not the
// user's wish that it doesn't run.
func (h *holder) stop(ctx context.Context, sig syscall.Signal, grace time.Duration, shutdown bool) error {
	h.mu.Lock()
	h.stopping, h.again, h.shutdown = true, false, shutdown
	h.saveStop()
	h.wakeUp()
	h.mu.Unlock()
	return h.end(ctx, sig, grace)
}

// end ends the container's process by a signal and, after the grace time, by
// SIGKILL.
func (h *holder) end(ctx context.Context, sig syscall.Signal, grace time.Duration) error {
	p := h.running(ctx)
	if p == nil {
		return context.Cause(ctx)
	}
	if err := h.thaw(); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		_ = p.Ended()
		close(done)
	}()
	h.mu.Lock()
	h.asked = h.process == p
	var err error
	if h.asked {
		err = h.sendTold(p, sig)
	}
	h.mu.Unlock()
	if err != nil {
		return err
	}
	var over <-chan time.Time
	if grace >= 0 {
		over = time.After(grace)
	}
	select {
	case <-done:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-over:
		if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		<-done
	}
	// Until it is let go of, so that it can be removed or started at once; or
	// until it runs again, for that was asked too.
	for {
		h.mu.Lock()
		again := h.again || h.process != nil && h.process != p
		h.mu.Unlock()
		if again {
			return nil
		}
		select {
		case <-h.ended:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
}

// running is the process, for which it waits if it is just being started; nil
// if the container is not started any more.
func (h *holder) running(ctx context.Context) *container.Process {
	for {
		h.mu.Lock()
		p := h.process
		h.mu.Unlock()
		if p != nil {
			return p
		}
		select {
		case <-h.ended:
			return nil
		case <-ctx.Done():
			return nil
		case <-time.After(time.Millisecond):
		}
	}
}

// stopAndStart stops the container as stop does and has it start anew,
// whatever its policy says. It returns when it runs. A container that has ended
// for good is let go of, which [NotRunningError] says.
func (h *holder) stopAndStart(ctx context.Context, sig syscall.Signal, grace time.Duration) error {
	h.mu.Lock()
	over, resting, before := h.over, h.resting, h.state.Started
	if !over {
		h.again, h.stopping, h.shutdown = true, true, false
		h.wakeUp()
	}
	h.mu.Unlock()
	if over {
		if err := h.awaitEnd(ctx); err != nil {
			return err
		}
		return &NotRunningError{h.config.Name}
	}
	if !resting {
		if err := h.end(ctx, sig, grace); err != nil {
			return err
		}
	}
	return h.awaitRestart(ctx, before)
}

// awaitEnd waits until the container is no longer held.
func (h *holder) awaitEnd(ctx context.Context) error {
	select {
	case <-h.ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pause stops all its processes until thaw.
func (h *holder) pause(repeated bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state.Status == Paused && repeated {
		return nil
	}
	if h.state.Status == Paused {
		return fmt.Errorf("container %s is already paused", h.config.Name)
	}
	if h.process == nil {
		return h.notRunning()
	}
	if err := h.process.Freeze(); err != nil {
		return err
	}
	h.state.Status = Paused
	h.save()
	h.records.event(h.config, "pause", nil)
	return nil
}

// thaw lets a paused container go on.
func (h *holder) thaw() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state.Status != Paused || h.process == nil {
		return nil
	}
	if err := h.process.Thaw(); err != nil {
		return err
	}
	h.state.Status = Running
	h.save()
	h.records.event(h.config, "unpause", nil)
	return nil
}

// resize sets the size of the terminal.
func (h *holder) resize(width, height uint16) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.size = [2]uint16{width, height}
	if h.process == nil {
		return nil
	}
	return h.process.Resize(width, height)
}

// watch adds one who looks on, now or from the next start on.
func (h *holder) watch(v *viewer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.out != nil:
		h.out.add(v)
	case h.over || h.resting: // it has ended, and is perhaps started again
		v.close(h.last)
	default:
		h.waiting = append(h.waiting, v)
	}
}

func (h *holder) unwatch(v *viewer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.out != nil {
		h.out.remove(v)
	}
	h.waiting = slices.DeleteFunc(h.waiting, func(have *viewer) bool { return have == v })
}

// feed writes to standard input. Without one it is dropped.
func (h *holder) feed(b []byte) {
	h.mu.Lock()
	in := h.input
	h.mu.Unlock()
	if in != nil {
		_, _ = in.Write(b) // who doesn't read has closed it
	}
}

// endInput ends standard input, if it ends with the one who is attached.
func (h *holder) endInput() {
	h.mu.Lock()
	in := h.input
	h.mu.Unlock()
	if in != nil && h.config.StdinOnce && !h.config.Spec.Terminal {
		in.end()
	}
}

// newOutput is the container's output with its log open.
func (h *holder) newOutput(dir string) (*output, error) {
	out := &output{}
	if h.config.Log.Driver == "none" {
		return out, nil
	}
	var err error
	if out.log, err = openLog(filepath.Join(dir, "log"), h.config.Log); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return out, nil
}

// takeOver goes on with a container whose holder was killed. The error wraps
// [container.ErrGone] if it has ended.
func (h *holder) takeOver(st State) error {
	spec := h.config.Spec
	spec.ID = h.config.ID
	dir := h.records.Dir(h.config.ID)
	out, err := h.newOutput(dir)
	if err != nil {
		return err
	}
	a := container.Adoption{
		Pid: st.Pid, Start: st.PidStart,
		Exit: func() (syscall.WaitStatus, bool) { return h.records.exitOf(st.Pid, st.PidStart) },
	}
	var in *input
	if !spec.Terminal {
		_, err = out.pipes(dir, false)
	} else if a.Terminal = h.kept.terminal(h.config.ID); a.Terminal != nil {
		spec.Stdout = out
		if h.config.OpenStdin {
			if in, err = newInput(); err == nil {
				spec.Stdin = struct{ io.Reader }{in.r}
			}
		}
	}
	if err != nil {
		return errors.Join(err, out.close())
	}
	p, err := container.Adopt(spec, a)
	if err != nil {
		if in != nil {
			in.close()
		}
		return errors.Join(err, out.close())
	}
	st.endProbe()
	if err := h.keepOutput(out, a.Terminal); err != nil {
		h.warn(fmt.Sprintf("container %s: %v", h.config.Name, err))
	}
	if st.Network != nil {
		if err := h.records.networks.Adopt(st.Network, st.Pid, st.processLives); err != nil {
			h.warn(fmt.Sprintf("network of container %s: %v", h.config.Name, err))
		}
	}
	// A monitor that was killed as it paused the container has not said so.
	if frozen, err := p.Frozen(); err == nil {
		st.Status = Running
		if frozen {
			st.Status = Paused
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.process, h.out, h.input, h.state, h.stopping = p, out, in, st, st.Stopped
	if st.Network != nil {
		h.tellNetworks()
	}
	h.save() // with what its networks have become, too
	go h.watchHealth(p)
	go h.watchTime(p)
	return nil
}

// drain takes to its log what a container has written that has ended without a
// holder.
func (h *holder) drain() error {
	dir := h.records.Dir(h.config.ID)
	out, err := h.newOutput(dir)
	if err != nil {
		return err
	}
	if !h.config.Spec.Terminal {
		_, err = out.pipes(dir, false)
	} else if f := h.kept.terminal(h.config.ID); f != nil {
		err = container.ReadPresent(out, f)
	}
	return errors.Join(err, out.close())
}
