// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func finding(n int) Finding {
	return Finding{
		Rule: "Rule", URL: "https://x.invalid/rule", Message: fmt.Sprintf("message %d", n),
		File: "Dockerfile", Source: []byte("FROM a\nRUN b\nRUN c\n"), Start: 2, End: 2,
	}
}

const findingText = `WARNING: Rule - https://x.invalid/rule
message 1
Dockerfile:2
--------------------
   1 |     FROM a
   2 | >>> RUN b
   3 |     RUN c
--------------------
`

func TestFindings(t *testing.T) {
	var out bytes.Buffer
	d := NewPlain(&out, PlainOptions{})
	f := finding(1)
	d.Event(Event{Finding: &f})
	d.Event(Event{Vertex: "1", Start: &Start{Name: "RUN b"}})
	d.Event(Event{Vertex: "1", Done: &Done{Cached: true}})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	sameText(t, out.String(), "#1 RUN b\n#1 CACHED\n\n\n 1 warning found:\n\n"+findingText)

	e := newEmulator(t, 80, 24)
	got := view(t, e, TTYOptions{}, func(s script, _ func() string) {
		s.sink.Event(Event{Finding: &f})
		s.begin("1", "RUN b").at(1).done("1", Done{Cached: true})
	})
	sameText(t, got, "[+] Building 1.0s (1/1) FINISHED\n => CACHED RUN b"+strings.Repeat(" ", 59)+"1.0s\n\n 1 warning found:\n\n"+findingText)
}

func TestManyFindings(t *testing.T) {
	var all []Finding
	for n := range 7 {
		all = append(all, finding(n), finding(n))
	}
	all = all[:13]
	all[12].Message, all[12].File = "ends\x1b[2J here\nand not here", "a\nb"
	got := summary(all, true)
	for want, times := range map[string]int{
		"\x1b[33m7 warnings found:\x1b[0m": 1, "WARNING: ": explained, "--------": 4 * explained, " - Rule: message 5 (Dockerfile:2)\n": 1,
		"\x1b[2J": 0, "builder build --check shows all of them in full": 1, "message 4": 1,
	} {
		if n := strings.Count(got, want); n != times {
			t.Errorf("%q is there %d times, want %d:\n%s", want, n, times, got)
		}
	}
	if s := summary(nil, true); s != "" {
		t.Errorf("of nothing: %q", s)
	}
}

func TestFindingJSON(t *testing.T) {
	var out bytes.Buffer
	d := NewJSON(&out)
	f := finding(1)
	d.Event(Event{Finding: &f})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	var got struct{ Finding map[string]any }
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"rule": "Rule", "message": "message 1", "url": "https://x.invalid/rule", "file": "Dockerfile", "start": 2.0, "end": 2.0}
	for k, v := range want {
		if got.Finding[k] != v {
			t.Errorf("%s is %v, want %v", k, got.Finding[k], v)
		}
	}
	if s, _ := got.Finding["excerpt"].(string); !strings.Contains(s, ">>> RUN b") {
		t.Errorf("excerpt is %q", s)
	}
}
