// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"io"
	"strconv"
	"strings"
)

// The few control sequences that a frame is drawn with (ECMA-48; xterm's
// "Control Sequences"). Terminals ignore the private modes they don't know.
const (
	beginFrame = "\x1b[?2026h\x1b[?25l\x1b[?7l" // synchronized update, no cursor, no line wrap
	endFrame   = "\x1b[?7h\x1b[?25h\x1b[?2026l"
	eraseLine  = "\x1b[2K"
	eraseBelow = "\x1b[J"
)

// redrawAll is how many frames repaint only what has changed before one
// repaints everything, which wipes off what others wrote on the screen.
const redrawAll = 10

// drawn is one line as it is sent to the terminal, and the columns it takes.
type drawn struct {
	text  string
	width int
}

// screen keeps a block of lines at the end of a terminal's text up to date.
// Between two frames the cursor stands at the start of the line below it.
type screen struct {
	w      io.Writer
	buf    []byte
	shown  []drawn
	cols   int // the terminal's width when they were drawn
	frames int
	err    error
}

// repaint has the next frame draw every line again.
func (s *screen) repaint() { s.frames = 0 }

// forget gives up the block that is on the screen: the next frame is drawn
// below whatever is there now.
func (s *screen) forget() { s.shown = nil }

// draw replaces the block by lines, in one write.
//
// Line wrap is off meanwhile: terminals disagree about how wide some
// characters are, and a line that is wider than it was taken for loses its end
// instead of pushing all others down.
func (s *screen) draw(lines []drawn, cols int) {
	if s.err != nil {
		return
	}
	b := append(s.buf[:0], beginFrame...)
	b = append(b, '\r')
	if up := s.height(cols); up > 0 {
		b = append(strconv.AppendInt(append(b, "\x1b["...), int64(up), 10), 'A')
	}
	all := cols != s.cols || s.frames%redrawAll == 0
	for i, l := range lines {
		if all || i >= len(s.shown) || s.shown[i].text != l.text {
			b = append(append(b, eraseLine...), l.text...)
		}
		b = append(b, "\r\n"...)
		if all && i == 0 {
			// Not above the first line: at the top of the screen tmux
			// takes it for a clear, and saves what was there.
			b = append(b, eraseBelow...)
		}
	}
	b = append(append(b, eraseBelow...), endFrame...)
	s.buf, s.shown, s.cols = b, lines, cols
	s.frames++
	_, s.err = s.w.Write(b)
}

// below writes text beneath the block, which is given up with it.
func (s *screen) below(text string) {
	if s.err == nil && text != "" {
		_, s.err = io.WriteString(s.w, strings.ReplaceAll(text, "\n", "\r\n"))
	}
	s.forget()
}

// height returns how many rows the block takes on a terminal that is cols
// wide. Most terminals break lines that have become too long for them.
func (s *screen) height(cols int) int {
	n := 0
	for _, l := range s.shown {
		n += 1 + max(l.width-1, 0)/max(cols, 1)
	}
	return n
}
