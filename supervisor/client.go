// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"builder/container"
	"builder/internal/sys"
)

// A Client asks the holders of containers. The zero values of its fields but
// Spawn are usable.
type Client struct {
	Records Records
	// Spawn is the command line that runs a [Monitor], with a descriptor 3
	// that it closes when it is ready.
	Spawn []string
}

// NotRunningError says that a container doesn't run.
type NotRunningError struct{ Name string }

func (e *NotRunningError) Error() string { return fmt.Sprintf("container %s is not running", e.Name) }

// dial connects to a socket. The error wraps fs.ErrNotExist if nobody listens.
func (r Records) dial(name string) (*conn, error) {
	path, dir, err := r.socket(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w: nobody listens on %s", fs.ErrNotExist, name)
	}
	if err != nil {
		return nil, err
	}
	return newConn(c), nil
}

// monitor connects to the monitor, which it starts if there is none.
func (cl *Client) monitor(ctx context.Context) (*conn, error) {
	deadline := time.Now().Add(10 * time.Second)
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		c, err := cl.Records.dial(monitorSocket)
		if !errors.Is(err, fs.ErrNotExist) {
			return c, err
		}
		if err := cl.spawn(); err != nil {
			return nil, fmt.Errorf("start monitor: %w", err)
		}
		if c, err = cl.Records.dial(monitorSocket); !errors.Is(err, fs.ErrNotExist) {
			return c, err
		}
		// Another one is beginning, or ending.
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(wait):
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("the monitor does not start: see %s", cl.Records.s.Path("run", "monitor.log"))
		}
	}
}

// spawn starts a monitor and waits until it is ready or has ended.
func (cl *Client) spawn() error {
	_, err := sys.StartDetached(cl.Spawn, cl.Records.s.Path("run", "monitor.log"))
	return err
}

// request asks the holder of a container. spawn says that a monitor is started
// if there is none. Without a holder it is a [NotRunningError].
func (cl *Client) request(ctx context.Context, c Config, req request, spawn bool) (*conn, response, error) {
	req.ID = c.ID
	var before State
	if req.starts() {
		before = cl.Records.readState(c.ID)
	}
	for try := 0; ; try++ {
		var resp response
		nc, err := cl.connect(ctx, c, spawn)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, resp, &NotRunningError{c.Name}
		}
		if err != nil {
			return nil, resp, err
		}
		stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
		if err = nc.writeJSON(req); err == nil {
			err = nc.readJSON(&resp)
		}
		stop()
		switch {
		case ctx.Err() != nil:
			_ = nc.Close()
			return nil, resp, context.Cause(ctx)
		case err != nil && try < 5:
			_ = nc.Close() // a monitor that was just ending, or was killed
			if repeat, err := cl.toRepeat(ctx, req, before); !repeat {
				return nil, resp, err
			}
			req.Repeated = true
			time.Sleep(time.Duration(try) * 10 * time.Millisecond)
			continue
		case err != nil:
			_ = nc.Close()
			return nil, resp, fmt.Errorf("ask the holder of container %s: %w", c.Name, err)
		case resp.NotHeld:
			_ = nc.Close()
			return nil, resp, &NotRunningError{c.Name}
		case resp.Running:
			_ = nc.Close()
			return nil, resp, fmt.Errorf("container %s: %w", c.Name, ErrRunning)
		case resp.Error != "":
			_ = nc.Close()
			err := errors.New(resp.Error)
			if resp.Code != 0 {
				err = &container.StartError{Err: err, Code: resp.Code}
			}
			return nil, resp, err
		}
		return nc, resp, nil
	}
}

// errCarriedOut says that a request has been carried out by a monitor that was
// killed before it could answer.
var errCarriedOut = errors.New("the monitor was killed after it had done that")

// toRepeat says whether a request is to be repeated of which no answer came, or
// else with which error it ends: what starts a container may have done so, and that
// is not to be done twice.
func (cl *Client) toRepeat(ctx context.Context, req request, before State) (bool, error) {
	if !req.starts() {
		return true, nil
	}
	if now := cl.Records.readState(req.ID); !now.Started.After(before.Started) {
		return true, nil
	}
	// It was about to run, but perhaps the monitor was killed before it did. The
	// next one knows.
	nc, err := cl.monitor(ctx)
	if err != nil {
		return false, err
	}
	_ = nc.Close()
	now := cl.Records.State(req.ID)
	if _, err := cl.Records.load(req.ID); err != nil {
		return false, fmt.Errorf("the monitor was killed as it started container %s, which has removed itself", req.ID[:12])
	}
	if now.Status == Exited && now.ExitCode == notExecuted {
		return true, nil
	}
	if req.Attach != nil {
		return false, errMonitorGone
	}
	return false, errCarriedOut
}

// notExecuted is how a process ends that was not let execute its command. One that
// did, and ended so at that moment, can't be told from it.
const notExecuted = 125

// connect finds who holds a container. A container that lives and has no
// holder gets a monitor.
func (cl *Client) connect(ctx context.Context, c Config, spawn bool) (*conn, error) {
	nc, err := cl.Records.dial(socketOf(c.ID))
	if !errors.Is(err, fs.ErrNotExist) {
		return nc, err
	}
	if err := cl.Records.EndOrphan(c); err != nil {
		return nil, err
	}
	st := cl.Records.readState(c.ID)
	if spawn || st.background() {
		return cl.monitor(ctx)
	}
	return cl.Records.dial(monitorSocket)
}

func (cl *Client) simple(ctx context.Context, c Config, req request) (State, error) {
	nc, resp, err := cl.request(ctx, c, req, false)
	if errors.Is(err, errCarriedOut) {
		return cl.Records.State(c.ID), nil
	}
	if err != nil {
		return State{}, err
	}
	_ = nc.Close()
	if resp.State == nil {
		return State{}, nil
	}
	return *resp.State, nil
}

// Start has the monitor start a container. With s it attaches first, so that
// no output is missed.
func (cl *Client) Start(ctx context.Context, c Config, s *Session) (warnings []string, err error) {
	req := request{Op: opStart}
	if !c.Spec.IDs.IsZero() {
		req.Op = opStartMapped
	}
	if s != nil {
		req.Attach, req.Width, req.Height = s.attachment(), s.Width, s.Height
	}
	nc, resp, err := cl.request(ctx, c, req, true)
	if not := new(NotRunningError); req.Op == opStartMapped && errors.As(err, &not) && not.Name == c.Name {
		err = errors.New("the monitor that runs is of a version without user namespaces: it goes when no container runs in the background any more")
	}
	if errors.Is(err, errCarriedOut) {
		return nil, nil
	}
	if err != nil {
		return resp.Warnings, err
	}
	if s == nil {
		return resp.Warnings, nc.Close()
	}
	s.begin(nc)
	return resp.Warnings, nil
}

// Attach attaches to a container that runs.
func (cl *Client) Attach(ctx context.Context, c Config, s *Session) error {
	nc, _, err := cl.request(ctx, c, request{Op: "attach", Attach: s.attachment(), Width: s.Width, Height: s.Height}, false)
	if err != nil {
		return err
	}
	s.begin(nc)
	return nil
}

// Stop stops a container by a signal and, after the grace time, by SIGKILL. One
// that doesn't run stays as it is.
func (cl *Client) Stop(ctx context.Context, c Config, sig syscall.Signal, grace time.Duration) error {
	return cl.stop(ctx, c, request{Signal: int(sig), Grace: grace})
}

// ShutDown is Stop as the machine goes down: what its policy has run is started
// again at boot (see [Restart.AtBoot]).
func (cl *Client) ShutDown(ctx context.Context, c Config, sig syscall.Signal, grace time.Duration) error {
	return cl.stop(ctx, c, request{Signal: int(sig), Grace: grace, Shutdown: true})
}

func (cl *Client) stop(ctx context.Context, c Config, req request) error {
	req.Op = "stop"
	_, err := cl.simple(ctx, c, req)
	var not *NotRunningError
	if errors.As(err, &not) {
		return nil
	}
	return err
}

// Restart stops a container, if it runs, and starts it.
func (cl *Client) Restart(ctx context.Context, c Config, sig syscall.Signal, grace time.Duration) error {
	st := cl.Records.State(c.ID)
	if st.Foreground && st.Alive() {
		// It ends with the command that holds it: another one takes it on.
		if err := cl.Stop(ctx, c, sig, grace); err != nil {
			return err
		}
	}
	_, err := cl.simple(ctx, c, request{Op: "restart", Signal: int(sig), Grace: grace})
	var not *NotRunningError
	if errors.As(err, &not) {
		_, err = cl.Start(ctx, c, nil)
	}
	return err
}

// Kill sends a signal to a container's process.
func (cl *Client) Kill(ctx context.Context, c Config, sig syscall.Signal) error {
	_, err := cl.simple(ctx, c, request{Op: "kill", Signal: int(sig)})
	return err
}

// Pause stops all processes of a container until Unpause.
func (cl *Client) Pause(ctx context.Context, c Config) error {
	_, err := cl.simple(ctx, c, request{Op: "pause"})
	return err
}

// Unpause lets a paused container go on.
func (cl *Client) Unpause(ctx context.Context, c Config) error {
	_, err := cl.simple(ctx, c, request{Op: "unpause"})
	return err
}

// Wait waits until a container's process ends, and says how. One that doesn't
// run has ended already. The error wraps [ErrNotFound] if it is removed before it
// could be told.
func (cl *Client) Wait(ctx context.Context, c Config) (State, error) {
	for {
		st, err := cl.simple(ctx, c, request{Op: "wait"})
		if err == nil || ctx.Err() != nil {
			return st, err
		}
		st = cl.Records.State(c.ID)
		if _, err := cl.Records.load(c.ID); err != nil { // and so may the state be
			return State{}, fmt.Errorf("%w: %s: it was removed while it was waited for", ErrNotFound, c.Name)
		}
		if not := new(NotRunningError); errors.As(err, &not) {
			return st, nil
		}
		// The holder was killed while it waited, or there is none yet.
		time.Sleep(firstPause)
	}
}

// Revive starts the monitor if containers of a list run, or are to run again,
// and nobody holds them: it was killed, and with it what starts it again. What
// they wrote would fill their pipes. It says whether it has done so: what was
// known of them may have changed.
func (cl *Client) Revive(ctx context.Context, list ...Container) (bool, error) {
	look := slices.ContainsFunc(list, func(c Container) bool { return c.State.Alive() || c.Restart.Name != "" })
	if !look || locked(cl.Records.monitorLock()) {
		return false, nil
	}
	if !slices.ContainsFunc(list, func(c Container) bool { return cl.Records.readState(c.ID).background() }) {
		return false, nil
	}
	started := make(chan error, 1)
	go func() {
		nc, err := cl.monitor(ctx)
		if err == nil {
			err = nc.Close()
		}
		started <- err
	}()
	select {
	case err := <-started:
		return err == nil, err
	case <-time.After(reviveTime):
		return false, errors.New("the monitor that holds the containers in the background does not start")
	}
}

// reviveTime is how long Revive waits for the monitor.
const reviveTime = 3 * time.Second

// background says whether it is the state of a container that a monitor holds.
func (s State) background() bool {
	return !s.Foreground && s.Boot == sys.BootID() && (s.Alive() || s.Status == Restarting)
}

// Session is one attachment to a container's streams. Its fields are set
// before it is used.
type Session struct {
	Stdin          io.Reader // nil for none
	Stdout, Stderr io.Writer // nil for none
	Width, Height  uint16    // of the terminal
	// Detach is the sequence of keys that ends the session, and not the
	// container; nil for none.
	Detach []byte

	c        *conn
	detached chan struct{}
	once     sync.Once
}

// ErrDetached says that the user left a container that runs on.
var ErrDetached = errors.New("detached")

func (s *Session) attachment() *attachment {
	return &attachment{Stdin: s.Stdin != nil, Stdout: s.Stdout != nil, Stderr: s.Stderr != nil}
}

func (s *Session) begin(c *conn) {
	s.c, s.detached = c, make(chan struct{})
	if s.Stdin != nil {
		go s.feed()
	}
}

// feed passes the input on.
func (s *Session) feed() {
	in := io.Reader(s.Stdin)
	if len(s.Detach) > 0 {
		in = DetachReader(in, s.Detach, s.leave)
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 && s.c.writeFrame(frameStdin, buf[:n]) != nil {
			return
		}
		if err != nil {
			_ = s.c.writeFrame(frameEOF, nil)
			return
		}
	}
}

func (s *Session) leave() {
	s.once.Do(func() {
		close(s.detached)
		_ = s.c.Close()
	})
}

// Resize says that the user's terminal has another size.
func (s *Session) Resize(width, height uint16) {
	var b [4]byte
	binary.BigEndian.PutUint16(b[:], width)
	binary.BigEndian.PutUint16(b[2:], height)
	_ = s.c.writeFrame(frameResize, b[:])
}

// Signal passes a signal on to the container's process.
func (s *Session) Signal(sig syscall.Signal) { _ = s.c.writeFrame(frameSignal, []byte{byte(sig)}) }

// Wait copies output until the container's process has ended, and says how; or
// until the user detaches: then it returns [ErrDetached].
func (s *Session) Wait() (State, error) {
	defer func() { _ = s.c.Close() }()
	buf := make([]byte, 64<<10)
	for {
		kind, b, err := s.c.readFrame(buf)
		if err != nil {
			select {
			case <-s.detached:
				return State{}, ErrDetached
			default:
			}
			return State{}, errMonitorGone
		}
		var to io.Writer
		switch kind {
		case frameEnd:
			var st State
			err := json.Unmarshal(b, &st)
			return st, err
		case frameStdout:
			to = s.Stdout
		case frameStderr:
			to = s.Stderr
		}
		if to != nil {
			if _, err := to.Write(b); err != nil {
				return State{}, fmt.Errorf("write output: %w", err)
			}
		}
	}
}

// errMonitorGone says that nobody holds the container any more.
var errMonitorGone = errors.New("the monitor was killed: the container may run on; builder ps tells")

// DetachReader reads from r until the keys come: then it calls left, once, and ends with
// [ErrDetached]. What may be their beginning is held back until it is known.
func DetachReader(r io.Reader, keys []byte, left func()) io.Reader {
	return &detachReader{r: r, keys: keys, left: left}
}

type detachReader struct {
	r    io.Reader
	keys []byte
	left func()
	seen int // how many of the keys have come
}

func (d *detachReader) leave() (int, error) {
	d.left()
	return 0, ErrDetached
}

func (d *detachReader) Read(b []byte) (int, error) {
	if d.seen == len(d.keys) {
		return d.leave()
	}
	in := make([]byte, max(1, len(b)-len(d.keys)))
	n, err := d.r.Read(in)
	out := b[:0]
	for _, c := range in[:n] {
		if c == d.keys[d.seen] {
			if d.seen++; d.seen < len(d.keys) {
				continue
			}
			if len(out) > 0 {
				return len(out), nil // what was typed before them comes first
			}
			return d.leave()
		}
		out = append(out, d.keys[:d.seen]...)
		d.seen = 0
		if c == d.keys[0] {
			d.seen = 1
			continue
		}
		out = append(out, c)
	}
	if err != nil {
		out = append(out, d.keys[:d.seen]...)
		d.seen = 0
	}
	return len(out), err
}
