// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"fmt"
	"strings"
)

// explained is how many findings the summary at the end shows in full.
const explained = 5

// Finding is what a build check found in a Dockerfile.
type Finding struct {
	Rule        string
	Description string // of the rule
	URL         string // where the rule is explained, or ""
	Message     string
	File        string // as messages call it
	Source      []byte // its text; the receiver may keep it
	Start, End  int    // lines, counted from 1; 0 for no place
}

// String is a finding in full, with the lines that it is about:
//
//	WARNING: MaintainerDeprecated - https://docs.docker.com/…
//	Maintainer instruction is deprecated in favor of using label
//	Dockerfile:2
//	--------------------
//	   1 |     FROM debian
//	   2 | >>> MAINTAINER me
//	--------------------
func (f Finding) String() string {
	url := ""
	if f.URL != "" {
		url = " - " + f.URL
	}
	return fmt.Sprintf("WARNING: %s%s\n%s\n%s", f.Rule, url, oneLine(f.Message, longestName), Excerpt(f.File, f.Source, f.Start, f.End))
}

// summary is what is shown of findings at the end of a build: the first few in
// full, of each other one a line, and what is there twice once. It is "" where
// there are none.
func summary(findings []Finding, color bool) string {
	findings = unique(findings)
	if len(findings) == 0 {
		return ""
	}
	var b strings.Builder
	head := "1 warning found:"
	if n := len(findings); n > 1 {
		head = fmt.Sprintf("%d warnings found:", n)
	}
	if color {
		head = yellow + head + plainText
	}
	fmt.Fprintf(&b, "\n %s\n", head)
	for i, f := range findings {
		if i < explained {
			fmt.Fprintf(&b, "\n%s", f)
			continue
		}
		if i == explained {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, " - %s: %s (%s:%d)\n", f.Rule, oneLine(f.Message, longestName), oneLine(f.File, longestName), f.Start)
	}
	if len(findings) > explained {
		b.WriteString("\n builder build --check shows all of them in full\n")
	}
	return b.String()
}

func unique(findings []Finding) []Finding {
	type key struct {
		rule, message, file string
		start, end          int
	}
	seen := map[key]bool{}
	var out []Finding
	for _, f := range findings {
		k := key{f.Rule, f.Message, f.File, f.Start, f.End}
		if !seen[k] {
			seen[k] = true
			out = append(out, f)
		}
	}
	return out
}
