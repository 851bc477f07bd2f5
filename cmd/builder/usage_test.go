// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/pflag"
)

// TestUsage holds that descriptions of flags fit the terminal and lose no word.
func TestUsage(t *testing.T) {
	fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.BoolP("all", "a", false, "show all")
	fs.Bool("check", true, "look at it")
	fs.StringArray("label", nil, "a label")
	fs.String("mode", "fast", "how: `slow|fast`, which is a choice that needs more words than fit a line")
	fs.String("choice", "", "one of `"+strings.Repeat("very|", 10)+"long`")
	fs.Int("number", 0, "of things")
	fs.Bool("secret", false, "nobody sees it")
	if err := fs.MarkHidden("secret"); err != nil {
		t.Fatal(err)
	}
	const want = `  -a, --all             show all
      --check           look at it (default on:
                        --check=false)
      --choice very|very|very|very|very|very|very|very|very|very|long
                        one of
                        very|very|very|very|very|very|very|very|very|very|long
      --label string    a label
      --mode slow|fast  how: slow|fast, which is a
                        choice that needs more words
                        than fit a line (default fast)
      --number int      of things
`
	if got := flagUsages(fs, 54); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	wide, narrow := flagUsages(fs, 0), flagUsages(fs, 54)
	if got, want := strings.Join(strings.Fields(narrow), " "), strings.Join(strings.Fields(wide), " "); got != want {
		t.Errorf("words are\n%s\nwant\n%s", got, want)
	}
	w := newBench(t)
	for _, c := range commands() {
		if c.short == "" {
			continue
		}
		for line := range strings.Lines(w.ok(c.name, "--help")) {
			if name, text, ok := strings.Cut(strings.TrimLeft(line, " "), "  "); ok && strings.HasPrefix(name, "-") && utf8.RuneCountInString(line)-utf8.RuneCountInString(strings.TrimLeft(text, " ")) > textColumn {
				t.Errorf("%s --help: the text begins too late: %s", c.name, line)
			}
		}
	}
}
