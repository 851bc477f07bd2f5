// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"builder/container"
)

// handle serves one connection. hold finds the holder of a container; with
// start it may begin to hold it.
func handle(ctx context.Context, nc net.Conn, s holders) {
	c := newConn(nc)
	defer func() { _ = c.Close() }()
	var req request
	if err := c.readJSON(&req); err != nil {
		return
	}
	if req.Op == "ping" {
		_ = c.writeJSON(response{})
		return
	}
	if req.Op == opStart || req.Op == opStartMapped {
		serveStart(c, s, req)
		return
	}
	h := s.held(req.ID)
	if h == nil {
		if err := s.takeOver(req.ID); err != nil {
			_ = c.writeJSON(answer(nil, err))
			return
		}
		h = s.held(req.ID)
	}
	if h == nil {
		_ = c.writeJSON(response{NotHeld: true, Error: "not running"})
		return
	}
	switch req.Op {
	case "attach":
		serveAttach(c, h, req)
	case "wait":
		serveWait(ctx, c, h)
	case "update":
		warnings, err := h.update(req.Changes)
		st := h.current()
		r := answer(&st, err)
		r.Warnings = warnings
		_ = c.writeJSON(r)
	default:
		err := serve(ctx, h, req)
		st := h.current()
		r := answer(&st, err)
		var not *NotRunningError
		r.NotHeld = errors.As(err, &not) && not.Name == h.config.Name
		_ = c.writeJSON(r)
	}
}

// holders are the containers that a process holds.
type holders interface {
	held(id string) *holder
	// takeOver tries to begin to hold a container that runs and that nobody holds
	// yet, if it is one.
	takeOver(id string) error
	// begin begins to hold a container. It returns with its lock held and
	// nothing started.
	begin(id string, warn func(string)) (*holder, error)
	// keep has the holder run; started is called when the container has
	// started, or couldn't be.
	keep(h *holder, started func(error))
}

// answer is what a client is told. It needs nothing of networks, which change while it
// is written.
func answer(st *State, err error) response {
	var r response
	if st != nil {
		told := *st
		told.Network = nil
		r.State = &told
	}
	if err != nil {
		r.Error, r.Running = err.Error(), errors.Is(err, ErrRunning)
		var start *container.StartError
		if errors.As(err, &start) {
			r.Code = start.Code
		}
	}
	return r
}

// serve does what needs no streams.
func serve(ctx context.Context, h *holder, req request) error {
	switch req.Op {
	case "stop":
		return h.stop(ctx, syscall.Signal(req.Signal), req.Grace, req.Shutdown)
	case "restart":
		return h.stopAndStart(ctx, syscall.Signal(req.Signal), req.Grace)
	case "kill":
		return h.kill(syscall.Signal(req.Signal))
	case "pause":
		return h.pause(req.Repeated)
	case "unpause":
		if h.current().Status != Paused && !req.Repeated {
			return fmt.Errorf("container %s is not paused", h.config.Name)
		}
		return h.thaw()
	case "connect":
		return h.connectTo(*req.Connection, req.Repeated)
	case "disconnect":
		return h.disconnectFrom(req.Connection.Network, req.Repeated)
	case "resize":
		return h.resize(req.Width, req.Height)
	}
	return fmt.Errorf("unknown request %q: command and monitor are of different versions", req.Op)
}

// awaitRestart waits until the container runs again.
func (h *holder) awaitRestart(ctx context.Context, before time.Time) error {
	for {
		st := h.current()
		switch {
		case st.Alive() && st.Started.After(before):
			return nil
		case st.Error != "" && st.Status == Exited:
			return errors.New(st.Error)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-h.ended:
			return nil
		case <-time.After(time.Millisecond):
		}
	}
}

func serveStart(c *conn, s holders, req request) {
	var mu sync.Mutex
	var warnings []string
	h, err := s.begin(req.ID, func(msg string) {
		mu.Lock()
		defer mu.Unlock()
		warnings = append(warnings, msg)
	})
	if err != nil {
		_ = c.writeJSON(answer(nil, err))
		return
	}
	if err := h.resize(req.Width, req.Height); err != nil {
		_ = c.writeJSON(answer(nil, err))
		return
	}
	var v *view
	if req.Attach != nil {
		v = newView(c, *req.Attach)
		h.watch(v.viewer)
	}
	result := make(chan error, 1)
	s.keep(h, func(err error) { result <- err })
	err = <-result
	st := h.current()
	r := answer(&st, err)
	mu.Lock()
	r.Warnings = warnings
	mu.Unlock()
	if c.writeJSON(r) != nil || err != nil || v == nil {
		v.leave(h)
		return
	}
	v.serve(h)
}

func serveAttach(c *conn, h *holder, req request) {
	st := h.current()
	if st.Status == Paused {
		_ = c.writeJSON(answer(&st, fmt.Errorf("container %s is paused: unpause it first", h.config.Name)))
		return
	}
	var v *view
	if req.Attach != nil {
		v = newView(c, *req.Attach)
		h.watch(v.viewer)
	}
	if err := h.resize(req.Width, req.Height); err != nil || c.writeJSON(answer(&st, err)) != nil || v == nil {
		v.leave(h)
		return
	}
	v.serve(h)
}

func serveWait(ctx context.Context, c *conn, h *holder) {
	gone := make(chan struct{})
	go func() {
		_, _ = c.r.ReadByte() // the client says nothing more
		close(gone)
	}()
	h.mu.Lock()
	p, st := h.process, h.state
	h.mu.Unlock()
	if p != nil {
		done := make(chan struct{})
		go func() {
			_ = p.Ended()
			close(done)
		}()
		select {
		case <-done:
		case <-gone:
			return
		case <-ctx.Done():
			return
		}
		st = h.after(p)
	}
	_ = c.writeJSON(answer(&st, nil))
}

// after is how a process ended, when that is known and all its output has been
// taken.
func (h *holder) after(p *container.Process) State {
	for {
		h.mu.Lock()
		last, over := h.last, h.process != p
		h.mu.Unlock()
		if over {
			return last
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// view is a client that is attached.
type view struct {
	*viewer
	c    *conn
	want attachment
}

func newView(c *conn, want attachment) *view { return &view{viewer: newViewer(), c: c, want: want} }

// leave ends a view, if it is one.
func (v *view) leave(h *holder) {
	if v != nil {
		v.viewer.leave()
		h.unwatch(v.viewer)
	}
}

// frames are writers of the frames that the client wants.
func (v *view) frames() (stdout, stderr io.Writer) {
	if v.want.Stdout {
		stdout = frameWriter{v.c, frameStdout}
	}
	if v.want.Stderr {
		stderr = frameWriter{v.c, frameStderr}
	}
	return stdout, stderr
}

// serve passes input and output on until the client goes or the container ends.
// It begins when the client has its answer.
func (v *view) serve(h *holder) {
	defer v.leave(h)
	go func() {
		v.input(h)
		v.viewer.leave()
	}()
	if stdout, stderr := v.frames(); !v.copyTo(stdout, stderr) {
		return
	}
	data, err := json.Marshal(v.last)
	if err == nil {
		_ = v.c.writeFrame(frameEnd, data)
	}
}

func (v *view) input(h *holder) {
	buf := make([]byte, 32<<10)
	for {
		kind, b, err := v.c.readFrame(buf)
		if err != nil {
			if v.want.Stdin {
				h.endInput()
			}
			return
		}
		switch {
		case kind == frameStdin && v.want.Stdin:
			h.feed(b)
		case kind == frameEOF && v.want.Stdin:
			h.endInput()
		case kind == frameResize && len(b) == 4:
			_ = h.resize(binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
		case kind == frameSignal && len(b) == 1:
			_ = h.kill(syscall.Signal(b[0]))
		}
	}
}
