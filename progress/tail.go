// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"strings"
	"sync"
)

// Tail keeps the last lines of an output in bounded memory, for the report of
// a failure. The lines are clean: printable text without escape sequences, of
// a progress bar its last state. Its methods may be called from many
// goroutines at once.
type Tail struct {
	mu      sync.Mutex
	streams [2]lineBuffer
	kept    ring
}

// longestKept is how many bytes of one line a Tail or a live view keeps.
const longestKept = 2 << 10

// NewTail returns an empty Tail that keeps at most so many lines and bytes.
// A line longer than that, or than 2 KiB, loses its end.
func NewTail(lines, size int) *Tail {
	t := &Tail{kept: ring{max: max(lines, 1), maxBytes: max(size, 1)}}
	for i := range t.streams {
		t.streams[i] = lineBuffer{max: min(t.kept.maxBytes, longestKept), tabs: true}
	}
	return t
}

// Write adds output as [Tail.Add] does for [Stdout]. It never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.Add(Stdout, p)
	return len(p), nil
}

// Add adds output of a stream. Data needs no alignment to lines, and lines of
// two streams don't mix.
func (t *Tail) Add(stream Stream, data []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := &t.streams[0]
	if stream != Stdout {
		b = &t.streams[1]
	}
	t.kept.add(b, data)
}

// Lines returns the lines kept, oldest first, one that isn't ended yet
// included.
func (t *Tail) Lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for i := range t.kept.n {
		lines = append(lines, string(t.kept.at(i)))
	}
	for i := range t.streams {
		b := &t.streams[i]
		if !b.ended && len(b.line) > 0 {
			lines = append(lines, string(b.line))
		}
	}
	return lines[max(0, len(lines)-t.kept.max):]
}

// Bytes returns the lines kept, each ended by a line feed.
func (t *Tail) Bytes() []byte {
	lines := t.Lines()
	if len(lines) == 0 {
		return nil
	}
	return []byte(strings.Join(lines, "\n") + "\n")
}

// Omitted returns how many earlier lines are no longer kept.
func (t *Tail) Omitted() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kept.omitted
}

// ring holds the newest lines and uses the memory of the dropped ones again.
type ring struct {
	max, maxBytes int

	lines    [][]byte
	first, n int
	bytes    int
	omitted  int
}

// add puts a stream's output through its line buffer.
func (r *ring) add(b *lineBuffer, data []byte) {
	for {
		var s lineState
		data, s = b.next(data)
		switch s {
		case lineOpen:
			return
		case lineDone:
			r.push(b.line)
		}
	}
}

func (r *ring) push(line []byte) {
	for r.n == r.max || (r.n > 0 && r.bytes+len(line) > r.maxBytes) {
		r.bytes -= len(r.at(0))
		r.first = (r.first + 1) % r.max
		r.n--
		r.omitted++
	}
	if r.lines == nil {
		r.lines = make([][]byte, r.max)
	}
	i := (r.first + r.n) % r.max
	r.lines[i] = append(r.lines[i][:0], line...)
	r.n++
	r.bytes += len(line)
}

// at returns the i-th line, counted from the oldest.
func (r *ring) at(i int) []byte { return r.lines[(r.first+i)%r.max] }

// lastPart returns what is worth reading of a large piece of output when only
// its last lines count: at most size bytes and a line.
func lastPart(data []byte, size int) []byte {
	if len(data) <= size {
		return data
	}
	data = data[len(data)-size:]
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		data = data[i:] // the line feed ends what stands in the buffer
	}
	return data
}
