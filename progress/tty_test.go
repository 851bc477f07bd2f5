// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

// view runs a script of events in fake time and hands the terminal to look.
func view(t *testing.T, e *emulator, opts TTYOptions, run func(s script, look func() string)) string {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := newTTY(e, e.size, opts)
		s := newScript(d)
		run(s, func() string {
			time.Sleep(3 * frameEvery / 2)
			synctest.Wait()
			if e.hidden || e.noWrap {
				t.Error("between two frames the cursor is hidden or line wrap off")
			}
			if e.x != 0 {
				t.Errorf("the cursor is in column %d", e.x)
			}
			return e.screen()
		})
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		d.Event(Event{Vertex: "late", Start: &Start{Name: "late"}})
		d.Close()
	})
	if e.hidden || e.noWrap {
		t.Error("the terminal is left with the cursor hidden or line wrap off")
	}
	return e.all()
}

func TestTTY(t *testing.T) {
	e := newEmulator(t, 60, 24)
	got := view(t, e, TTYOptions{Color: true}, func(s script, look func() string) {
		s.sink.Event(Event{Plan: &Plan{Vertices: 5}})
		s.begin("1", "[build 1/4] FROM debian:12").done("1", Done{Cached: true, Result: digest.FromString("")})
		s.begin("2", "[build 2/4] COPY . .").at(0.5).done("2", Done{})
		s.begin("3", "[build 3/4] RUN make")
		for i := range 9 {
			s.log("3", fmt.Sprintf("cc -c file%d.c\n", i))
		}
		s.log("3", "linking").at(2)
		sameText(t, look(), `[+] Building 2.1s (2/5)
 => CACHED [build 1/4] FROM debian:12                  0.0s
 => [build 2/4] COPY . .                               0.5s
 => [build 3/4] RUN make                               1.6s
 => => # cc -c file4.c
 => => # cc -c file5.c
 => => # cc -c file6.c
 => => # cc -c file7.c
 => => # cc -c file8.c
 => => # linking
`)
		s.at(2.5).done("3", Done{}).begin("4", "[build 4/4] RUN false")
		s.at(3).done("4", Done{Err: errors.New("exit code: 1")})
		s.begin("5", "[other 1/1] RUN sleep 1000").done("5", Done{Err: context.Canceled})
		s.begin("6", "exporting to image").at(3.5).done("6", Done{Result: digest.FromString("")})
		s.output("w", Warning, "MaintainerDeprecated: use a label, it says the same and is not deprecated (Dockerfile:2)\n")
	})
	sameText(t, got, `[+] Building 3.5s (6/6) FAILED
 => CACHED [build 1/4] FROM debian:12                  0.0s
 => [build 2/4] COPY . .                               0.5s
 => [build 3/4] RUN make                               2.0s
 => ERROR [build 4/4] RUN false                        0.5s
 => CANCELED [other 1/1] RUN sleep 1000                0.0s
 => exporting to image                                 0.5s
 => => sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e464...

1 warning:
 - MaintainerDeprecated: use a label, it says the same and i
s not deprecated (Dockerfile:2)
`)
}

func TestTTYAmounts(t *testing.T) {
	e := newEmulator(t, 100, 24)
	layer := func(i int, action string, n int64, done bool) Status {
		return Status{ID: fmt.Sprintf("3f4ca61aafc%d", i), Action: action, Current: n, Total: 40_000_000, Bytes: true, Done: done}
	}
	got := view(t, e, TTYOptions{}, func(s script, look func() string) {
		s.sink.Event(Event{Plan: &Plan{Title: "Pulling", Vertices: 1}})
		s.begin("p", "pull debian:12")
		s.status("p", layer(0, "downloading", 0, false)).status("p", layer(1, "downloading", 0, false))
		s.status("p", Status{ID: "lock", Action: "waiting for another pull"})
		s.at(1).status("p", layer(0, "downloading", 10_000_000, false)).status("p", layer(1, "downloading", 40_000_000, true))
		sameText(t, look(), `[+] Pulling 1.1s (0/1)
 => pull debian:12                                                                             1.1s
 => => downloading 3f4ca61aafc0 [=====>              ] 10.0MB / 40.0MB 8.7MB/s 4s left         1.1s
 => => waiting for another pull                                                                1.1s
 => => 1/3 done
`)
		s.at(2).status("p", layer(0, "unpacking", 0, false))
		s.status("p", Status{ID: "lock", Action: "waiting for another pull", Done: true})
		s.status("p", Status{ID: "files", Action: "reading", Current: 7})
		sameText(t, look(), `[+] Pulling 2.1s (0/1)
 => pull debian:12                                                                             2.1s
 => => unpacking 3f4ca61aafc0 [>                   ] 0B / 40.0MB                               0.1s
 => => reading files 7                                                                         0.1s
 => => 2/4 done
`)
		e.resize(40, 24)
		sameText(t, look(), `[+] Pulling 2.2s (0/1)
 => pull debian:12                 2.2s
 => => unpacking 3f... 0B / 40.0MB 0.2s
 => => reading files 7             0.2s
 => => 2/4 done
`)
		s.done("p", Done{})
	})
	sameText(t, got, "[+] Pulling 2.3s (1/1) FINISHED\n => pull debian:12                 2.3s\n")
}

func TestTTYMoreThanFits(t *testing.T) {
	e := newEmulator(t, 50, 10)
	got := view(t, e, TTYOptions{}, func(s script, look func() string) {
		s.begin("slow", "[slow 1/1] RUN sleep 100").log("slow", "zzz\n")
		for i := range 20 {
			v := fmt.Sprintf("[b %d/20] RUN x", i+1)
			s.begin(v, v).at(float64(i+1)/10).done(v, Done{Cached: i%2 == 0})
		}
		s.begin("last", "[c 1/1] RUN y").log("last", "1\n2\n3\n")
		sameText(t, look(), `[+] Building 2.1s (20/22)
 => [slow 1/1] RUN sleep 100                 2.1s
 => => # zzz
 => [b 20/20] RUN x                          0.1s
 => [c 1/1] RUN y                            0.1s
 => => # 1
 => => # 2
 => => # 3
 => ... 19 done (10 cached)
`)
		for i := range 9 {
			v := fmt.Sprintf("[d %d/9] RUN z", i+1)
			s.begin(v, v).log(v, "output\n")
		}
		sameText(t, look(), `[+] Building 2.2s (20/31)
 => [slow 1/1] RUN sleep 100                 2.2s
 => [c 1/1] RUN y                            0.2s
 => [d 1/9] RUN z                            0.1s
 => [d 2/9] RUN z                            0.1s
 => [d 3/9] RUN z                            0.1s
 => [d 4/9] RUN z                            0.1s
 => [d 5/9] RUN z                            0.1s
 => ... 4 more running, 20 done (10 cached)
`)
		for _, rows := range []int{1, 2, 3} {
			e.resize(50, rows)
			look()
			if got := e.all(); strings.Count(got, "\n") > rows {
				t.Errorf("%d rows: something scrolled off: %q", rows, got)
			}
		}
		e.resize(50, 10)
	})
	if n := strings.Count(got, " => "); n != 31 {
		t.Errorf("the final state has %d vertices:\n%s", n, got)
	}
	if n := strings.Count(got, "[+]"); n != 1 {
		t.Errorf("%d headers remain:\n%s", n, got)
	}
}

func TestTTYWidths(t *testing.T) {
	for _, cols := range []int{1, 2, 5, 9, 12, 23, 24, 30, 41, 80, 300} {
		t.Run(fmt.Sprint(cols), func(t *testing.T) {
			e := newEmulator(t, cols, 12)
			view(t, e, TTYOptions{Color: true}, func(s script, look func() string) {
				s.begin("1", "[漢字 1/2] RUN エコー こんにちは世界 👩\u200d🚀🎉❤\ufe0f e\u0301e\u0301 "+strings.Repeat("漢", 100))
				s.log("1", strings.Repeat("世界🎉", 50)+"\n"+strings.Repeat("x", 500)+"\n")
				s.status("1", Status{ID: "漢", Action: "downloading", Current: 1, Total: 3, Bytes: true})
				for range 3 {
					s.log("1", "more\n")
					look()
					for y, row := range e.grid {
						if n := len(row); n != cols {
							t.Fatalf("row %d has %d cells", y, n)
						}
						if cols > 2 && row[cols-1] != " " {
							t.Errorf("row %d uses the last column: %q", y, rowText(row))
						}
					}
				}
				if cols >= timeCols && !strings.HasSuffix(rowText(e.grid[1]), "s") {
					t.Errorf("no time at the edge: %q", rowText(e.grid[1]))
				}
			})
			if n := strings.Count(e.all(), "\n"); n != 2 && cols > 2 {
				t.Errorf("the final state has %d lines:\n%s", n, e.all())
			}
		})
	}
}

func TestTTYHostileOutput(t *testing.T) {
	e := newEmulator(t, 60, 12) // fails at any sequence that isn't the view's own
	view(t, e, TTYOptions{}, func(s script, look func() string) {
		s.begin("1", "RUN \x1b[2J\x1b]0;title\x07evil\nname")
		for _, evil := range []string{
			"\x1b[2J\x1b[H\x1b[?1049h\x1b[?25l", "\x1b]52;c;aGk=\x07", "\x1bP+q544e\x1b\\", "\x1b#8\x1bc\x0e",
			"\r\n\r\n\v\f\b\b\b\b", "\x9b2J\u009b2J\u0090q\u009c", "\x1b[", "31m", "\u202eevil\u2069", "\xff\xfe\x00",
		} {
			s.log("1", evil).output("1", Stderr, evil).status("1", Status{ID: evil, Action: evil, Total: 1})
			look()
		}
		s.log("1", "\nfine\n").output("w", Warning, "\x1b[2Jcareful")
		got := look()
		if !strings.HasPrefix(got, "[+] Building") || !strings.Contains(got, "RUN evil name") {
			t.Errorf("got:\n%s", got)
		}
	})
	if got := e.all(); !strings.HasSuffix(got, "\n1 warning:\n - careful\n") {
		t.Errorf("got:\n%s", got)
	}
}

func TestTTYBarsInOutput(t *testing.T) {
	e := newEmulator(t, 60, 12)
	view(t, e, TTYOptions{}, func(s script, look func() string) {
		s.begin("1", "RUN npm ci").log("1", "start\n")
		for i := range 101 {
			s.log("1", fmt.Sprintf("\r\x1b[K%3d%% [%s]", i, strings.Repeat("#", i/10)))
		}
		sameText(t, look(), `[+] Building 0.1s (0/1)
 => RUN npm ci                                         0.1s
 => => # start
 => => # 100% [##########]
`)
	})
}

func TestTTYWritesAreFew(t *testing.T) {
	e := newEmulator(t, 80, 24)
	view(t, e, TTYOptions{}, func(s script, _ func() string) {
		s.begin("1", "RUN yes")
		for range 10_000 { // in one second
			time.Sleep(100 * time.Microsecond)
			s.log("1", "yes\n")
		}
		s.log("1", strings.Repeat("yes\n", 1_000_000))
		s.done("1", Done{})
	})
	if e.writes > 12 {
		t.Errorf("%d writes for 10,000 lines in a second", e.writes)
	}
	if e.bytes > 12*24*80 {
		t.Errorf("%d bytes", e.bytes)
	}
}

func TestTTYShortBuildIsOneWrite(t *testing.T) {
	e := newEmulator(t, 80, 24)
	view(t, e, TTYOptions{}, func(s script, _ func() string) {
		s.begin("1", "FROM a").done("1", Done{Cached: true})
		time.Sleep(10 * time.Millisecond)
	})
	if e.writes != 1 {
		t.Errorf("%d writes", e.writes)
	}
	quiet := newEmulator(t, 80, 24)
	view(t, quiet, TTYOptions{}, func(script, func() string) {})
	if quiet.writes != 0 {
		t.Errorf("%d writes without events", quiet.writes)
	}
}

func TestTTYRedrawsWhatChanged(t *testing.T) {
	e := newEmulator(t, 80, 24)
	view(t, e, TTYOptions{}, func(s script, look func() string) {
		for i := range 15 {
			v := fmt.Sprintf("[b %d/15] RUN something that is named at some length", i)
			s.begin(v, v).done(v, Done{})
		}
		s.begin("1", "RUN sleep").at(0.3)
		frames, before := e.sent()
		s.at(0.6)
		writes, bytes := e.sent()
		if n := (bytes - before) / (writes - frames); n > 300 {
			t.Errorf("%d bytes a frame", n)
		}
		// Somebody else writes on the screen: wiped off within a second.
		e.scribble(5, "junk")
		s.at(2)
		if got := e.screen(); strings.Contains(got, "junk") {
			t.Errorf("got:\n%s", got)
		}
	})
}

// slowTerminal blocks until it is let go.
type slowTerminal struct {
	free chan struct{}
	bytes.Buffer
}

func (s *slowTerminal) Write(p []byte) (int, error) {
	<-s.free
	return s.Buffer.Write(p)
}

func TestTTYBlockedTerminalBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &slowTerminal{free: make(chan struct{})}
		d := newTTY(w, func() (int, int) { return 80, 24 }, TTYOptions{})
		s := newScript(d).begin("1", "RUN yes").at(1) // a frame is stuck
		for range 10_000 {
			s.log("1", "yes\n")
		}
		s.done("1", Done{})
		close(w.free)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if !strings.Contains(w.String(), "FINISHED") {
			t.Errorf("got %q", w.String())
		}
	})
}

func TestTTYWriteError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := errors.New("input/output error")
		c := &counter{err: gone}
		d := newTTY(c, func() (int, int) { return 80, 24 }, TTYOptions{})
		newScript(d).begin("1", "RUN yes").at(3)
		if err := d.Close(); !errors.Is(err, gone) {
			t.Errorf("got %v", err)
		}
		if c.writes != 1 {
			t.Errorf("%d writes after an error", c.writes-1)
		}
	})
}

func TestTTYResumed(t *testing.T) {
	e := newEmulator(t, 60, 12)
	got := func() string {
		synctest.Test(t, func(t *testing.T) {
			d := newTTY(e, e.size, TTYOptions{})
			s := newScript(d).begin("1", "RUN a").at(1)
			io.WriteString(e, "^Z\r\n[1]+ Stopped\r\n$ fg\r\n")
			d.resumed <- nil
			s.at(2).done("1", Done{})
			d.Close()
		})
		return e.all()
	}()
	sameText(t, got, `[+] Building 0.9s (0/1)
 => RUN a                                              0.9s
^Z
[1]+ Stopped
$ fg
[+] Building 2.0s (1/1) FINISHED
 => RUN a                                              2.0s
`)
}

func TestTTYFromManyGoroutines(t *testing.T) {
	e := newEmulator(t, 80, 24)
	d := newTTY(e, e.size, TTYOptions{})
	storm(d)
	d.Close()
	if got := e.all(); !strings.Contains(got, "(160/160) FINISHED") || !strings.Contains(got, "160 warnings:") {
		t.Errorf("got:\n%s", got)
	}
}

func BenchmarkTTYLog(b *testing.B) {
	d := newTTY(io.Discard, func() (int, int) { return 80, 24 }, TTYOptions{})
	defer d.Close()
	benchmarkLog(b, d)
}

func BenchmarkTTYStatus(b *testing.B) {
	d := newTTY(io.Discard, func() (int, int) { return 80, 24 }, TTYOptions{})
	defer d.Close()
	benchmarkStatus(b, d)
}

// BenchmarkTTYCached is a rebuild of 20 steps with nothing to do.
func BenchmarkTTYCached(b *testing.B) {
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		benchmarkCached(newTTY(io.Discard, func() (int, int) { return 80, 24 }, TTYOptions{}), now)
	}
}

// BenchmarkTTYFrame draws a full screen of running steps with output.
func BenchmarkTTYFrame(b *testing.B) {
	d := newTTY(io.Discard, func() (int, int) { return 120, 50 }, TTYOptions{Color: true})
	for i := range 10 {
		v := fmt.Sprint(i)
		d.board.apply(Event{Vertex: v, Time: clock(), Start: &Start{Name: "[build 3/7] RUN make"}})
		for range 6 {
			d.board.apply(Event{Vertex: v, Log: &Log{Stream: Stdout, Data: []byte("cc -O2 -Wall -c -o src/main.o src/main.c\n")}})
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		d.frame(false)
	}
}
