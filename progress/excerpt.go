// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"fmt"
	"strings"
)

const (
	excerptAround = 2   // lines shown before and after
	excerptLines  = 20  // marked lines shown of a long instruction
	excerptWidth  = 200 // bytes shown of a line
)

// Excerpt shows the lines [start,end] (counted from 1) of a Dockerfile and
// those around them, for the report of a failure:
//
//	Dockerfile:12
//	--------------------
//	  11 |     COPY . .
//	  12 | >>> RUN make
//	  13 |
//	--------------------
//
// Of a long instruction the middle is left out. It is "" where source has no
// such line.
func Excerpt(name string, source []byte, start, end int) string {
	lines := bytes.Split(bytes.TrimSuffix(source, []byte("\n")), []byte("\n"))
	end = min(max(start, end), len(lines))
	if start < 1 || start > len(lines) || len(source) == 0 {
		return ""
	}
	var b strings.Builder
	const rule = "--------------------\n"
	fmt.Fprintf(&b, "%s:%d\n%s", oneLine(name, longestName), start, rule)
	skip, resume := end+1, end+1
	if end-start+1 > excerptLines {
		skip, resume = start+excerptLines*3/4, end-excerptLines/4+1
	}
	for n := max(1, start-excerptAround); n <= min(len(lines), end+excerptAround); n++ {
		if n == skip && skip < resume {
			fmt.Fprintf(&b, "     | ... (%d lines)\n", resume-skip)
			n = resume
		}
		mark := "   "
		if n >= start && n <= end {
			mark = ">>>"
		}
		line := lineBuffer{max: excerptWidth, tabs: true}
		line.next(lines[n-1])
		b.WriteString(strings.TrimRight(fmt.Sprintf("%4d | %s %s", n, mark, line.finish()), " ") + "\n")
	}
	b.WriteString(rule)
	return b.String()
}
