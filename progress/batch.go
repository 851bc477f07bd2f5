// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"io"
	"time"
)

const (
	// flushEvery is how long written text may wait for more to go with it. A
	// reader doesn't notice, and ten thousand lines cost ten system calls.
	flushEvery = 100 * time.Millisecond
	// flushSize is how much text is written at once.
	flushSize = 32 << 10
)

// batch collects text for few and large writes. It is used under its owner's
// lock. The first error is kept, and nothing is written after it.
type batch struct {
	w    io.Writer
	buf  []byte
	last time.Time // of the last write
	err  error
}

// settle writes what is there if it is much or has waited, and reports whether
// some is left, so that the owner comes again after flushEvery.
func (b *batch) settle(now time.Time) bool {
	if len(b.buf) > 0 && (len(b.buf) >= flushSize || now.Sub(b.last) >= flushEvery) {
		b.flush()
		b.last = now
	}
	return len(b.buf) > 0
}

func (b *batch) flush() {
	if len(b.buf) > 0 && b.err == nil {
		_, b.err = b.w.Write(b.buf)
	}
	b.buf = b.buf[:0]
	if cap(b.buf) > 4*flushSize {
		b.buf = nil
	}
}

// clock is the present, which displays measure waiting by and give to events
// that have no time.
func clock() time.Time {
	return time.Now()
}
