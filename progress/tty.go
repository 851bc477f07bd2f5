// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"
)

const (
	// firstFrame is when the first frame is drawn: a build that is done by
	// then shows its result alone.
	firstFrame = 50 * time.Millisecond
	// frameEvery is the time between two frames.
	frameEvery = 100 * time.Millisecond
	// usefulOutput is how many bytes of one event's output are looked at: the
	// last lines are all that is shown.
	usefulOutput = 16 << 10
)

// TTYOptions are the settings of [NewTTY].
type TTYOptions struct {
	Color bool
	// LogLines is how many lines of output are shown of a running vertex, 6
	// if zero, none if negative.
	LogLines int
}

// NewTTY returns the live view on a terminal: a header with the time and how
// much is done, a line for each vertex, and beneath the running ones their
// amounts and the last lines of their output. It is redrawn ten times a second
// by a goroutine of its own, so a slow terminal doesn't slow the build. Close
// leaves the final state, with the warnings, on the screen as ordinary text.
//
// Nothing is read from the terminal and its mode isn't changed. What a frame
// changes (cursor, line wrap) it changes back in the same write, so the
// terminal is in order whenever the process ends, however it ends.
func NewTTY(w *os.File, opts TTYOptions) Display {
	size := func() (int, int) {
		cols, rows, err := term.GetSize(int(w.Fd()))
		if err != nil || cols <= 0 || rows <= 0 {
			return 80, 24
		}
		return cols, rows
	}
	t := newTTY(w, size, opts)
	signal.Notify(t.resumed, syscall.SIGCONT)
	return t
}

func newTTY(w io.Writer, size func() (cols, rows int), opts TTYOptions) *tty {
	switch {
	case opts.LogLines == 0:
		opts.LogLines = 6
	case opts.LogLines < 0:
		opts.LogLines = 0
	}
	return &tty{
		size:    size,
		board:   board{logLines: opts.LogLines, vertices: map[string]*vertex{}},
		color:   opts.Color,
		screen:  screen{w: w},
		resumed: make(chan os.Signal, 1),
		stop:    make(chan struct{}), stopped: make(chan struct{}),
	}
}

type tty struct {
	size  func() (cols, rows int)
	color bool

	mu      sync.Mutex // guards what follows, up to screen
	board   board
	drawing bool // the goroutine runs
	closed  bool

	screen        screen         // the goroutine's, and Close's after it
	resumed       chan os.Signal // a shell has had the screen for itself
	stop, stopped chan struct{}
	closing       sync.Once
}

// Event implements [Sink].
func (t *tty) Event(e Event) {
	if e.Time.IsZero() {
		e.Time = clock()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.board.apply(e)
	if !t.drawing {
		t.drawing = true
		go t.draw()
	}
}

// draw draws frames until told to stop.
func (t *tty) draw() {
	defer close(t.stopped)
	timer := time.NewTimer(firstFrame)
	defer timer.Stop()
	for {
		select {
		case <-t.stop:
			return
		case <-t.resumed:
			t.screen.forget()
		case <-timer.C:
			t.frame(false)
			timer.Reset(frameEvery)
		}
	}
}

func (t *tty) frame(final bool) {
	l := layout{color: t.color, now: clock(), final: final}
	l.cols, l.rows = t.size()
	if l.rows < 2 && !final {
		return // no room for a line and the cursor: each frame would scroll
	}
	t.mu.Lock()
	lines := l.lines(&t.board)
	t.mu.Unlock()
	t.screen.draw(lines, l.cols)
}

// Close implements [Display]. It waits until the terminal has taken the final
// state.
func (t *tty) Close() error {
	t.closing.Do(func() {
		t.mu.Lock()
		t.closed = true
		drawing := t.drawing
		t.mu.Unlock()
		if drawing {
			close(t.stop)
			<-t.stopped
			t.screen.repaint()
			t.frame(true)
			t.screen.below(summary(t.board.findings, t.color))
		}
		signal.Stop(t.resumed)
	})
	return t.screen.err
}
