// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bytes"
	"fmt"
	"testing"
)

// TestViewer gives two viewers the same pieces, of which each joins small ones: both
// get all in order. One that is full holds up who gives, until the end or until it
// leaves.
func TestViewer(t *testing.T) {
	a, b := newViewer(), newViewer()
	var want, wantErr bytes.Buffer
	for i := range 1000 {
		line := fmt.Appendf(make([]byte, 0, 64), "%d\n", i) // with room behind it
		stream, to := Stdout, &want
		if i%10 == 0 {
			stream, to = Stderr, &wantErr
		}
		to.Write(line)
		if !a.put(piece{stream, line}) || !b.put(piece{stream, line}) {
			t.Fatal("a viewer is gone")
		}
		if i == 500 { // one is behind the other
			if _, ok, _ := a.next(); !ok {
				t.Fatal("there is nothing")
			}
		}
	}
	if len(b.behind) != 200 {
		t.Errorf("it has %d pieces", len(b.behind))
	}
	b.close(State{ExitCode: 3})
	var out, errs bytes.Buffer
	if !b.copyTo(&out, &errs) || out.String() != want.String() || errs.String() != wantErr.String() || b.last.ExitCode != 3 || b.size != 0 {
		t.Errorf("it has got %d and %d bytes of %d and %d, %d left, and %+v", out.Len(), errs.Len(), want.Len(), wantErr.Len(), b.size, b.last)
	}
	for what, let := range map[string]func(v *viewer){"end": (*viewer).end, "leave": (*viewer).leave} {
		v := newViewer()
		v.put(piece{Stdout, make([]byte, maxBehind)})
		done := make(chan bool)
		go func() { done <- v.put(piece{Stdout, []byte("x")}) }()
		select {
		case <-done:
			t.Errorf("%s: it takes more than it holds", what)
		default:
		}
		let(v)
		if taken := <-done; taken != (what == "end") {
			t.Errorf("%s: taken is %v", what, taken)
		}
	}
}
