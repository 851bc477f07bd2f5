// SPDX-License-Identifier: Apache-2.0

package secrets

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

func newSet(t testing.TB, values ...string) *Set {
	t.Helper()
	m := map[string][]byte{}
	for i, v := range values {
		m[string(rune('a'+i))] = []byte(v)
	}
	set, short := New(m)
	if len(short) > 0 {
		t.Fatalf("too short: %v", short)
	}
	return set
}

// find writes data in pieces of size bytes.
func find(s *Set, data []byte, size int) *FoundError {
	f := NewFinder(s)
	for len(data) > 0 {
		n := min(size, len(data))
		if _, err := f.Write(data[:n]); err != nil {
			var found *FoundError
			errors.As(err, &found)
			return found
		}
		data = data[n:]
	}
	return nil
}

// wrap breaks text into lines.
func wrap(text string, width int, end string) string {
	var b strings.Builder
	for len(text) > width {
		b.WriteString(text[:width] + end)
		text = text[width:]
	}
	return b.String() + text
}

// TestEveryForm holds that a value is found in each form, wherever it stands
// and wherever the stream is cut.
func TestEveryForm(t *testing.T) {
	long := strings.Repeat("0123456789abcdefghij/+?<>&\"\n", 40)
	for _, value := range []string{"p@ss/w+rd?", "exactly8", "two\nlines \"quoted\" <&>", long, "\x00\xff\x80binary\x01"} {
		set := newSet(t, "  "+value+"\n")
		std, safe := base64.StdEncoding, base64.URLEncoding
		quoted, _ := json.Marshal(value)
		forms := map[string]string{
			"plain": value, "hex": hex.EncodeToString([]byte(value)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(value))),
			"query": url.QueryEscape(value), "path": url.PathEscape(value), "lower query": regexp.MustCompile("%..").ReplaceAllStringFunc(url.QueryEscape(value), strings.ToLower),
			"base64 0": std.EncodeToString([]byte(value)), "base64 1": std.EncodeToString([]byte("x" + value + "y")), "base64 2": std.EncodeToString([]byte("xy" + value + "\n")),
			"url 0": safe.EncodeToString([]byte(value)), "url 1": safe.EncodeToString([]byte("x" + value)), "url 2": safe.EncodeToString([]byte("xy" + value)),
			"basic auth": std.EncodeToString([]byte("user:" + value)),
			"wrapped 76": wrap(std.EncodeToString([]byte("x"+long+value)), 76, "\n"), "wrapped 64": wrap(std.EncodeToString([]byte(value+long)), 64, "\r\n"),
		}
		if value[0] != 0 {
			forms["json"] = string(quoted)
		}
		for name, form := range forms {
			if strings.HasPrefix(name, "wrapped") && len(value) < 20 {
				continue // fits into a line
			}
			for _, size := range []int{1, 7, 1 << 20} {
				data := "before " + form + " after"
				got := find(set, []byte(data), size)
				if got == nil {
					t.Errorf("%s of %.20q in pieces of %d is not found", name, value, size)
					continue
				}
				if got.ID != "a" || got.End < 8 || got.End > int64(len("before ")+len(form)) {
					t.Errorf("%s of %.20q in pieces of %d: %+v", name, value, size, got)
				}
			}
			if id, ok := set.Find(form); !strings.HasPrefix(name, "wrapped") && (!ok || id != "a") {
				t.Errorf("Find: %s of %.20q is not found", name, value)
			}
		}
	}
}

func TestNothingElseIsFound(t *testing.T) {
	set := newSet(t, "correct horse battery", "-----BEGIN KEY-----\nabcdefghijklmnopqrstuvwxyz\n")
	for _, text := range []string{"", "correct horse batter", "orrect horse battery", "-----BEGIN KEY-----\n", "horse battery correct"} {
		if got := find(set, []byte(text), 3); got != nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	if got := find(set, noise, 1<<16); got != nil {
		t.Errorf("in noise: %+v", got)
	}
	for _, at := range []int{0, 1<<16 - 3, 1<<20 - 30} {
		data := bytes.Clone(noise)
		end := at + copy(data[at:], "correct horse battery")
		if got := find(set, data, 1<<16); got == nil || got.End != int64(end) || got.ID != "a" {
			t.Errorf("at %d: %+v", at, got)
		}
	}
}

func TestShortValues(t *testing.T) {
	set, short := New(map[string][]byte{"a": []byte(" seven77 \n"), "b": []byte("\n"), "c": nil})
	if set != nil || len(short) != 1 || short[0] != "a" {
		t.Errorf("set %v, short %v", set, short)
	}
	if got := set.Blank("seven77"); got != "seven77" {
		t.Errorf("the set of nothing blanks to %q", got)
	}
}

func TestBlanker(t *testing.T) {
	set := newSet(t, "topsecret", "topsecret and more", "line one\nline two")
	const text = "topsecret, topsecret and m, topsecret and more; topsecrettopsecret tops line one\nline two\nline one\n" + "dG9wc2VjcmV0" + " topsecre"
	const want = "***, *** and m, ***; ****** tops ***\nline one\n" + "***" + " topsecre"
	for size := 1; size <= len(text); size++ {
		var got bytes.Buffer
		b := NewBlanker(set, func(p []byte) { got.Write(p) })
		for i := 0; i < len(text); i += size {
			b.Write([]byte(text[i:min(i+size, len(text))]))
		}
		b.Close()
		if got.String() != want {
			t.Fatalf("in pieces of %d:\n%q, want\n%q", size, got.String(), want)
		}
	}
}

// TestBlankerHoldsLittleBack holds that output which can't be part of a value
// is passed on at once.
func TestBlankerHoldsLittleBack(t *testing.T) {
	var got bytes.Buffer
	b := NewBlanker(newSet(t, "topsecret"), func(p []byte) { got.Write(p) })
	b.Write([]byte("Password? "))
	if got.String() != "Password? " {
		t.Errorf("passed on: %q", got.String())
	}
}

// FuzzBlanker holds that what is passed on never has the value, and is the text
// if that hasn't.
func FuzzBlanker(f *testing.F) {
	f.Add([]byte("hunter2hunter2"), []byte("x hunter2hunter2hunter2 y"), 3)
	f.Add([]byte("aaaaaaaa"), []byte("aaaaaaaaaaaaaaaaa"), 1)
	f.Fuzz(func(t *testing.T, value, text []byte, size int) {
		set, _ := New(map[string][]byte{"v": value})
		if set == nil || size < 1 {
			return
		}
		var got bytes.Buffer
		b := NewBlanker(set, func(p []byte) { got.Write(p) })
		for i := 0; i < len(text); i += min(size, len(text)) {
			b.Write(text[i:min(i+size, len(text))])
		}
		b.Close()
		trimmed := bytes.TrimSpace(value)
		if !bytes.Contains(trimmed, []byte("*")) && bytes.Contains(got.Bytes(), trimmed) {
			t.Errorf("%q is passed on: %q", trimmed, got.Bytes())
		}
		if id, found := set.Find(string(text)); !found && !bytes.Equal(got.Bytes(), text) {
			t.Errorf("%q became %q", text, got.Bytes())
		} else if found != (find(set, text, max(1, size)) != nil) && id == "v" {
			t.Errorf("Find says %v, Finder otherwise", found)
		}
	})
}

func BenchmarkFinder(b *testing.B) {
	set := newSet(b, strings.Repeat("secret", 5), "another secret value", "third/secret+value?")
	r := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		f := NewFinder(set)
		for range 4 {
			if _, err := f.Write(data[:1<<18]); err != nil {
				b.Fatal(err)
			}
		}
	}
}
