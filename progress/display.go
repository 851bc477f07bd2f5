// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// Display is a Sink that shows what it is sent. Events and Close may come from
// many goroutines at once.
type Display interface {
	Sink
	// Close shows the final state and returns the first error of writing.
	// After an error nothing more is written, and events after Close are
	// dropped; both are no harm to the sender. Closing again returns the
	// same.
	Close() error
}

// Modes returns the names that [Auto] takes.
func Modes() []string { return []string{"auto", "plain", "tty", "quiet", "rawjson"} }

// Auto opens the display of a mode on w: "plain" ([NewPlain]), "tty"
// ([NewTTY]), "quiet" ([NewQuiet]), "rawjson" ([NewJSON]), or "auto" (also ""),
// which is tty where w is a terminal that can move its cursor, else plain.
// The live view has colours unless NO_COLOR is set or TERM is dumb. w is not
// closed.
func Auto(w *os.File, mode string) (Display, error) {
	capable := os.Getenv("TERM") != "dumb" && os.Getenv("TERM") != ""
	opts := TTYOptions{Color: capable && os.Getenv("NO_COLOR") == ""}
	terminal := term.IsTerminal(int(w.Fd()))
	switch mode {
	case "auto", "":
		if terminal && capable {
			return NewTTY(w, opts), nil
		}
		return NewPlain(w, PlainOptions{}), nil
	case "plain":
		return NewPlain(w, PlainOptions{}), nil
	case "tty":
		if !terminal {
			return nil, fmt.Errorf("progress mode %q needs a terminal, and %s isn't one", mode, w.Name())
		}
		return NewTTY(w, opts), nil
	case "quiet":
		return NewQuiet(), nil
	case "rawjson":
		return NewJSON(w), nil
	}
	return nil, fmt.Errorf("unknown progress mode %q (there are %s)", mode, strings.Join(Modes(), ", "))
}

// NewQuiet returns a display that shows nothing.
func NewQuiet() Display { return Discard{} }

// Discard is a [Display] that drops everything.
type Discard struct{}

// Event does nothing.
func (Discard) Event(Event) {}

// Close does nothing.
func (Discard) Close() error { return nil }

// Tee returns a display that passes each event to every sink in turn. Nil ones
// are left out. Close closes those that can be closed and joins their errors.
func Tee(sinks ...Sink) Display {
	var t tee
	for _, s := range sinks {
		if s != nil {
			t = append(t, s)
		}
	}
	return t
}

type tee []Sink

func (t tee) Event(e Event) {
	for _, s := range t {
		s.Event(e)
	}
}

func (t tee) Close() error {
	var errs []error
	for _, s := range t {
		if c, ok := s.(io.Closer); ok {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}
