// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bytes"
	"io"
	"testing"
	"time"
)

// TestNewViewer has a viewer come while output is moved to the log: it sees what is
// written after it came.
func TestNewViewer(t *testing.T) {
	dir := t.TempDir()
	log, err := openLog(dir, LogConfig{})
	if err != nil {
		t.Fatal(err)
	}
	o := &output{log: log}
	child, err := o.pipes(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if _, err := io.WriteString(child[Stdout], text); err != nil {
			t.Fatal(err)
		}
	}
	log.mu.Lock() // what is moved waits here
	write("before\n")
	time.Sleep(50 * time.Millisecond)
	v := newViewer()
	added := make(chan struct{})
	go func() {
		o.add(v)
		close(added)
	}()
	select {
	case <-added:
		write("after\n")
		log.mu.Unlock()
	case <-time.After(50 * time.Millisecond):
		log.mu.Unlock()
		<-added
		write("after\n")
	}
	time.AfterFunc(5*time.Second, func() { v.close(State{}) })
	var seen []byte
	for !bytes.Contains(seen, []byte("after\n")) {
		p, ok, _ := v.next()
		if !ok {
			t.Fatalf("it has seen %q, not what was written after it came", seen)
		}
		seen = append(seen, p.bytes...)
	}
	closeAll(child[:])
	if err := o.close(); err != nil {
		t.Fatal(err)
	}
}
