// SPDX-License-Identifier: Apache-2.0

package progress

import "time"

// This file decides whose lines a plain display shows, of vertices that are at
// work at the same time.

// spoken notes that v has, or has had, more to show than its name.
func (p *plain) spoken(v *plainVertex, now time.Time) {
	v.spoke = now
	if p.shown != v {
		if !v.output {
			v.output = true
			v.since = now
		}
		p.wait(v, now)
	}
}

// wait puts v among those that wait to be shown.
func (p *plain) wait(v *plainVertex, now time.Time) {
	if !v.waiting {
		v.waiting, v.since = true, now
		p.waiting = append(p.waiting, v)
	}
}

// settle decides what is shown, writes it if it's time, and comes again while
// something waits.
func (p *plain) settle(now time.Time) {
	p.rotate(now)
	if (p.out.settle(now) || len(p.waiting) > 0) && p.timer == nil {
		p.timer = time.AfterFunc(flushEvery, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.timer = nil
			if !p.closed {
				p.settle(clock())
			}
		})
	}
}

// rotate gives the place on the screen to those that wait, in turn, as far as
// the one that has it can be interrupted.
func (p *plain) rotate(now time.Time) {
	for len(p.waiting) > 0 {
		i := p.next(now)
		if i < 0 {
			return
		}
		if p.shown != nil {
			p.out.buf = append(append(p.out.buf, p.shown.number...), "...\n\n"...)
		}
		p.show(i, now)
	}
}

// next returns the index of the vertex to be shown next, -1 for no change:
// those that have ended first, then those with output, then those that have
// merely begun.
func (p *plain) next(now time.Time) int {
	best, rank := -1, 0
	for i, v := range p.waiting {
		r := 1
		switch {
		case v.done:
			r = 3
		case v.output:
			r = 2
		}
		if r > rank && (p.shown == nil || p.interrupts(v, now)) {
			best, rank = i, r
		}
	}
	return best
}

// interrupts reports whether v has waited enough to take the place of the
// vertex that is shown.
func (p *plain) interrupts(v *plainVertex, now time.Time) bool {
	if now.Sub(v.since) >= p.hold || len(v.held) >= holdBytes {
		return true
	}
	return v.output && now.Sub(p.shown.spoke) >= quietAfter && now.Sub(p.shownAt) >= stayAtLeast
}

// show makes the i-th that waits the one that is shown.
func (p *plain) show(i int, now time.Time) {
	v := p.waiting[i]
	p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
	p.out.buf = append(append(append(p.out.buf, v.number...), v.name...), '\n')
	p.out.buf = append(p.out.buf, v.held...)
	v.waiting, v.output, v.held = false, false, nil
	p.shown, p.shownAt = v, now
	if v.done {
		p.out.buf = append(p.out.buf, '\n')
		p.shown = nil
	}
}
