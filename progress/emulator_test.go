// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/clipperhouse/displaywidth"
)

// emulator is as much of a terminal as the live view uses. A control sequence
// that it doesn't know fails the test: the view must send nothing else.
type emulator struct {
	t          testing.TB
	mu         sync.Mutex
	cols, rows int
	grid       [][]string // of cells; "" is the right half of a wide one
	scrolled   []string
	x, y       int
	noWrap     bool
	hidden     bool
	writes     int
	bytes      int
}

func newEmulator(t testing.TB, cols, rows int) *emulator {
	e := &emulator{t: t, cols: cols, rows: rows}
	for range rows {
		e.grid = append(e.grid, e.blank())
	}
	return e
}

func (e *emulator) size() (int, int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cols, e.rows
}

// resize makes it another size, and empty.
func (e *emulator) resize(cols, rows int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cols, e.rows = cols, rows
	e.grid, e.scrolled, e.y = newEmulator(e.t, cols, rows).grid, nil, 0
}

// scribble has somebody else write, so many rows above the cursor.
func (e *emulator) scribble(up int, text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	copy(e.grid[e.y-up], strings.Split(text, ""))
}

func (e *emulator) blank() []string {
	row := make([]string, e.cols)
	for i := range row {
		row[i] = " "
	}
	return row
}

func (e *emulator) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.writes++
	e.bytes += len(p)
	if !utf8.Valid(p) {
		e.t.Errorf("not UTF-8: %q", p)
	}
	for s := string(p); s != ""; {
		switch {
		case strings.HasPrefix(s, "\x1b["):
			n := 2
			for n < len(s) && (s[n] < 0x40 || s[n] > 0x7e) {
				n++
			}
			if n == len(s) {
				e.t.Fatalf("unfinished sequence %q", s)
			}
			e.csi(s[2:n], s[n])
			s = s[n+1:]
		case s[0] == '\r':
			e.x = 0
			s = s[1:]
		case s[0] == '\n':
			e.lineFeed()
			s = s[1:]
		case s[0] < ' ' || s[0] == 0x7f:
			e.t.Fatalf("control character %q", s[0])
		default:
			g := displaywidth.StringGraphemes(s)
			g.Next()
			e.put(g.Value(), g.Width())
			s = s[len(g.Value()):]
		}
	}
	return len(p), nil
}

func (e *emulator) lineFeed() {
	if e.y++; e.y < e.rows {
		return
	}
	e.y--
	e.scrolled = append(e.scrolled, rowText(e.grid[0]))
	e.grid = append(e.grid[1:], e.blank())
}

func (e *emulator) put(s string, width int) {
	if width == 0 {
		return
	}
	if e.x+width > e.cols {
		if e.noWrap {
			e.x = e.cols - width
		} else {
			e.x = 0
			e.lineFeed()
		}
	}
	e.grid[e.y][e.x] = s
	for i := 1; i < width; i++ {
		e.grid[e.y][e.x+i] = ""
	}
	e.x += width
}

func (e *emulator) csi(params string, final byte) {
	n, _ := strconv.Atoi(params)
	switch string(final) {
	case "A":
		e.y = max(0, e.y-max(n, 1))
	case "G":
		e.x = min(max(n, 1), e.cols) - 1
	case "J":
		if params != "" {
			e.t.Fatalf("ED %q", params)
		}
		for i := e.x; i < e.cols; i++ {
			e.grid[e.y][i] = " "
		}
		for y := e.y + 1; y < e.rows; y++ {
			e.grid[y] = e.blank()
		}
	case "K":
		if params != "2" {
			e.t.Fatalf("EL %q", params)
		}
		e.grid[e.y] = e.blank()
	case "m":
	case "h", "l":
		switch params {
		case "?7":
			e.noWrap = final == 'l'
		case "?25":
			e.hidden = final == 'l'
		case "?2026":
		default:
			e.t.Fatalf("mode %q", params)
		}
	default:
		e.t.Fatalf("sequence %q%c", params, final)
	}
}

func rowText(row []string) string { return strings.TrimRight(strings.Join(row, ""), " ") }

// screen returns what is visible, without the empty rows at the end.
func (e *emulator) screen() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var lines []string
	for _, row := range e.grid {
		lines = append(lines, rowText(row))
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n") + "\n"
}

// all returns what has been scrolled out and what is visible.
func (e *emulator) all() string {
	s := e.screen()
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.scrolled) > 0 {
		s = strings.Join(e.scrolled, "\n") + "\n" + s
	}
	return s
}

// sent returns how much was written.
func (e *emulator) sent() (writes, bytes int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.writes, e.bytes
}
