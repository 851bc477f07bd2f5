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

	"golang.org/x/crypto/argon2"
)

// MinLength is the length in bytes, without white space around it, from which
// a value is looked for.
const MinLength = 8

// Mask is what stands for a value that was blanked out.
const Mask = "***"

// Set is a set of values to be found. It may be used by many goroutines. A nil
// Set has none.
type Set struct {
	forms   []form
	longest int
	byEnd   map[uint64][]int // numbers of forms, by their last bytes
	filter  [1 << 10]uint64  // a bit for each hash of last bytes
	first   [256]bool        // bytes that forms begin with
}

// form is one way in which a value may be written.
type form struct {
	id    string
	bytes []byte
	lines bool // line breaks in it don't count
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
			set.add(form{id, []byte(f), false})
		}
		for _, f := range base64Forms(value) {
			set.add(form{id, []byte(f), true})
			// A break in the last bytes hides them from the search: then
			// all the rest is enough.
			if len(f) > 3*anchor {
				set.add(form{id, []byte(f[:len(f)-anchor]), true})
			}
		}
	}
	if len(set.forms) == 0 {
		return nil, short
	}
	return set, short
}

// Fingerprint names the set without telling anything of its values: it takes
// too much time and memory to be tried for guesses, and depends on a salt, which
// is to be kept as secret as what the values are guarded from.
func (s *Set) Fingerprint(salt []byte) string {
	var all []byte
	for _, f := range s.forms {
		all = binary.AppendUvarint(all, uint64(len(f.bytes)))
		all = append(all, f.bytes...)
	}
	return hex.EncodeToString(argon2.IDKey(all, salt, 1, 16<<10, 1, 32))
}

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

func (s *Set) add(f form) {
	if s.byEnd == nil {
		s.byEnd = map[uint64][]int{}
	}
	end := binary.LittleEndian.Uint64(f.bytes[len(f.bytes)-anchor:])
	s.byEnd[end] = append(s.byEnd[end], len(s.forms))
	s.forms = append(s.forms, f)
	s.longest = max(s.longest, len(f.bytes))
	h := hash(end)
	s.filter[h>>6] |= 1 << (h & 63)
	s.first[f.bytes[0]] = true
}

func hash(end uint64) uint64 { return end * 0x9e3779b97f4a7c15 >> 48 }

// next finds the first form that ends in data after from bytes, and of those
// that end in the same place the longest; start is where that begins. end is
// -1 if there is none.
func (s *Set) next(data []byte, from int) (id string, start, end int) {
	for end := max(from+1, anchor); end <= len(data); end++ {
		key := binary.LittleEndian.Uint64(data[end-anchor : end])
		if h := hash(key); s.filter[h>>6]&(1<<(h&63)) == 0 {
			continue
		}
		start = end
		for _, i := range s.byEnd[key] {
			if at, ok := s.forms[i].endsAt(data[:end]); ok && at < start {
				id, start = s.forms[i].id, at
			}
		}
		if start < end {
			return id, start, end
		}
	}
	return "", 0, -1
}

// endsAt reports whether data ends with the form, and where that begins.
func (f *form) endsAt(data []byte) (start int, ok bool) {
	if bytes.HasSuffix(data, f.bytes) {
		return len(data) - len(f.bytes), true
	}
	if !f.lines {
		return 0, false
	}
	left := len(f.bytes)
	for i := len(data) - 1; i >= 0; i-- {
		switch c := data[i]; {
		case c == f.bytes[left-1]:
			if left--; left == 0 {
				return i, true
			}
		case c != '\n' && c != '\r':
			return 0, false
		}
	}
	return 0, false
}

// begun is where in data a form begins of which only the first part is there:
// len(data) if there is none.
func (s *Set) begun(data []byte) int {
	for i := max(0, len(data)-s.longest+1); i < len(data); i++ {
		if !s.first[data[i]] {
			continue
		}
		for _, f := range s.forms {
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
	id, _, end := s.next([]byte(text), 0)
	return id, end >= 0
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
		_, start, end := s.next(data, at)
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
	set  *Set
	buf  []byte // the end of the stream, long enough for the longest form
	size int64  // of the stream
}

// NewFinder returns a Finder for a set that is not nil.
func NewFinder(s *Set) *Finder { return &Finder{set: s} }

// Write fails with a *[FoundError] at the first value that ends in p.
func (f *Finder) Write(p []byte) (int, error) {
	// Lines of base64 are 64 bytes long or more, and end in one byte or two.
	if keep := f.set.longest + f.set.longest/16 + anchor; len(f.buf) > keep {
		f.buf = f.buf[:copy(f.buf, f.buf[len(f.buf)-keep:])]
	}
	old := len(f.buf)
	f.buf = append(f.buf, p...)
	before := f.size - int64(old)
	f.size += int64(len(p))
	if id, _, end := f.set.next(f.buf, old); end >= 0 {
		return 0, &FoundError{id, before + int64(end)}
	}
	return len(p), nil
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
	b.pass(b.set.begun(b.held))
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
