// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"
	"unicode/utf8"
)

// table prints rows as docker's listing commands do: in columns, or as a
// --format says, which is "json", a Go template, or "table " and a Go
// template. Rows are structs of string fields; header is such a struct with
// the columns' headings.
type table struct {
	format  string // "" or "table": standard
	columns string // of the standard table, a template
	header  any
}

func (t table) print(w io.Writer, rows []any) error {
	format, inColumns := t.format, false
	switch {
	case format == "" || format == "table":
		format, inColumns = t.columns, true
	case strings.HasPrefix(format, "table "):
		format, inColumns = strings.TrimPrefix(format, "table "), true
	case format == "json":
		format = "{{json .}}"
	}
	tmpl, err := parseTemplate(format)
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	if inColumns {
		rows = append([]any{t.header}, rows...)
	}
	for _, r := range rows {
		if err := tmpl.Execute(&buf, r); err != nil {
			return &usageError{msg: fmt.Sprintf("--format: %v", err)}
		}
		buf.WriteByte('\n')
	}
	if !inColumns {
		_, err := buf.WriteTo(w)
		return err
	}
	tw := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	if _, err := buf.WriteTo(tw); err != nil {
		return err
	}
	return tw.Flush()
}

// parseTemplate parses a --format with the functions that docker has.
func parseTemplate(text string) (*template.Template, error) {
	// In a shell, tabs and line ends are easier to write escaped.
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	tmpl, err := template.New("").Funcs(template.FuncMap{
		"json":     toJSON,
		"split":    strings.Split,
		"join":     strings.Join,
		"lower":    strings.ToLower,
		"upper":    strings.ToUpper,
		"title":    title,
		"pad":      pad,
		"truncate": truncate,
		"println":  fmt.Sprintln,
	}).Parse(text)
	if err != nil {
		return nil, &usageError{msg: fmt.Sprintf("--format: %v", err), hint: "it is a Go template, such as '{{.ID}}: {{.Size}}', or json"}
	}
	return tmpl, nil
}

func toJSON(v any) (string, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return strings.TrimSuffix(buf.String(), "\n"), err
}

func title(s string) string {
	words := strings.Fields(s)
	for i, w := range words {
		words[i] = upperFirst(w)
	}
	return strings.Join(words, " ")
}

func pad(s string, before, after int) string {
	if s == "" {
		return s
	}
	return strings.Repeat(" ", before) + s + strings.Repeat(" ", after)
}

func truncate(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n])
}

// shorten cuts a text to n characters, the last of them an ellipsis.
func shorten(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return truncate(s, n-1) + "…"
}

// stamp is a time that templates show as JSON does (RFC 3339), as docker has it.
type stamp struct{ time.Time }

func (s stamp) String() string { return s.Format(time.RFC3339Nano) }
