// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"os"
	"testing"
	"time"

	"builder/internal/sys"
	"builder/store"
)

// newRecords are those of a new state directory, with a container that has a
// record and no files.
func newRecords(t *testing.T) (Records, Config) {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r := NewRecords(s)
	c := Config{ID: NewID(), Name: "one"}
	if err := os.MkdirAll(r.Dir(c.ID), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := r.Save(c); err != nil {
		t.Fatal(err)
	}
	return r, c
}

// TestNotDoneTwice has the monitor end before it has answered: what it has done is
// not asked for again, what it hasn't is.
func TestNotDoneTwice(t *testing.T) {
	runs := State{Status: Running, Boot: sys.BootID(), Started: time.Now()}
	for name, test := range map[string]struct {
		ask   func(*Client, Config) error
		after State // when the first request has come
		asked int
		gone  bool
	}{
		"started":     {func(cl *Client, c Config) error { _, err := cl.Start(t.Context(), c, nil); return err }, runs, 1, false},
		"not started": {func(cl *Client, c Config) error { _, err := cl.Start(t.Context(), c, nil); return err }, State{}, 2, false},
		"ended": {func(cl *Client, c Config) error { _, err := cl.Start(t.Context(), c, nil); return err },
			State{Status: Exited, Started: time.Now(), ExitCode: 3}, 1, false},
		"not executed": {func(cl *Client, c Config) error { _, err := cl.Start(t.Context(), c, nil); return err },
			State{Status: Exited, Started: time.Now(), ExitCode: 125}, 2, false},
		"attached":  {func(cl *Client, c Config) error { _, err := cl.Start(t.Context(), c, &Session{}); return err }, runs, 1, true},
		"restarted": {func(cl *Client, c Config) error { return cl.Restart(t.Context(), c, 15, 0) }, runs, 1, false},
		"paused":    {func(cl *Client, c Config) error { return cl.Pause(t.Context(), c) }, State{Status: Paused}, 2, false},
		"killed":    {func(cl *Client, c Config) error { return cl.Kill(t.Context(), c, 9) }, State{}, 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			r, c := newRecords(t)
			if err := os.MkdirAll(r.s.Path("run"), 0o700); err != nil {
				t.Fatal(err)
			}
			l, err := r.listen(monitorSocket)
			if err != nil {
				t.Fatal(err)
			}
			asked := make(chan int, 1)
			go func() {
				n := 0
				defer func() { asked <- n }()
				for {
					nc, err := l.AcceptUnix()
					if err != nil {
						return
					}
					conn := newConn(nc)
					var req request
					if conn.readJSON(&req) == nil {
						if n++; req.Repeated != (n > 1) {
							t.Errorf("request %d is repeated: %v", n, req.Repeated)
						}
						if n == 1 {
							if test.after.Status != "" && r.saveState(c.ID, test.after) != nil {
								return
							}
						} else {
							_ = conn.writeJSON(response{})
						}
					}
					_ = conn.Close()
				}
			}()
			err = test.ask(&Client{Records: r}, c)
			if gone := errors.Is(err, errMonitorGone); gone != test.gone || err != nil && !gone {
				t.Errorf("the client says %v", err)
			}
			l.Close()
			if n := <-asked; n != test.asked {
				t.Errorf("it has asked %d times", n)
			}
		})
	}
}

// TestWaitRemoved waits for a container that is removed meanwhile: nobody knows
// how it ended.
func TestWaitRemoved(t *testing.T) {
	r, c := newRecords(t)
	cl := &Client{Records: r}
	if st, err := cl.Wait(t.Context(), c); err != nil || st.Status != Created {
		t.Errorf("one that is there: %+v, %v", st, err)
	}
	if err := os.RemoveAll(r.Dir(c.ID)); err != nil {
		t.Fatal(err)
	}
	if st, err := cl.Wait(t.Context(), c); !errors.Is(err, ErrNotFound) {
		t.Errorf("one that was removed: %+v, %v", st, err)
	}
}
