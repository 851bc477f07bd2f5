// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// rateWindow is the time that a transfer's shown speed is the mean of.
	rateWindow = 3 * time.Second
	// keptWarnings is how many warnings are shown.
	keptWarnings = 50
)

// board is what the live view knows: the state that events have led to.
type board struct {
	logLines int

	title    string
	planned  int
	began    time.Time
	vertices map[string]*vertex
	order    []*vertex
	ended    int
	worst    outcome // failed, canceled, or neither

	warnings []string
	omitted  int // warnings that are not kept
	findings []Finding
}

// outcome is how a vertex stands, the worse the greater.
type outcome uint8

const (
	running outcome = iota
	succeeded
	cached
	canceled
	failed
)

type vertex struct {
	name         string
	began, ended time.Time
	outcome      outcome
	result       string

	streams [2]lineBuffer
	log     ring
	amounts []*amount // in the order they came
	byID    map[string]*amount
}

// amount is a [Status] with its speed.
type amount struct {
	Status
	began, ended time.Time

	// Speed is measured from a point of the recent past.
	since, next   time.Time
	from, nextAmt int64
}

// apply takes an event in.
func (b *board) apply(e Event) {
	if b.began.IsZero() {
		b.began = e.Time
	}
	switch {
	case e.Plan != nil:
		b.title, b.planned = oneLine(e.Plan.Title, longestName), e.Plan.Vertices
	case e.Start != nil:
		b.start(e)
	case e.Done != nil:
		b.done(b.vertex(e), e)
	case e.Log != nil && e.Log.Stream == Warning:
		b.warn(e.Log.Data)
	case e.Log != nil:
		b.output(b.vertex(e), e.Log)
	case e.Status != nil:
		b.vertex(e).status(e.Status, e.Time)
	case e.Finding != nil:
		b.findings = append(b.findings, *e.Finding)
	}
}

// start begins a vertex, or a second one of the same identity after the first
// has ended.
func (b *board) start(e Event) {
	if v := b.vertices[e.Vertex]; v != nil && v.outcome == running {
		return
	}
	v := &vertex{name: oneLine(e.Start.Name, longestName), began: e.Time}
	v.log = ring{max: max(b.logLines, 1), maxBytes: max(b.logLines, 1) * longestKept}
	for i := range v.streams {
		v.streams[i] = lineBuffer{max: longestKept, tabs: true}
	}
	b.vertices[e.Vertex] = v
	b.order = append(b.order, v)
}

// vertex returns the vertex of an event, beginning it if need be.
func (b *board) vertex(e Event) *vertex {
	if b.vertices[e.Vertex] == nil {
		b.start(Event{Vertex: e.Vertex, Time: e.Time, Start: &Start{Name: e.Vertex}})
	}
	return b.vertices[e.Vertex]
}

func (b *board) done(v *vertex, e Event) {
	if v.outcome != running {
		return
	}
	b.ended++
	v.ended = e.Time
	v.streams, v.log, v.amounts, v.byID = [2]lineBuffer{}, ring{}, nil, nil // their memory is no longer needed
	switch err := e.Done.Err; {
	case err != nil && errors.Is(err, context.Canceled):
		v.outcome = canceled
		b.worst = max(b.worst, canceled)
	case err != nil:
		v.outcome, b.worst = failed, failed
	case e.Done.Cached:
		v.outcome = cached
	default:
		v.outcome = succeeded
		v.result = e.Done.Result.String()
	}
}

func (b *board) output(v *vertex, l *Log) {
	if v.outcome != running || b.logLines == 0 {
		return
	}
	s := &v.streams[0]
	if l.Stream == Stderr {
		s = &v.streams[1]
	}
	v.log.add(s, lastPart(l.Data, usefulOutput))
}

func (b *board) warn(data []byte) {
	lines := ring{max: keptWarnings, maxBytes: keptWarnings * longestKept}
	s := lineBuffer{max: longestKept, tabs: true}
	lines.add(&s, data)
	if rest := s.finish(); len(rest) > 0 {
		lines.push(rest)
	}
	for i := range lines.n {
		if len(b.warnings) == keptWarnings {
			b.omitted += lines.n - i
			return
		}
		if len(lines.at(i)) > 0 {
			b.warnings = append(b.warnings, string(lines.at(i)))
		}
	}
}

func (v *vertex) status(s *Status, at time.Time) {
	if v.outcome != running {
		return
	}
	a := v.byID[s.ID]
	isNew := a == nil
	if isNew {
		a = &amount{}
		if v.byID == nil {
			v.byID = map[string]*amount{}
		}
		v.byID[s.ID] = a
		v.amounts = append(v.amounts, a)
	}
	if isNew || a.Action != s.Action {
		a.began, a.since, a.next = at, at, at
		a.from, a.nextAmt = s.Current, s.Current
	}
	if at.Sub(a.next) >= rateWindow {
		a.since, a.from = a.next, a.nextAmt
		a.next, a.nextAmt = at, s.Current
	}
	if s.Done && !a.Done {
		a.ended = at
	}
	a.Status = *s
}

// rate returns the recent speed in amounts per second, 0 if it isn't known.
func (a *amount) rate(now time.Time) int64 {
	seconds := now.Sub(a.since).Seconds()
	if seconds < 0.5 || a.Current <= a.from {
		return 0
	}
	return int64(float64(a.Current-a.from) / seconds)
}

// left is how long the rest takes at a rate, 0 if it isn't known.
func (a *amount) left(rate int64) time.Duration {
	if rate <= 0 || a.Total <= a.Current {
		return 0
	}
	return time.Duration(float64(a.Total-a.Current) / float64(rate) * float64(time.Second))
}

// appendTime appends 7s, 3m07s or 2h05m.
func appendTime(b []byte, d time.Duration) []byte {
	s := int64((d + time.Second - 1) / time.Second)
	switch {
	case s < 60:
		return fmt.Appendf(b, "%ds", s)
	case s < 3600:
		return fmt.Appendf(b, "%dm%02ds", s/60, s%60)
	}
	return fmt.Appendf(b, "%dh%02dm", s/3600, s%3600/60)
}

// lines returns the last lines of the output, at most n, one that isn't ended
// included.
func (v *vertex) lines(n int) []string {
	var lines []string
	for i := range v.log.n {
		lines = append(lines, string(v.log.at(i)))
	}
	for i := range v.streams {
		if b := &v.streams[i]; !b.ended && len(b.line) > 0 {
			lines = append(lines, string(b.line))
		}
	}
	return lines[max(0, len(lines)-n):]
}

// lineCount returns how many lines there are.
func (v *vertex) lineCount() int {
	n := v.log.n
	for i := range v.streams {
		if b := &v.streams[i]; !b.ended && len(b.line) > 0 {
			n++
		}
	}
	return n
}

// seconds returns how long the vertex has taken.
func (v *vertex) seconds(now time.Time) time.Duration {
	if v.outcome != running {
		now = v.ended
	}
	return now.Sub(v.began)
}
