// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"unicode"
	"unicode/utf8"
)

// lineBuffer makes clean lines of a program's raw output, which is hostile as
// far as a display is concerned: it comes in pieces of any size, moves the
// cursor, clears the screen, sets titles and colours, and isn't always UTF-8.
//
// What comes out is printable text in valid UTF-8. Escape sequences are
// dropped, and so are control and invisible format characters (but for the
// joiner that emoji are made with). A carriage return goes back to the line's
// start, so of a progress bar only the newest state stays; a backspace takes
// back one character. A line feed ends a line whatever came before it: an
// escape sequence that never ends costs one line, not all that follow.
//
// Its memory is bounded by max, the longest line in bytes.
type lineBuffer struct {
	max  int
	wrap bool // a longer line becomes several; else its rest is dropped
	tabs bool // a tab becomes spaces up to the next multiple of eight

	line    []byte
	ended   bool // line has been handed out and begins anew
	rewound bool // a carriage return was read: the next character begins it anew
	state   escape
	partial [utf8.UTFMax]byte // the beginning of a rune that the next data ends
	n       int               // bytes of it
}

// escape is where in an escape sequence (ECMA-48, section 5) the input stands.
type escape uint8

const (
	ground        escape = iota
	escapeSeen           // after ESC
	csi                  // control sequence: ends with 0x40 to 0x7e
	controlString        // OSC, DCS, SOS, PM, APC: ends with BEL or ST
)

// lineState says why [lineBuffer.next] returned.
type lineState uint8

const (
	lineOpen        lineState = iota // all data is used up, the line goes on
	lineDone                         // the line has ended
	lineOverwritten                  // the line is about to be written over
)

// next takes data up to the end of a line. It returns the data that is left
// and what became of the line, which is b.line and good until the next call.
func (b *lineBuffer) next(data []byte) ([]byte, lineState) {
	if b.ended {
		b.line, b.ended = b.line[:0], false
	}
	for len(data) > 0 {
		c := data[0]
		switch {
		case c == '\n' && b.n == 0:
			b.rewound, b.state, b.ended = false, ground, true
			return data[1:], lineDone
		case b.state != ground && b.inEscape(c):
			data = data[1:]
		case b.n > 0 || c >= utf8.RuneSelf || (c >= ' ' && c < 0x7f) || c == '\t':
			if b.rewound {
				b.rewound = false
				if len(b.line) > 0 {
					b.ended = true
					return data, lineOverwritten
				}
			}
			used, full := b.text(data)
			data = data[used:]
			if full {
				b.ended = true
				return data, lineDone
			}
		default:
			b.control(c)
			data = data[1:]
		}
	}
	return nil, lineOpen
}

// finish returns the line that no line feed has ended, empty if there is none.
func (b *lineBuffer) finish() []byte {
	if b.ended {
		b.line = b.line[:0]
	}
	if b.n > 0 { // the end of a character never came
		b.n = 0
		b.put([]byte(string(utf8.RuneError)), 1)
	}
	b.ended, b.state, b.rewound = true, ground, false
	return b.line
}

// text takes printable bytes off data's front and says how many, and whether
// the line is full with more to come.
func (b *lineBuffer) text(data []byte) (used int, full bool) {
	if b.n > 0 || data[0] >= utf8.RuneSelf {
		return b.multibyte(data)
	}
	if data[0] == '\t' {
		if !b.tabs {
			return b.put(data[:1], 1)
		}
		return b.put([]byte("        ")[:8-len(b.line)%8], 1)
	}
	n := 1
	for n < len(data) && data[n] >= ' ' && data[n] < 0x7f {
		n++
	}
	return b.put(data[:n], n)
}

// put appends p, which used bytes of input became. Of ASCII text a part may be
// appended; a single character is kept whole.
func (b *lineBuffer) put(p []byte, used int) (int, bool) {
	room := b.max - len(b.line)
	if len(p) <= room {
		b.line = append(b.line, p...)
		return used, false
	}
	if len(p) == used && p[0] < utf8.RuneSelf && room > 0 {
		b.line = append(b.line, p[:room]...)
		if b.wrap {
			return room, true
		}
		return used, false
	}
	if b.wrap && len(b.line) > 0 {
		return 0, true
	}
	return used, false
}

// multibyte takes one character off data's front that isn't ASCII, or keeps its
// beginning until the rest arrives.
func (b *lineBuffer) multibyte(data []byte) (int, bool) {
	var buf [2 * utf8.UTFMax]byte
	held := copy(buf[:], b.partial[:b.n])
	n := held + copy(buf[held:], data)
	if !utf8.FullRune(buf[:n]) {
		b.n = copy(b.partial[:], buf[:n])
		return len(data), false
	}
	r, size := utf8.DecodeRune(buf[:n])
	for r == utf8.RuneError && size < n && !utf8.FullRune(buf[:size+1]) {
		size++ // an interrupted character counts as one wrong one
	}
	used := max(size-held, 0)
	b.n = 0
	if b.c1(r) || !visible(r) {
		return used, false
	}
	took, full := b.put(utf8.AppendRune(buf[:0], r), used)
	if full && took == 0 {
		b.n = held // it comes again, on a new line
	}
	return took, full
}

// c1 interprets the C1 control characters, which some terminals take for
// escape sequences even in UTF-8.
func (b *lineBuffer) c1(r rune) bool {
	if r < 0x80 || r > 0x9f {
		return false
	}
	switch r {
	case 0x9b:
		b.state = csi
	case 0x90, 0x98, 0x9d, 0x9e, 0x9f:
		b.state = controlString
	}
	return true
}

// visible reports whether a terminal shows r and nothing worse. Not so the
// characters that turn the direction of writing (which can make a line read
// differently from what it says) and Unicode's own line ends.
func visible(r rune) bool {
	const joiner = '\u200d'
	return r == joiner || !unicode.In(r, unicode.Cf, unicode.Cc, unicode.Zl, unicode.Zp)
}

// control obeys a control character.
func (b *lineBuffer) control(c byte) {
	switch c {
	case '\r':
		b.rewound = true
	case '\b':
		if !b.rewound {
			_, size := utf8.DecodeLastRune(b.line)
			b.line = b.line[:len(b.line)-size]
		}
	case 0x1b:
		b.state = escapeSeen
	}
}

// inEscape takes c as a part of the escape sequence that has begun, or ends
// the sequence and returns false where c isn't one.
func (b *lineBuffer) inEscape(c byte) bool {
	if c == 0x1b {
		b.state = escapeSeen
		return true
	}
	if c == 0x18 || c == 0x1a { // CAN and SUB call the sequence off
		b.state = ground
		return true
	}
	switch b.state {
	case controlString:
		if c == 0x07 {
			b.state = ground
		}
		return true
	case escapeSeen:
		switch {
		case c == '[':
			b.state = csi
		case bytes.IndexByte([]byte("]PX^_"), c) >= 0:
			b.state = controlString
		case c >= 0x20 && c <= 0x2f: // intermediate
		case c >= 0x30 && c <= 0x7e:
			b.state = ground
		default:
			b.state = ground
			return false
		}
		return true
	case csi:
		switch {
		case c >= 0x20 && c <= 0x3f: // parameters, intermediate
		case c >= 0x40 && c <= 0x7e:
			b.state = ground
		default:
			b.state = ground
			return false
		}
		return true
	}
	return false
}

// oneLine makes a single clean line of a name or message that may have
// several, at most max bytes long.
func oneLine(s string, max int) string {
	clean := true
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] >= 0x7f {
			clean = false
			break
		}
	}
	if clean && len(s) <= max {
		return s
	}
	b := lineBuffer{max: max, tabs: true}
	data := []byte(s)
	for i, c := range data {
		if c == '\n' || c == '\r' || c == '\t' {
			data[i] = ' '
		}
	}
	b.next(data)
	return string(bytes.TrimSpace(b.finish()))
}

// firstLine returns a message's first line that isn't empty.
func firstLine(s string) string {
	for s != "" {
		line, rest := s, ""
		for i := range len(s) {
			if s[i] == '\n' {
				line, rest = s[:i], s[i+1:]
				break
			}
		}
		if line = oneLine(line, longestName); line != "" {
			return line
		}
		s = rest
	}
	return ""
}
