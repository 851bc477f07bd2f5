// SPDX-License-Identifier: Apache-2.0

// Package secrets finds the values of secrets in streams of bytes, as they are
// and encoded, and blanks them out.
//
// A value is looked for without the white space around it, in these forms: its
// bytes; base64, standard and for URLs, at each of the three places that it can
// have in a longer text, with or without line breaks; hexadecimal; as URLs and
// JSON strings escape it. A value of fewer than [MinLength] bytes would be found
// everywhere and is not looked for.
package secrets

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// MinLength is the length in bytes, without white space around it, from which
// a value is looked for.
const MinLength = 8

// Mask is what stands for a value that was blanked out.
const Mask = "***"

// Set is a set of values to be found. It may be used by many goroutines. A nil
// Set has none.
type Set struct {
	all     index
	wrapped index // base64 that is long enough to be broken into lines
}

// form is one way in which a value may be written.
type form struct {
	id    string
	bytes []byte
}

// index finds forms by their last [anchor] bytes.
type index struct {
	forms   []form
	longest int
	byEnd   map[uint64][]int // numbers of forms
	filter  [1 << 10]uint64  // a bit for each hash of an anchor
	first   [256]bool        // bytes that forms begin with
}

// anchor is how many bytes are looked at to tell where a form may end.
const anchor = 8

// New makes the set of the values, which are named by their IDs. short are the
// IDs of those that are not looked for because they are too short; empty ones
// have nothing to hide.
func New(values map[string][]byte) (set *Set, short []string) {
	set = &Set{}
	for _, id := range slices.Sorted(maps.Keys(values)) {
		value := bytes.TrimSpace(values[id])
		if len(value) < MinLength {
			if len(value) > 0 {
				short = append(short, id)
			}
			continue
		}
		for _, f := range plainForms(value) {
			set.all.add(id, f)
		}
		for _, f := range base64Forms(value) {
			set.all.add(id, f)
			if len(f) > shortestLine {
				set.wrapped.add(id, f)
			}
		}
	}
	if len(set.all.forms) == 0 {
		return nil, short
	}
	return set, short
}

// shortestLine is the least length at which base64 is commonly broken into
// lines, less what may stand before a value in its first line.
const shortestLine = 16

func plainForms(value []byte) []string {
	text := string(value)
	forms := []string{text, hex.EncodeToString(value), strings.ToUpper(hex.EncodeToString(value))}
	for _, escaped := range []string{url.QueryEscape(text), url.PathEscape(text)} {
		forms = append(forms, escaped, lowerEscapes(escaped))
	}
	if utf8.Valid(value) {
		forms = append(forms, jsonString(text, true), jsonString(text, false))
	}
	slices.Sort(forms)
	return slices.Compact(forms)
}

// jsonString is what stands between the quotes of a JSON string.
func jsonString(text string, escapeHTML bool) string {
	var buf strings.Builder
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(escapeHTML)
	_ = enc.Encode(text) // a string always has a JSON form
	return strings.TrimSuffix(strings.TrimSpace(buf.String())[1:], `"`)
}

// lowerEscapes writes %2F as %2f.
func lowerEscapes(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:], bytes.ToLower(b[i+1:i+3]))
			i += 2
		}
	}
	return string(b)
}

// base64Forms are the digits of base64 that a value alone decides, when 0, 1 or
// 2 bytes of a group of three stand before it.
func base64Forms(value []byte) []string {
	var forms []string
	for before := range 3 {
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			digits := enc.EncodeToString(append(make([]byte, before), value...))
			first := (before*8 + 5) / 6
			last := (before + len(value)) * 8 / 6
			forms = append(forms, digits[first:last])
		}
	}
	slices.Sort(forms)
	return slices.Compact(forms)
}

func (x *index) add(id, text string) {
	if x.byEnd == nil {
		x.byEnd = map[uint64][]int{}
	}
	b := []byte(text)
	end := binary.LittleEndian.Uint64(b[len(b)-anchor:])
	x.byEnd[end] = append(x.byEnd[end], len(x.forms))
	x.forms = append(x.forms, form{id, b})
	x.longest = max(x.longest, len(b))
	h := hash(end)
	x.filter[h>>6] |= 1 << (h & 63)
	x.first[b[0]] = true
}

func hash(end uint64) uint64 { return end * 0x9e3779b97f4a7c15 >> 48 }

// next finds the first form that ends in data after from bytes, and of those
// that end in the same place the longest. end is -1 if there is none.
func (x *index) next(data []byte, from int) (f form, end int) {
	for end := max(from+1, anchor); end <= len(data); end++ {
		key := binary.LittleEndian.Uint64(data[end-anchor : end])
		if h := hash(key); x.filter[h>>6]&(1<<(h&63)) == 0 {
			continue
		}
		for _, i := range x.byEnd[key] {
			if c := x.forms[i]; len(c.bytes) > len(f.bytes) && bytes.HasSuffix(data[:end], c.bytes) {
				f = c
			}
		}
		if f.bytes != nil {
			return f, end
		}
	}
	return form{}, -1
}

// begun is where in data a form begins of which only the first part is there:
// len(data) if there is none.
func (x *index) begun(data []byte) int {
	for i := max(0, len(data)-x.longest+1); i < len(data); i++ {
		if !x.first[data[i]] {
			continue
		}
		for _, f := range x.forms {
			if len(f.bytes) > len(data)-i && bytes.HasPrefix(f.bytes, data[i:]) {
				return i
			}
		}
	}
	return len(data)
}

// Find looks for a value in text and returns its ID.
func (s *Set) Find(text string) (id string, found bool) {
	if s == nil {
		return "", false
	}
	f, end := s.all.next([]byte(text), 0)
	return f.id, end >= 0
}

// Blank puts [Mask] in the place of every value in text.
func (s *Set) Blank(text string) string {
	if s == nil {
		return text
	}
	out, _ := s.blank(nil, []byte(text), len(text), 0)
	return string(out)
}

// blank appends the first n bytes of data to out, less the values that begin
// in them. Of data, hidden bytes belong to a value that was blanked before; it
// returns how many of those after the first n do now.
func (s *Set) blank(out, data []byte, n, hidden int) ([]byte, int) {
	done := hidden // what of data is in out, or hidden
	for at := 0; ; {
		f, end := s.all.next(data, at)
		start := end - len(f.bytes)
		if end < 0 || start >= n {
			break
		}
		if start >= done {
			out = append(append(out, data[done:start]...), Mask...)
		}
		done, at = max(done, end), end
	}
	if done < n {
		return append(out, data[done:n]...), 0
	}
	return out, done - n
}

// FoundError says that a stream holds a value.
type FoundError struct {
	ID  string
	End int64 // the number of bytes up to the value's end
}

func (e *FoundError) Error() string { return fmt.Sprintf("secret %q is in it", e.ID) }

// Finder looks for values in what is written to it. After an error it is of no
// more use.
type Finder struct {
	set   *Set
	plain window
	lines window // without line breaks
	flat  []byte
}

// NewFinder returns a Finder for a set that is not nil.
func NewFinder(s *Set) *Finder {
	return &Finder{set: s, plain: window{x: &s.all}, lines: window{x: &s.wrapped}}
}

// Write fails with a *[FoundError] at the first value that ends in p.
func (f *Finder) Write(p []byte) (int, error) {
	if id, end := f.plain.add(p); end >= 0 {
		return 0, &FoundError{id, end}
	}
	if len(f.set.wrapped.forms) == 0 {
		return len(p), nil
	}
	before, start := f.lines.size, f.plain.size-int64(len(p))
	f.flat = f.flat[:0]
	for _, c := range p {
		if c != '\n' && c != '\r' {
			f.flat = append(f.flat, c)
		}
	}
	id, end := f.lines.add(f.flat)
	if end < 0 {
		return len(p), nil
	}
	for i, c := range p {
		if c != '\n' && c != '\r' {
			before++
		}
		if before == end {
			start += int64(i) + 1
			break
		}
	}
	return 0, &FoundError{id, start}
}

// window is the end of a stream, long enough for the longest form.
type window struct {
	x    *index
	buf  []byte
	size int64 // of the stream
}

func (w *window) add(p []byte) (id string, end int64) {
	if keep := w.x.longest - 1; len(w.buf) > keep {
		w.buf = w.buf[:copy(w.buf, w.buf[len(w.buf)-keep:])]
	}
	old := len(w.buf)
	w.buf = append(w.buf, p...)
	start := w.size - int64(old)
	w.size += int64(len(p))
	if f, at := w.x.next(w.buf, old); at >= 0 {
		return f.id, start + int64(at)
	}
	return "", -1
}

// Blanker passes on what is written to it with every value blanked out. What
// may be the beginning of one is held back until more comes.
type Blanker struct {
	set    *Set
	to     func(p []byte)
	held   []byte
	hidden int // bytes of held that belong to a value that is blanked already
	out    []byte
}

// NewBlanker returns a Blanker for a set that is not nil. It calls to, which
// must not keep the bytes.
func NewBlanker(s *Set, to func(p []byte)) *Blanker { return &Blanker{set: s, to: to} }

// Write never fails.
func (b *Blanker) Write(p []byte) (int, error) {
	b.held = append(b.held, p...)
	b.pass(b.set.all.begun(b.held))
	return len(p), nil
}

// Close passes on what was held back.
func (b *Blanker) Close() { b.pass(len(b.held)) }

func (b *Blanker) pass(n int) {
	if b.out, b.hidden = b.set.blank(b.out[:0], b.held, n, b.hidden); len(b.out) > 0 {
		b.to(b.out)
	}
	b.held = b.held[:copy(b.held, b.held[n:])]
}
