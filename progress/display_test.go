// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAuto(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	tests := []struct {
		mode string
		want string // in the error
	}{
		{mode: ""}, {mode: "auto"}, {mode: "plain"}, {mode: "quiet"}, {mode: "rawjson"},
		{"tty", `progress mode "tty" needs a terminal, and`},
		{"fancy", `unknown progress mode "fancy" (there are auto, plain, tty, quiet, rawjson)`},
		{"Plain", `unknown progress mode "Plain"`},
	}
	for _, tt := range tests {
		t.Run(tt.mode, func(t *testing.T) {
			d, err := Auto(file, tt.mode)
			switch {
			case tt.want == "" && err != nil:
				t.Fatal(err)
			case tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)):
				t.Fatalf("got %v, want %s", err, tt.want)
			case err == nil:
				d.Event(Event{Vertex: "1", Start: &Start{Name: "RUN x"}})
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	got, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(got), "\n")
	if len(lines) != 5 || strings.Join(lines[:3], "") != "#1 RUN x\n#1 RUN x\n#1 RUN x\n" || !strings.HasPrefix(lines[3], "{") {
		t.Errorf("got %q", lines)
	}
}

// sinkOnly is a sink that can't be closed.
type sinkOnly struct{ n *int }

func (s sinkOnly) Event(Event) { *s.n++ }

func TestTee(t *testing.T) {
	full := errors.New("no space left on device")
	var out bytes.Buffer
	n := 0
	d := Tee(nil, NewPlain(&out, PlainOptions{}), sinkOnly{&n}, NewPlain(&counter{err: full}, PlainOptions{}), NewQuiet())
	d.Event(Event{Vertex: "1", Start: &Start{Name: "RUN x"}})
	if err := d.Close(); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	if n != 1 || out.String() != "#1 RUN x\n" {
		t.Errorf("%d events, %q", n, out.String())
	}
}

func TestJSON(t *testing.T) {
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		d := NewJSON(&out)
		s := newScript(d)
		d.Event(Event{Plan: &Plan{Title: "Building", Vertices: 2}})
		d.Event(Event{Vertex: "1", Time: time.Now(), Start: &Start{Name: "RUN <x>", Stage: "build", Location: "Dockerfile:2"}})
		s.output("1", Stderr, "\x1b[31m\xff\n").status("1", Status{ID: "a", Action: "reading", Current: 1, Total: 2, Bytes: true, Done: true})
		s.output("w", Warning, "careful\n")
		s.done("1", Done{Err: context.Canceled}).done("2", Done{Cached: true, Result: "sha256:ab"})
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		s.log("1", "late\n")
	})
	const at = `"time":"2000-01-01T00:00:00Z",`
	sameText(t, out.String(), `{`+at+`"plan":{"title":"Building","vertices":2}}
{"vertex":"1",`+at+`"start":{"name":"RUN \u003cx\u003e","stage":"build","location":"Dockerfile:2"}}
{"vertex":"1",`+at+`"log":{"stream":"stderr","data":"G1szMW3/Cg=="}}
{"vertex":"1",`+at+`"status":{"id":"a","action":"reading","current":1,"total":2,"bytes":true,"done":true}}
{"vertex":"w",`+at+`"log":{"stream":"warning","data":"Y2FyZWZ1bAo="}}
{"vertex":"1",`+at+`"done":{"error":"context canceled","canceled":true}}
{"vertex":"2",`+at+`"done":{"cached":true,"result":"sha256:ab"}}
`)
}

func TestJSONWritesAreFewAndSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counter{}
		d := NewJSON(c)
		s := newScript(d).begin("1", "RUN yes")
		for range 1000 {
			time.Sleep(time.Millisecond)
			s.log("1", "yes\n")
		}
		s.at(2)
		if c.lines != 1001 || c.writes > 20 {
			t.Errorf("%d lines in %d writes", c.lines, c.writes)
		}
		d.Close()
	})
}

func TestJSONFromManyGoroutines(t *testing.T) {
	var out bytes.Buffer
	d := NewJSON(&out)
	storm(d)
	d.Close()
	dec, n := json.NewDecoder(&out), 0
	for {
		var e jsonEvent
		if err := dec.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 160*153 {
		t.Errorf("%d events", n)
	}
}

func TestExcerpt(t *testing.T) {
	var many []string
	for range 60 {
		many = append(many, "line")
	}
	tests := []struct {
		name, source string
		start, end   int
		want         string
	}{
		{"in the middle", "FROM a\nENV x=y\n\n    COPY . .\nRUN make\n\nCMD x\nUSER y\n", 5, 5, `
Dockerfile:5
--------------------
   3 |
   4 |         COPY . .
   5 | >>> RUN make
   6 |
   7 |     CMD x
--------------------
`},
		{"several lines, at the end", "FROM a\r\nRUN \\\r\n\tmake", 2, 3, `
Dockerfile:2
--------------------
   1 |     FROM a
   2 | >>> RUN \
   3 | >>>         make
--------------------
`},
		{"first", "FROM a\n", 1, 1, "\nDockerfile:1\n--------------------\n   1 | >>> FROM a\n--------------------\n"},
		{"end before start", "FROM a\nRUN b\n", 2, 0, `
Dockerfile:2
--------------------
   1 |     FROM a
   2 | >>> RUN b
--------------------
`},
		{"end beyond the file", "FROM a\n", 1, 99, "\nDockerfile:1\n--------------------\n   1 | >>> FROM a\n--------------------\n"},
		{"hostile", "FROM \x1b[2Ja\u202e\n", 1, 1, "\nDockerfile:1\n--------------------\n   1 | >>> FROM a\n--------------------\n"},
		{"long", strings.Join(many, "\n"), 3, 50, "\nDockerfile:3\n--------------------\n" +
			"   1 |     line\n   2 |     line\n" + excerptOf(3, 17) + "     | ... (28 lines)\n" + excerptOf(46, 50) +
			"  51 |     line\n  52 |     line\n--------------------\n"},
		{"nothing", "", 1, 1, "\n"},
		{"no such line", "FROM a\n", 2, 2, "\n"},
		{"no line", "FROM a\n", 0, 0, "\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sameText(t, "\n"+Excerpt("Dockerfile", []byte(tt.source), tt.start, tt.end), tt.want)
		})
	}
}

func excerptOf(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintf(&b, "%4d | >>> line\n", i)
	}
	return b.String()
}

func TestSizes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0B", 999: "999B", 1000: "1.0kB", 45_600_000: "45.6MB", 999_949: "999.9kB", 999_950: "1.0MB",
		1_500_000_000: "1.5GB", 1 << 62: "4611.7PB", -1: "-1B",
	} {
		if got := string(appendSize(nil, n)); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}
