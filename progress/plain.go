// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// longestName is how many bytes are shown of a name or message.
	longestName = 4 << 10
	// longestLine is where a line of output is broken into two.
	longestLine = 8 << 10
	// quietAfter is how long the shown vertex must have been silent, and
	// stayAtLeast how long it must have been shown, before another one's
	// output, held back until then, takes its place.
	quietAfter  = 300 * time.Millisecond
	stayAtLeast = time.Second
	// holdBytes of held output take the shown vertex's place at once.
	holdBytes = 64 << 10
	// aliveEvery is how often a bar that only ever rewrites its line, or an
	// amount, is shown, so that a log doesn't stand still for minutes.
	aliveEvery = 10 * time.Second
)

// PlainOptions are the settings of [NewPlain]. The zero value is good.
type PlainOptions struct {
	// Hold is how long output of one vertex may be held back while another's
	// is being shown, 3 seconds if zero.
	Hold time.Duration
}

// NewPlain returns a display for logs and CI. Every line begins with the
// number of its vertex:
//
//	#5 [build 2/4] RUN make
//	#5 0.123 cc -c main.c
//	#5 DONE 1.2s
//
// and ends as DONE, CACHED, CANCELED or ERROR. A line of output has the
// seconds since the vertex began, and is always whole. Vertices at work at the
// same time are shown one at a time, as long as none has to wait for long:
// "#5 ..." says that vertex 5 goes on below. Amounts are shown when they begin
// and when they end, seldom in between. Output is cleaned of escape sequences.
//
// Text is written in batches, ten times a second at most unless there is much
// of it; all of it is written, so a slow writer slows the build.
func NewPlain(w io.Writer, opts PlainOptions) Display {
	if opts.Hold == 0 {
		opts.Hold = 3 * time.Second
	}
	return &plain{out: batch{w: w}, hold: opts.Hold, vertices: map[string]*plainVertex{}}
}

type plain struct {
	hold time.Duration

	mu       sync.Mutex
	out      batch
	vertices map[string]*plainVertex
	count    int            // vertices so far
	shown    *plainVertex   // whose lines go out, nil if nobody's
	shownAt  time.Time      // since when
	waiting  []*plainVertex // the others with something to show, longest first
	timer    *time.Timer
	findings []Finding
	closed   bool
}

type plainVertex struct {
	index   int
	number  string // "#5 "
	name    string
	started time.Time
	done    bool

	streams  [2]lineBuffer
	alive    [2]time.Time // when a line of the stream was last shown
	statuses map[string]*plainStatus

	held    []byte    // lines not shown yet
	since   time.Time // when it began to wait
	spoke   time.Time // when it last had something to show
	waiting bool
	output  bool // held is more than the fact that it began
}

type plainStatus struct {
	action string
	began  time.Time
	alive  time.Time
	done   bool
}

// Event implements [Sink].
func (p *plain) Event(e Event) {
	now := clock()
	if e.Time.IsZero() {
		e.Time = now
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	switch {
	case e.Start != nil:
		p.start(e, now)
	case e.Done != nil:
		p.done(p.vertex(e, now), e, now)
	case e.Log != nil && e.Log.Stream == Warning:
		p.warning(e, now)
	case e.Log != nil:
		p.log(p.vertex(e, now), e, now)
	case e.Status != nil:
		p.status(p.vertex(e, now), e, now)
	case e.Finding != nil:
		p.findings = append(p.findings, *e.Finding)
	}
	p.settle(now)
}

// start begins a vertex, or a second one of the same identity after the first
// has ended.
func (p *plain) start(e Event, now time.Time) {
	if v := p.vertices[e.Vertex]; v != nil && !v.done {
		return
	}
	p.count++
	v := &plainVertex{
		index: p.count, number: "#" + strconv.Itoa(p.count) + " ", name: oneLine(e.Start.Name, longestName), started: e.Time,
	}
	for i := range v.streams {
		v.streams[i] = lineBuffer{max: longestLine, wrap: true}
		v.alive[i] = e.Time
	}
	p.vertices[e.Vertex] = v
	p.wait(v, now)
}

// vertex returns the vertex of an event, beginning it if need be.
func (p *plain) vertex(e Event, now time.Time) *plainVertex {
	if v := p.vertices[e.Vertex]; v != nil {
		return v
	}
	p.start(Event{Vertex: e.Vertex, Time: e.Time, Start: &Start{Name: e.Vertex}}, now)
	return p.vertices[e.Vertex]
}

func (p *plain) done(v *plainVertex, e Event, now time.Time) {
	for i := range v.streams {
		if line := v.streams[i].finish(); len(line) > 0 {
			p.outputLine(v, e.Time, line)
		}
	}
	v.statuses, v.streams[0].line, v.streams[1].line = nil, nil, nil // no longer needed
	if e.Done.Result != "" {
		p.line(v, "digest ", e.Done.Result.String())
	}
	switch err := e.Done.Err; {
	case err != nil && errors.Is(err, context.Canceled):
		p.line(v, "CANCELED", "")
	case err != nil:
		p.line(v, "ERROR: ", firstLine(err.Error()))
	case e.Done.Cached:
		p.line(v, "CACHED", "")
	default:
		b := p.text(v)
		*b = append(appendSeconds(append(append(*b, v.number...), "DONE "...), e.Time.Sub(v.started)), '\n')
	}
	v.done = true
	p.spoken(v, now)
	if p.shown == v {
		p.out.buf = append(p.out.buf, '\n')
		p.shown = nil
	}
}

func (p *plain) log(v *plainVertex, e Event, now time.Time) {
	i := 0
	if e.Log.Stream == Stderr {
		i = 1
	}
	b := &v.streams[i]
	for data := e.Log.Data; ; {
		var s lineState
		data, s = b.next(data)
		if s == lineOpen {
			return
		}
		if s == lineOverwritten && e.Time.Sub(v.alive[i]) < aliveEvery {
			continue
		}
		v.alive[i] = e.Time
		p.outputLine(v, e.Time, b.line)
		p.spoken(v, now)
		if len(v.held) >= holdBytes {
			p.rotate(now)
		}
		if len(p.out.buf) >= flushSize {
			p.out.settle(now)
		}
	}
}

// warning shows a warning at once: it is about the build, not about what else
// is on the screen.
func (p *plain) warning(e Event, now time.Time) {
	b := lineBuffer{max: longestLine, wrap: true}
	show := func(line []byte) {
		if len(line) == 0 {
			return
		}
		buf := &p.out.buf
		if v := p.vertices[e.Vertex]; v != nil {
			p.spoken(v, now)
			buf = p.text(v)
			*buf = append(*buf, v.number...)
		}
		*buf = append(append(append(*buf, "WARNING: "...), line...), '\n')
	}
	for data := e.Log.Data; len(data) > 0; {
		var s lineState
		if data, s = b.next(data); s == lineDone {
			show(b.line)
		}
	}
	show(b.finish())
}

func (p *plain) status(v *plainVertex, e Event, now time.Time) {
	s := v.statuses[e.Status.ID]
	switch {
	case s == nil || s.action != e.Status.Action:
		if v.statuses == nil {
			v.statuses = map[string]*plainStatus{}
		}
		s = &plainStatus{action: e.Status.Action, began: e.Time}
		v.statuses[e.Status.ID] = s
	case s.done || (!e.Status.Done && e.Time.Sub(s.alive) < aliveEvery):
		return
	}
	s.alive, s.done = e.Time, e.Status.Done
	p.spoken(v, now)
	buf := p.text(v)
	b := e.Status.appendLabel(append(*buf, v.number...))
	if e.Status.hasAmount() {
		b = e.Status.appendAmount(append(b, ' '))
	}
	if d := e.Time.Sub(s.began); d > 0 {
		b = appendSeconds(append(b, ' '), d)
	}
	if s.done {
		b = append(b, " done"...)
	}
	*buf = append(b, '\n')
}

// text is where lines of v belong: to what is shown, or held back.
func (p *plain) text(v *plainVertex) *[]byte {
	if p.shown == v {
		return &p.out.buf
	}
	return &v.held
}

func (p *plain) line(v *plainVertex, word, rest string) {
	b := p.text(v)
	*b = append(append(append(append(*b, v.number...), word...), rest...), '\n')
}

func (p *plain) outputLine(v *plainVertex, at time.Time, line []byte) {
	buf := p.text(v)
	b := strconv.AppendFloat(append(*buf, v.number...), max(at.Sub(v.started), 0).Seconds(), 'f', 3, 64)
	*buf = append(append(append(b, ' '), line...), '\n')
}

// Close implements [Display]. Output without a line feed of vertices that have
// not ended is shown too.
func (p *plain) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return p.out.err
	}
	now := clock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
	}
	p.finishOpen(now)
	for len(p.waiting) > 0 {
		if p.shown != nil {
			p.out.buf = append(append(p.out.buf, p.shown.number...), "...\n\n"...)
			p.shown = nil
		}
		p.show(p.next(now), now)
	}
	p.out.buf = append(p.out.buf, summary(p.findings, false)...)
	p.out.flush()
	return p.out.err
}

// finishOpen ends the lines of vertices that have not ended.
func (p *plain) finishOpen(now time.Time) {
	byIndex := func(a, b *plainVertex) int { return a.index - b.index }
	for _, v := range slices.SortedFunc(maps.Values(p.vertices), byIndex) {
		for i := range v.streams {
			if line := v.streams[i].finish(); !v.done && len(line) > 0 {
				p.outputLine(v, now, line)
				p.spoken(v, now)
			}
		}
	}
}
