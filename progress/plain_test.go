// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

// script sends events as a build would, in the fake time of synctest.
type script struct {
	sink  Sink
	start time.Time
}

func newScript(sink Sink) script { return script{sink, time.Now()} }

func (s script) at(seconds float64) script {
	time.Sleep(time.Until(s.start.Add(time.Duration(seconds * float64(time.Second)))))
	synctest.Wait()
	return s
}

func (s script) begin(vertex, name string) script {
	s.sink.Event(Event{Vertex: vertex, Time: time.Now(), Start: &Start{Name: name}})
	return s
}

func (s script) log(vertex, text string) script { return s.output(vertex, Stdout, text) }

func (s script) output(vertex string, stream Stream, text string) script {
	data := []byte(text)
	s.sink.Event(Event{Vertex: vertex, Time: time.Now(), Log: &Log{Stream: stream, Data: data}})
	for i := range data {
		data[i] = '!' // a sink must not keep it
	}
	return s
}

func (s script) done(vertex string, d Done) script {
	s.sink.Event(Event{Vertex: vertex, Time: time.Now(), Done: &d})
	return s
}

func (s script) status(vertex string, st Status) script {
	s.sink.Event(Event{Vertex: vertex, Time: time.Now(), Status: &st})
	return s
}

func TestPlain(t *testing.T) {
	tests := []struct {
		name string
		run  func(s script)
		want string
	}{
		{"one after the other", func(s script) {
			s.begin("1", "[build 1/3] FROM debian:12").done("1", Done{Cached: true})
			s.begin("2", "[build 2/3] COPY . .").at(0.04).done("2", Done{})
			s.begin("3", "[build 3/3] RUN make").at(0.163).log("3", "cc -c main.c\n").at(1.24).done("3", Done{})
		}, `
#1 [build 1/3] FROM debian:12
#1 CACHED

#2 [build 2/3] COPY . .
#2 DONE 0.0s

#3 [build 3/3] RUN make
#3 0.123 cc -c main.c
#3 DONE 1.2s

`},
		{"failures", func(s script) {
			s.begin("1", "RUN false").at(1).done("1", Done{Err: errors.New("\nDockerfile:3: exit code: 1\nmore\n")})
			s.begin("2", "RUN sleep").done("2", Done{Err: fmt.Errorf("run: %w", context.Canceled)})
		}, `
#1 RUN false
#1 ERROR: Dockerfile:3: exit code: 1

#2 RUN sleep
#2 CANCELED

`},
		{"half lines and two streams", func(s script) {
			s.begin("1", "RUN x").log("1", "half ").output("1", Stderr, "warn")
			s.at(0.5).output("1", Stderr, "ing\n").at(0.7).log("1", "line\nno end")
			s.at(1).done("1", Done{})
		}, `
#1 RUN x
#1 0.500 warning
#1 0.700 half line
#1 1.000 no end
#1 DONE 1.0s

`},
		{"several at once", func(s script) {
			s.begin("a", "[a 1/1] RUN a").begin("b", "[b 1/1] RUN b").begin("c", "[c 1/1] RUN c")
			s.at(0.1).log("a", "a1\n").log("b", "b1\n").log("a", "a2\n")
			s.at(0.2).log("b", "b2\n").done("c", Done{Cached: true})
			s.at(0.5).log("a", "a3\n").done("a", Done{})
			s.at(0.6).log("b", "b3\n").done("b", Done{})
		}, `
#1 [a 1/1] RUN a
#1 0.100 a1
#1 0.100 a2
#1 0.500 a3
#1 DONE 0.5s

#3 [c 1/1] RUN c
#3 CACHED

#2 [b 1/1] RUN b
#2 0.100 b1
#2 0.200 b2
#2 0.600 b3
#2 DONE 0.6s

`},
		{"a silent one is interrupted", func(s script) {
			s.begin("a", "RUN a").log("a", "a1\n").begin("b", "RUN b").log("b", "b1\n")
			s.at(2).log("b", "b2\n")
			s.at(5).log("a", "a2\n").at(6).done("a", Done{}).done("b", Done{})
		}, `
#1 RUN a
#1 0.000 a1
#1 ...

#2 RUN b
#2 0.000 b1
#2 2.000 b2
#2 ...

#1 RUN a
#1 5.000 a2
#1 DONE 6.0s

#2 RUN b
#2 DONE 6.0s

`},
		{"nobody waits for long", func(s script) {
			s.begin("a", "RUN a").begin("b", "RUN b").log("b", "b1\n")
			for i := range 45 {
				s.at(float64(i)/10).log("a", fmt.Sprintf("a%d\n", i))
			}
			s.done("a", Done{}).done("b", Done{})
		}, "\n#1 RUN a\n" + plainLines("#1", "a", 0, 30) + "#1 ...\n\n#2 RUN b\n#2 0.000 b1\n#2 ...\n\n#1 RUN a\n" +
			plainLines("#1", "a", 30, 45) + "#1 DONE 4.4s\n\n#2 RUN b\n#2 DONE 4.4s\n\n"},
		{"amounts at start and end", func(s script) {
			s.begin("1", "pull debian:12")
			for i := range 201 {
				s.at(float64(i)/20).status("1", Status{
					ID: "3f4ca61aafcd", Action: "downloading",
					Current: int64(i) * 243_000, Total: 48_600_000, Bytes: true, Done: i == 200,
				})
			}
			s.status("1", Status{ID: "lock", Action: "waiting for another build"})
			s.status("1", Status{ID: "files", Action: "reading", Current: 3, Total: 7, Done: true})
			s.done("1", Done{Result: digest.FromString("")})
		}, `
#1 pull debian:12
#1 downloading 3f4ca61aafcd 0B / 48.6MB
#1 downloading 3f4ca61aafcd 48.6MB / 48.6MB 10.0s done
#1 waiting for another build
#1 reading files 3 / 7 done
#1 digest sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
#1 DONE 10.0s

`},
		{"bars", func(s script) {
			s.begin("1", "RUN curl")
			for i := range 250 {
				s.at(float64(i)/10).log("1", fmt.Sprintf("\r%d", i))
			}
			s.log("1", "\n").done("1", Done{})
		}, `
#1 RUN curl
#1 10.000 99
#1 20.000 199
#1 24.900 249
#1 DONE 24.9s

`},
		{"hostile", func(s script) {
			s.begin("1", "RUN \x1b[2J\n#2 DONE").log("1", "\x1b]0;t\x07\x1b[Aa\rb\x00\xff\n").done("1", Done{Err: errors.New("\x1b[2Jx")})
		}, "\n#1 RUN  #2 DONE\n#1 0.000 b\ufffd\n#1 ERROR: x\n\n"},
		{"warnings", func(s script) {
			s.output("warnings", Warning, "MaintainerDeprecated: (Dockerfile:2)\nOther: x\n")
			s.begin("1", "RUN x").output("1", Warning, "no limit")
			s.done("1", Done{})
		}, `
WARNING: MaintainerDeprecated: (Dockerfile:2)
WARNING: Other: x
#1 RUN x
#1 WARNING: no limit
#1 DONE 0.0s

`},
		{"events out of order", func(s script) {
			s.log("x", "never started\n").done("x", Done{}).log("x", "late\n").begin("x", "again").done("x", Done{})
			s.done("y", Done{Cached: true})
			s.begin("z", "open").at(1).log("z", "no end")
		}, `
#1 x
#1 0.000 never started
#1 DONE 0.0s

#1 x
#1 0.000 late

#2 again
#2 DONE 0.0s

#3 y
#3 CACHED

#4 open
#4 1.000 no end
`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				p := NewPlain(&out, PlainOptions{})
				tt.run(newScript(p))
				if err := p.Close(); err != nil {
					t.Error(err)
				}
				sameText(t, "\n"+out.String(), tt.want)
				p.Event(Event{Vertex: "late", Start: &Start{Name: "late"}})
				p.Close()
				sameText(t, "\n"+out.String(), tt.want)
			})
		})
	}
}

func plainLines(number, text string, from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, "%s %.3f %s%d\n", number, float64(i)/10, text, i)
	}
	return b.String()
}

func sameText(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s\n(as Go: %q)", got, want, got)
	}
}

// counter counts the writes it gets.
type counter struct {
	mu     sync.Mutex
	writes int
	lines  int
	err    error
}

func (c *counter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes++
	c.lines += bytes.Count(p, []byte("\n"))
	return len(p), c.err
}

func TestPlainWritesAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counter{}
		p := NewPlain(c, PlainOptions{})
		s := newScript(p).begin("1", "RUN yes")
		for range 10_000 { // in one second
			time.Sleep(100 * time.Microsecond)
			s.log("1", "yes\n")
		}
		s.done("1", Done{})
		p.Close()
		if c.lines != 10_003 {
			t.Errorf("%d lines", c.lines)
		}
		if c.writes > 20 {
			t.Errorf("%d writes for 10,000 lines in a second", c.writes)
		}
	})
}

func TestPlainShowsSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counter{}
		p := NewPlain(c, PlainOptions{})
		s := newScript(p).begin("1", "RUN a").log("1", "one\n").at(flushEvery.Seconds())
		if c.lines != 2 {
			t.Errorf("%d lines after %v", c.lines, flushEvery)
		}
		s.begin("2", "RUN b").at(4)
		if c.lines != 5 {
			t.Errorf("%d lines, the second vertex is still hidden", c.lines)
		}
		p.Close()
	})
}

func TestPlainHoldsBoundedOutput(t *testing.T) {
	p := NewPlain(io.Discard, PlainOptions{Hold: time.Hour}).(*plain)
	bounded := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if n := len(p.vertices["b"].held); n > holdBytes {
			t.Fatalf("%d bytes held", n)
		}
		if n := cap(p.out.buf); n > 4*(flushSize+holdBytes) {
			t.Fatalf("a buffer of %d bytes", n)
		}
	}
	s := script{sink: p}
	s.begin("a", "a").begin("b", "b").log("a", "a\n")
	line := strings.Repeat("x", 999) + "\n"
	for range 10_000 {
		s.log("b", line)
		bounded()
	}
	s.log("b", strings.Repeat(line, 10_000)) // at once
	bounded()
	p.Close()
}

func TestPlainWriteError(t *testing.T) {
	full := errors.New("no space left on device")
	c := &counter{err: full}
	p := NewPlain(c, PlainOptions{})
	s := script{sink: p}
	s.begin("1", "RUN a")
	for range 100 {
		s.log("1", strings.Repeat("x", flushSize)+"\n")
	}
	if err := p.Close(); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	if c.writes != 1 {
		t.Errorf("%d writes after an error", c.writes-1)
	}
}

// storm sends a build's events from many goroutines.
func storm(sink Sink) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				v := fmt.Sprintf("%d/%d", i, j)
				sink.Event(Event{Vertex: v, Start: &Start{Name: v}})
				for k := range 50 {
					sink.Event(Event{Vertex: v, Log: &Log{Stream: Stdout, Data: fmt.Appendf(nil, "line %d\nha", k)}})
					sink.Event(Event{Vertex: v, Log: &Log{Stream: Stderr, Data: []byte("error\n")}})
					sink.Event(Event{Vertex: v, Status: &Status{ID: "x", Action: "reading", Current: int64(k), Total: 50}})
				}
				sink.Event(Event{Vertex: "w", Log: &Log{Stream: Warning, Data: []byte("careful\n")}})
				sink.Event(Event{Vertex: v, Done: &Done{Cached: j%2 == 0}})
			}
		})
	}
	wg.Wait()
}

func TestPlainFromManyGoroutines(t *testing.T) {
	var out bytes.Buffer
	p := NewPlain(&out, PlainOptions{})
	storm(p)
	p.Close()
	counts := map[string]int{}
	for line := range strings.Lines(out.String()) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0:
		case f[0] == "WARNING:":
			counts["warning"]++
		case len(f) > 2 && f[2] == "error":
			counts["stderr"]++
		case len(f) > 2 && (f[2] == "line" || f[2] == "haline"):
			counts["stdout"]++
		case len(f) == 3 && f[2] == "ha":
			counts["rest"]++
		case f[1] == "DONE" || f[1] == "CACHED":
			counts["end"]++
		case f[1] == "reading" || f[1] == "..." || (len(f) == 2 && strings.Contains(f[1], "/")):
		default:
			t.Fatalf("mixed line %q", line)
		}
	}
	want := map[string]int{"warning": 160, "stderr": 8000, "stdout": 8000, "rest": 160, "end": 160}
	for k, n := range want {
		if counts[k] != n {
			t.Errorf("%s: %d, want %d", k, counts[k], n)
		}
	}
}

func TestCloseWhileSending(t *testing.T) {
	for name, d := range map[string]Display{
		"plain": NewPlain(io.Discard, PlainOptions{}),
		"tty":   newTTY(io.Discard, func() (int, int) { return 80, 24 }, TTYOptions{}),
		"json":  NewJSON(io.Discard),
	} {
		t.Run(name, func(t *testing.T) {
			var wg sync.WaitGroup
			wg.Go(func() { storm(d) })
			for range 3 {
				wg.Go(func() {
					if err := d.Close(); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		})
	}
}

func BenchmarkPlainLog(b *testing.B) {
	p := NewPlain(io.Discard, PlainOptions{})
	defer p.Close()
	benchmarkLog(b, p)
}

func benchmarkLog(b *testing.B, sink Sink) {
	now := time.Now()
	sink.Event(Event{Vertex: "1", Time: now, Start: &Start{Name: "RUN make"}})
	log := &Log{Stream: Stdout, Data: []byte("cc -O2 -Wall -c -o src/main.o src/main.c\n")}
	b.ReportAllocs()
	b.SetBytes(int64(len(log.Data)))
	for b.Loop() {
		sink.Event(Event{Vertex: "1", Time: now, Log: log})
	}
}

func BenchmarkPlainStatus(b *testing.B) {
	p := NewPlain(io.Discard, PlainOptions{})
	defer p.Close()
	benchmarkStatus(b, p)
}

func benchmarkStatus(b *testing.B, sink Sink) {
	now := time.Now()
	sink.Event(Event{Vertex: "1", Time: now, Start: &Start{Name: "pull debian:12"}})
	st := &Status{ID: "3f4ca61aafcd", Action: "downloading", Total: 1 << 40, Bytes: true}
	b.ReportAllocs()
	for b.Loop() {
		st.Current += 1000
		sink.Event(Event{Vertex: "1", Time: now, Status: st})
	}
}

// BenchmarkPlainCached is a rebuild of 20 steps with nothing to do.
func BenchmarkPlainCached(b *testing.B) {
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		p := NewPlain(io.Discard, PlainOptions{})
		benchmarkCached(p, now)
	}
}

func benchmarkCached(d Display, now time.Time) {
	for _, v := range [20]string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19", "20"} {
		d.Event(Event{Vertex: v, Time: now, Start: &Start{Name: "RUN make"}})
		d.Event(Event{Vertex: v, Time: now, Done: &Done{Cached: true}})
	}
	d.Close()
}
