// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// textColumn is where the text of a flag begins at the latest. A longer flag has a line
// for itself.
const textColumn = 32

// flagUsages describes flags for a terminal of a width, 0 for one line of text each.
func flagUsages(fs *pflag.FlagSet, width int) string {
	var names, texts []string
	column := 0
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		name, text := describe(f)
		names, texts = append(names, name), append(texts, text)
		if n := utf8.RuneCountInString(name) + 2; n <= textColumn {
			column = max(column, n)
		}
	})
	var b strings.Builder
	for i, name := range names {
		b.WriteString(name)
		pad := column - utf8.RuneCountInString(name)
		if pad < 2 {
			b.WriteByte('\n')
			pad = column
		}
		for _, line := range wrap(texts[i], width-column) {
			b.WriteString(strings.Repeat(" ", pad) + line + "\n")
			pad = column
		}
	}
	return b.String()
}

// describe is a flag with its value, and the text about it.
func describe(f *pflag.Flag) (name, text string) {
	value, text := pflag.UnquoteUsage(f)
	value = strings.TrimSuffix(value, "Array") // of which there may be several
	name = "      --" + f.Name
	if f.Shorthand != "" {
		name = "  -" + f.Shorthand + ", --" + f.Name
	}
	isBool := f.Value.Type() == "bool"
	switch {
	case value == "" || isBool:
	case f.NoOptDefVal != "":
		name += "[=" + value + "]"
	default:
		name += " " + value
	}
	switch f.DefValue {
	case "", "0", "0s", "[]", "false", "<nil>":
	default:
		if isBool {
			text += " (default on: --" + f.Name + "=false)"
		} else {
			text += fmt.Sprintf(" (default %s)", f.DefValue)
		}
	}
	return name, text
}

// wrap breaks a text between words into lines of a width, as far as they fit; one of
// less than 20 is none.
func wrap(text string, width int) []string {
	if width < 20 {
		return []string{text}
	}
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// outputWidth is the width of the terminal that standard output is, 0 for another file.
func (e *env) outputWidth() int {
	width, _, err := term.GetSize(int(e.stdout.Fd()))
	if err != nil {
		return 0
	}
	return width
}
