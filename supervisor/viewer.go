// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"io"
	"slices"
	"sync"
)

// piece is some of a container's output.
type piece struct {
	stream Stream
	bytes  []byte
}

// size is about what it takes of memory.
func (p piece) size() int { return len(p.bytes) + 64 }

// maxBehind is how many bytes a viewer may be behind before the container waits
// for it.
const maxBehind = 1 << 20

// viewer is one who looks on: it gets what the container writes from the moment
// on when it comes. One that doesn't take it makes the container wait, but not its
// end.
type viewer struct {
	mu     sync.Mutex
	change sync.Cond // of what follows
	behind []piece
	size   int
	ended  bool // the container waits no more
	closed bool // nothing comes any more
	gone   bool // it looks on no more

	last State // of the container, when nothing comes any more
}

func newViewer() *viewer {
	v := &viewer{}
	v.change.L = &v.mu
	return v
}

// put passes a piece to the viewer. ok is false if it is gone.
func (v *viewer) put(p piece) (ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.size >= maxBehind && !v.ended && !v.gone {
		v.change.Wait()
	}
	if v.gone {
		return false
	}
	v.change.Broadcast()
	if n := len(v.behind); n > 0 && v.behind[n-1].stream == p.stream && len(v.behind[n-1].bytes)+len(p.bytes) <= pieceSize {
		v.behind[n-1].bytes = append(v.behind[n-1].bytes, p.bytes...) // small ones cost more than they hold
		v.size += len(p.bytes)
		return true
	}
	p.bytes = slices.Clip(p.bytes) // others have it too
	v.behind = append(v.behind, p)
	v.size += p.size()
	return true
}

// next waits for the next piece. ok is false when there will be none, as nothing
// comes any more, or it looks on no more: gone.
func (v *viewer) next() (p piece, ok, gone bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for len(v.behind) == 0 && !v.closed && !v.gone {
		v.change.Wait()
	}
	if len(v.behind) == 0 || v.gone {
		return piece{}, false, v.gone
	}
	p = v.behind[0]
	v.behind[0] = piece{}
	v.behind = v.behind[1:]
	v.size -= p.size()
	v.change.Broadcast()
	return p, true, false
}

// end says that the container has ended, and waits no more.
func (v *viewer) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ended = true
	v.change.Broadcast()
}

// close says that nothing comes after what has come, and how the container has
// ended. Only the first time counts.
func (v *viewer) close(last State) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.closed {
		v.closed, v.last = true, last
	}
	v.change.Broadcast()
}

// leave says that it looks on no more.
func (v *viewer) leave() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.gone, v.behind = true, nil
	v.change.Broadcast()
}

// copyTo writes what comes to the writers, of which nil ones get nothing. It
// returns when nothing comes any more or, with false, when the viewer leaves, which
// it does if writing fails.
func (v *viewer) copyTo(stdout, stderr io.Writer) (whole bool) {
	for {
		p, ok, gone := v.next()
		if !ok {
			return !gone
		}
		to := stdout
		if p.stream == Stderr {
			to = stderr
		}
		if to == nil {
			continue
		}
		if _, err := to.Write(p.bytes); err != nil {
			v.leave()
			return false
		}
	}
}
