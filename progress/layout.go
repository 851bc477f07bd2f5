// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clipperhouse/displaywidth"
)

// Colours, as select graphic rendition sequences (ECMA-48, 8.3.117).
const (
	plainText = "\x1b[0m"
	bold      = "\x1b[1m"
	dim       = "\x1b[2m"
	red       = "\x1b[31m"
	green     = "\x1b[32m"
	yellow    = "\x1b[33m"
	cyan      = "\x1b[36m"
)

const (
	// shownAmounts is how many transfers of one vertex have a line.
	shownAmounts = 8
	// barCells is the inside of a progress bar; a terminal narrower than
	// barCols has none.
	barCells = 20
	barCols  = 90
	// timeCols is how wide a terminal must be to have room for times.
	timeCols = 24
)

// layout turns the board into the lines of one frame.
type layout struct {
	cols, rows int
	color      bool
	now        time.Time
	final      bool // everything, however long, as it's the last frame
}

// lines returns the frame. Unless it is the final one it leaves a row of the
// terminal free, for the cursor.
func (l *layout) lines(b *board) []drawn {
	out := []drawn{l.header(b)}
	if l.final {
		for _, v := range b.order {
			out = l.vertex(out, v, 0)
		}
		return l.warnings(out, b)
	}
	room := max(l.rows-2, 0) // less header and cursor
	shown, below, hidden := l.choose(b, room)
	for i, v := range shown {
		out = l.vertex(out, v, below[i])
	}
	if hidden != "" {
		out = append(out, l.row(part{dim, " => ... "}, part{dim, hidden}, ""))
	}
	return out[:min(len(out), max(l.rows-1, 1))]
}

func (l *layout) header(b *board) drawn {
	title := b.title
	if title == "" {
		title = "Building"
	}
	end := l.now
	text := string(appendSeconds([]byte(title+" "), end.Sub(b.began)))
	text += fmt.Sprintf(" (%d/%d)", b.ended, max(b.planned, len(b.order)))
	color := bold
	switch {
	case b.worst == failed:
		text += " FAILED"
		color = red
	case b.worst == canceled:
		text += " CANCELED"
		color = yellow
	case l.final:
		text += " FINISHED"
	}
	return l.row(part{color, "[+] "}, part{color, text}, "")
}

// choose picks the vertices that a frame of so many rows shows, how many rows
// each has beneath it, and says what is left out. Running ones come first:
// with a row each, then with what is beneath them; then the failed ones; then
// those that ended last.
func (l *layout) choose(b *board, room int) (shown []*vertex, below []int, hidden string) {
	active, rest := b.byUrgency()
	want := 0
	for _, v := range active {
		want += l.wants(b, v)
	}
	if len(b.order)+want > room {
		room = max(room-1, 0) // for the line that says what is hidden
	}
	left := max(room-len(active), 0)
	want = min(want, left)
	keep := map[*vertex]bool{}
	for _, v := range active[:min(len(active), room)] {
		keep[v] = true
	}
	for _, v := range rest[:min(len(rest), left-want)] {
		keep[v] = true
	}
	for _, v := range b.order {
		if keep[v] {
			shown = append(shown, v)
		}
	}
	return shown, l.share(b, shown, want), hiddenText(b, keep)
}

// byUrgency returns the running vertices and the others, what should rather be
// seen first.
func (b *board) byUrgency() (active, rest []*vertex) {
	for _, v := range b.order {
		if v.outcome == running {
			active = append(active, v)
		} else {
			rest = append(rest, v)
		}
	}
	slices.SortStableFunc(rest, func(x, y *vertex) int {
		switch {
		case x.outcome == failed && y.outcome != failed:
			return -1
		case x.outcome != failed && y.outcome == failed:
			return 1
		}
		return y.ended.Compare(x.ended)
	})
	return active, rest
}

// wants returns how many rows v would like to have beneath it.
func (l *layout) wants(b *board, v *vertex) int {
	if v.outcome != running {
		return 0
	}
	open, ended := 0, 0
	for _, a := range v.amounts {
		if a.Done {
			ended = 1
		} else {
			open++
		}
	}
	return min(open, shownAmounts) + ended + min(v.lineCount(), b.logLines)
}

// share deals rows out to vertices, one at a time.
func (l *layout) share(b *board, shown []*vertex, rows int) []int {
	wants, gets := make([]int, len(shown)), make([]int, len(shown))
	for i, v := range shown {
		wants[i] = l.wants(b, v)
	}
	for dealt := true; rows > 0 && dealt; {
		dealt = false
		for i := range shown {
			if rows > 0 && gets[i] < wants[i] {
				gets[i]++
				rows--
				dealt = true
			}
		}
	}
	return gets
}

func hiddenText(b *board, keep map[*vertex]bool) string {
	var active, ended, fromCache int
	for _, v := range b.order {
		switch {
		case keep[v]:
		case v.outcome == running:
			active++
		case v.outcome == cached:
			fromCache++
			ended++
		default:
			ended++
		}
	}
	var parts []string
	if active > 0 {
		parts = append(parts, fmt.Sprintf("%d more running", active))
	}
	if ended > 0 {
		s := fmt.Sprintf("%d done", ended)
		if fromCache > 0 {
			s += fmt.Sprintf(" (%d cached)", fromCache)
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, ", ")
}

// vertex appends a vertex's line and at most so many beneath it.
func (l *layout) vertex(out []drawn, v *vertex, below int) []drawn {
	mark, word := part{yellow, " => "}, part{}
	switch v.outcome {
	case succeeded:
		mark.color = green
	case cached:
		mark.color, word = cyan, part{cyan, "CACHED "}
	case canceled:
		word = part{yellow, "CANCELED "}
	case failed:
		mark.color, word = red, part{red, "ERROR "}
	}
	name := part{"", v.name}
	if v.outcome == failed {
		name.color = red
	}
	out = append(out, l.row(mark, word, string(appendSeconds(nil, v.seconds(l.now))), name))
	if l.final && v.result != "" {
		out = append(out, l.row(part{dim, " => => "}, part{dim, v.result}, ""))
	}
	if below > 0 {
		n := len(out)
		out = l.amounts(out, v, below)
		out = l.log(out, v, below-(len(out)-n))
	}
	return out
}

// log appends the last lines of a vertex's output.
func (l *layout) log(out []drawn, v *vertex, rows int) []drawn {
	if rows <= 0 {
		return out
	}
	for _, line := range v.lines(rows) {
		out = append(out, l.row(part{dim, " => => # "}, part{dim, line}, ""))
	}
	return out
}

// amounts appends lines for what is being transferred, and one for what has
// been.
func (l *layout) amounts(out []drawn, v *vertex, rows int) []drawn {
	ended, shown := 0, 0
	for _, a := range v.amounts {
		if a.Done {
			ended++
		}
	}
	limit := min(rows, shownAmounts)
	if ended > 0 {
		limit = min(limit, max(rows-1, 1))
	}
	for _, a := range v.amounts {
		if !a.Done && shown < limit {
			out = append(out, l.amount(a))
			shown++
		}
	}
	if ended > 0 && shown < rows {
		text := fmt.Sprintf("%d/%d done", ended, len(v.amounts))
		out = append(out, l.row(part{dim, " => => "}, part{dim, text}, ""))
	}
	return out
}

// amount is the line of one transfer: what, how much, how fast, how long still. In a narrow
// terminal the numbers stay and the name is cut.
func (l *layout) amount(a *amount) drawn {
	var much []byte
	if a.hasAmount() {
		if l.cols >= barCols && a.Total > 0 {
			much = appendBar(append(much, ' '), a.Current, a.Total)
		}
		much = a.appendAmount(append(much, ' '))
	}
	if rate := a.rate(l.now); rate > 0 && a.Bytes && l.cols >= barCols/2 {
		much = append(appendSize(append(much, ' '), rate), "/s"...)
		if left := a.left(rate); left > 0 && l.cols >= barCols {
			much = append(appendTime(append(much, ' '), left), " left"...)
		}
	}
	mark, right := part{dim, " => => "}, string(appendSeconds(nil, l.now.Sub(a.began)))
	_, room := l.room(right)
	label := fit(string(a.appendLabel(nil)), room-len(mark.text)-len(much))
	return l.row(mark, part{"", label + string(much)}, right)
}

// appendBar appends [=====>    ].
func appendBar(b []byte, current, total int64) []byte {
	full := int(float64(barCells) * min(max(float64(current)/float64(total), 0), 1))
	b = append(b, '[')
	for i := range barCells {
		switch {
		case i < full:
			b = append(b, '=')
		case i == full:
			b = append(b, '>')
		default:
			b = append(b, ' ')
		}
	}
	return append(b, ']')
}

// warnings appends the warnings that came up.
func (l *layout) warnings(out []drawn, b *board) []drawn {
	n := len(b.warnings) + b.omitted
	if n == 0 {
		return out
	}
	head := "1 warning:"
	if n > 1 {
		head = strconv.Itoa(n) + " warnings:"
	}
	out = append(out, drawn{}, l.whole(part{yellow, head}))
	for _, w := range b.warnings {
		out = append(out, l.whole(part{"", " - " + w}))
	}
	if b.omitted > 0 {
		out = append(out, l.whole(part{dim, fmt.Sprintf(" - and %d more", b.omitted)}))
	}
	return out
}

// part is text of one colour; "" is the terminal's own.
type part struct{ color, text string }

// row composes a line: the mark at its start, what follows it, and, at the
// right edge, the time. The parts share what room there is. The last column
// stays empty, since some terminals wrap once it's written to.
func (l *layout) row(mark, first part, right string, more ...part) drawn {
	right, room := l.room(right)
	var b strings.Builder
	used := 0
	for _, p := range append([]part{mark, first}, more...) {
		text := fit(p.text, room-used)
		used += displaywidth.String(text)
		l.paint(&b, p.color, text)
		if text != p.text {
			break
		}
	}
	if right == "" {
		return drawn{b.String(), used}
	}
	// The time has its place whatever the terminal thinks of the name's width.
	fmt.Fprintf(&b, "\x1b[%dG", room+2)
	l.paint(&b, dim, right)
	return drawn{b.String(), room + 1 + len(right)}
}

// room returns what there is room for at the right edge, and how many columns
// are left of it.
func (l *layout) room(right string) (string, int) {
	edge := max(l.cols-1, 1)
	if right == "" || l.cols < timeCols {
		return "", edge
	}
	return right, edge - len(right) - 1
}

// whole is a line that isn't cut; the last frame has no need to.
func (l *layout) whole(p part) drawn {
	var b strings.Builder
	b.WriteString("\x1b[?7h")
	l.paint(&b, p.color, p.text)
	return drawn{b.String(), displaywidth.String(p.text)}
}

func (l *layout) paint(b *strings.Builder, color, text string) {
	if !l.color || color == "" || text == "" {
		b.WriteString(text)
		return
	}
	b.WriteString(color + text + plainText)
}

// fit cuts s to so many columns.
func fit(s string, cols int) string {
	if cols <= 0 {
		return ""
	}
	tail := "..."
	if cols < 10 {
		tail = ""
	}
	return displaywidth.TruncateString(s, cols, tail)
}
