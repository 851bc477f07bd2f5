// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// collect runs data through a line buffer in pieces and returns the lines.
func collect(b lineBuffer, pieces ...[]byte) []string {
	var lines []string
	for _, data := range pieces {
		for {
			var s lineState
			data, s = b.next(data)
			if s == lineOpen {
				break
			}
			if s == lineDone {
				lines = append(lines, string(b.line))
			}
		}
	}
	if rest := b.finish(); len(rest) > 0 {
		lines = append(lines, string(rest))
	}
	return lines
}

func TestLineBuffer(t *testing.T) {
	tests := []struct {
		name, in string
		want     []string
	}{
		{"lines", "one\ntwo\n", []string{"one", "two"}},
		{"no line feed at the end", "one\ntwo", []string{"one", "two"}},
		{"empty lines", "\n\na\n\n", []string{"", "", "a", ""}},
		{"CRLF", "one\r\ntwo\r\n", []string{"one", "two"}},
		{"bar", "10%\r20%\r30%\ndone\n", []string{"30%", "done"}},
		{"bar that ends with a return", "10%\r20%\r", []string{"20%"}},
		{"bar that begins with a return", "\r10%\r20%", []string{"20%"}},
		{"spinner", "wait |\b/\b-\b\\", []string{`wait \`}},
		{"backspace on nothing", "\b\b\bx", []string{"x"}},
		{"backspace over a wide character", "a漢\bb", []string{"ab"}},
		{"colours", "\x1b[1;31mred\x1b[0m \x1b[38;2;1;2;3mx\x1b[m\n", []string{"red x"}},
		{"clear screen and home", "a\x1b[2J\x1b[1;1Hb\x1bcc\n", []string{"abc"}},
		{"title by BEL", "a\x1b]0;evil\x07b\n", []string{"ab"}},
		{"title by ST", "a\x1b]0;evil\x1b\\b\n", []string{"ab"}},
		{"title without end", "a\x1b]0;evil\nb\n", []string{"a", "b"}},
		{"device control string", "a\x1bPq#0;2;0;0;0\x1b\\b", []string{"ab"}},
		{"control sequence without end", "a\x1b[31\nb", []string{"a", "b"}},
		{"character set", "a\x1b(0lqk\x1b(Bb", []string{"alqkb"}},
		{"alternate screen", "\x1b[?1049hx\x1b[?1049l", []string{"x"}},
		{"sequence called off", "a\x1b[3\x18b", []string{"ab"}},
		{"C1 control sequence", "a\u009b31mb\u0085c", []string{"abc"}},
		{"C1 string", "a\u009d0;evil\x07b", []string{"ab"}},
		{"bytes that aren't UTF-8", "a\xffb\xe6\xbc\nc\x9b31m", []string{"a\ufffdb\ufffd", "c\ufffd31m"}},
		{"controls", "a\x00\x01\x07\x0e\x0f\x7fb", []string{"ab"}},
		{"tab", "a\tb\t\tc", []string{"a       b               c"}},
		{"wide and combining", "漢字 e\u0301 👩\u200d🚀 ❤\ufe0f", []string{"漢字 e\u0301 👩\u200d🚀 ❤\ufe0f"}},
		{"direction", "a\u202eb\u2066c\u200fd\ufeffe\u2028f", []string{"abcdef"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := lineBuffer{max: 1000, tabs: true}
			if got := collect(b, []byte(tt.in)); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			for i := range len(tt.in) + 1 {
				if got := collect(b, []byte(tt.in[:i]), []byte(tt.in[i:])); !slices.Equal(got, tt.want) {
					t.Errorf("cut at %d: got %q, want %q", i, got, tt.want)
				}
			}
			var single [][]byte
			for i := range len(tt.in) {
				single = append(single, []byte(tt.in[i:i+1]))
			}
			if got := collect(b, single...); !slices.Equal(got, tt.want) {
				t.Errorf("byte by byte: got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLineBufferLongLines(t *testing.T) {
	in := []byte(strings.Repeat("a", 9) + "漢" + strings.Repeat("b", 9) + "\nshort\n")
	cut := collect(lineBuffer{max: 10}, in)
	if want := []string{"aaaaaaaaab", "short"}; !slices.Equal(cut, want) {
		t.Errorf("cut: got %q, want %q", cut, want)
	}
	wrapped := collect(lineBuffer{max: 10, wrap: true}, in)
	if want := []string{"aaaaaaaaa", "漢bbbbbbb", "bb", "short"}; !slices.Equal(wrapped, want) {
		t.Errorf("wrapped: got %q, want %q", wrapped, want)
	}
	exact := collect(lineBuffer{max: 10, wrap: true}, []byte("0123456789\n0123456789"))
	if want := []string{"0123456789", "0123456789"}; !slices.Equal(exact, want) {
		t.Errorf("exact: got %q, want %q", exact, want)
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                          "plain",
		"RUN <<EOF\nmake\n\tx\nEOF\n":    "RUN <<EOF make  x EOF",
		"\x1b]0;t\x07a\x1b[31mb\u202ec ": "abc",
		"漢字":                             "漢字",
	} {
		if got := oneLine(in, 100); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	if got := oneLine("漢字", 4); got != "漢" {
		t.Errorf("cut: %q", got)
	}
}

// FuzzLineBuffer holds that output is printable, valid and bounded, and that
// it doesn't matter where the input was cut.
func FuzzLineBuffer(f *testing.F) {
	f.Add([]byte("a\x1b[31mb\r\nc\x1b]0;t\x07漢\xff\u009bx\tq\b"), uint16(3))
	f.Add([]byte("\xe6\xbc\r\xa2\x1b\x1b["), uint16(1))
	f.Fuzz(func(t *testing.T, in []byte, at uint16) {
		for _, b := range []lineBuffer{{max: 16, wrap: true}, {max: 16, tabs: true}} {
			whole := collect(b, in)
			for _, line := range whole {
				if len(line) > 16 || !utf8.ValidString(line) {
					t.Fatalf("bad line %q", line)
				}
				for _, r := range line {
					if r != '\t' && (r < ' ' || r == 0x7f || !visible(r)) {
						t.Fatalf("%q in %q", r, line)
					}
				}
			}
			i := int(at) % (len(in) + 1)
			if cut := collect(b, in[:i], in[i:]); !slices.Equal(cut, whole) {
				t.Fatalf("cut at %d: %q, whole: %q", i, cut, whole)
			}
		}
	})
}

func TestTail(t *testing.T) {
	tail := NewTail(3, 1000)
	if tail.Bytes() != nil || tail.Lines() != nil {
		t.Error("an empty tail has lines")
	}
	for _, s := range []string{"one\ntwo\nth", "ree\nfo", "ur"} {
		tail.Write([]byte(s))
	}
	if got, want := tail.Lines(), []string{"two", "three", "four"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	tail.Add(Stderr, []byte("error: \x1b[31mbad\x1b[0m\n"))
	tail.Add(Stdout, []byte("th\n"))
	if got, want := tail.Lines(), []string{"three", "error: bad", "fourth"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := string(tail.Bytes()); got != "three\nerror: bad\nfourth\n" {
		t.Errorf("bytes %q", got)
	}
	if tail.Omitted() != 2 {
		t.Errorf("omitted %d", tail.Omitted())
	}
}

func TestTailIsBounded(t *testing.T) {
	tail := NewTail(20, 100)
	for range 1000 {
		tail.Write([]byte("0123456789012345678901234567890123456789\n"))
	}
	if got := tail.Lines(); len(got) != 2 || tail.Omitted() != 998 {
		t.Errorf("%d lines, %d omitted", len(got), tail.Omitted())
	}
	tail.Write(bytes.Repeat([]byte("x"), 1<<20))
	if got := tail.Bytes(); len(got) > 300 {
		t.Errorf("%d bytes", len(got))
	}
	if n := testing.AllocsPerRun(100, func() { tail.Write([]byte("0123456789\n")) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
