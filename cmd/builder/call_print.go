// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"builder/build"
	"builder/dockerfile"
	"builder/progress"
)

// The JSON is what docker buildx prints, without the definition that BuildKit
// loaded the Dockerfile with.

type jsonCheck struct {
	Warnings []jsonWarning `json:"warnings"`
	Sources  []jsonSource  `json:"sources"`
	Error    *jsonError    `json:"buildError,omitempty"`
}

type jsonWarning struct {
	RuleName    string        `json:"ruleName"`
	Description string        `json:"description,omitempty"`
	URL         string        `json:"url,omitempty"`
	Detail      string        `json:"detail,omitempty"`
	Location    *jsonLocation `json:"location,omitempty"`
}

type jsonSource struct {
	Filename string `json:"filename"`
	Data     []byte `json:"data"`
	Language string `json:"language"`
}

type jsonError struct {
	Message  string        `json:"message"`
	Location *jsonLocation `json:"location"`
}

type jsonLocation struct {
	Ranges []jsonRange `json:"ranges,omitempty"`
}

type jsonRange struct {
	Start jsonPosition `json:"start"`
	End   jsonPosition `json:"end"`
}

type jsonPosition struct {
	Line int `json:"line"`
}

// newLocation has a range for each line, as BuildKit's has.
func newLocation(start, end int) *jsonLocation {
	l := &jsonLocation{}
	for n := start; n > 0 && n <= end; n++ {
		l.Ranges = append(l.Ranges, jsonRange{jsonPosition{n}, jsonPosition{n}})
	}
	return l
}

func printJSON(w io.Writer, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", data)
	return err
}

// printCheck prints what the checks found and returns what the command ends
// with: the error that they met, or else the exit code.
func (e *env) printCheck(c *call, got checked) error {
	var err error
	switch c.format {
	case "json":
		err = printJSON(e.stdout, newJSONCheck(got))
	case "sarif":
		err = printJSON(e.stdout, newSARIF(got))
	default:
		printFindings(e.stdout, got)
	}
	switch {
	case err != nil:
		return err
	case got.err != nil:
		return got.err
	case len(got.findings) > 0 && !c.ignoreStatus:
		return &exitError{exitFailure}
	}
	return nil
}

func newJSONCheck(got checked) jsonCheck {
	out := jsonCheck{Sources: []jsonSource{{got.name, got.source, "Dockerfile"}}}
	for _, f := range got.findings {
		out.Warnings = append(out.Warnings, jsonWarning{f.Rule, f.Description, f.URL, f.Message, newLocation(f.Start, f.End)})
	}
	if got.err != nil {
		start, end, message := got.place()
		out.Error = &jsonError{message, newLocation(start, end)}
	}
	return out
}

// printFindings prints findings in the order of the Dockerfile.
func printFindings(w io.Writer, got checked) {
	findings := slices.Clone(got.findings)
	slices.SortStableFunc(findings, func(a, b progress.Finding) int { return a.Start - b.Start })
	switch n := len(findings); {
	case n == 1:
		fmt.Fprintln(w, "Check complete, 1 warning has been found!")
	case n > 1:
		fmt.Fprintf(w, "Check complete, %d warnings have been found!\n", n)
	case got.err == nil:
		fmt.Fprintln(w, "Check complete, no warnings found.")
	}
	for _, f := range findings {
		fmt.Fprintf(w, "\n%s", f)
	}
	if got.err != nil && len(findings) > 0 {
		fmt.Fprintln(w)
	}
}

type jsonTargets struct {
	Targets []jsonTarget `json:"targets"`
	Sources [][]byte     `json:"sources"`
}

type jsonTarget struct {
	Name        string        `json:"name,omitempty"`
	Default     bool          `json:"default,omitempty"`
	Description string        `json:"description,omitempty"`
	Base        string        `json:"base,omitempty"`
	Platform    string        `json:"platform,omitempty"`
	Location    *jsonLocation `json:"location,omitempty"`
}

// printTargets prints the stages that can be built.
func (e *env) printTargets(c *call, f *dockerfile.File) error {
	if c.format == "json" {
		out := jsonTargets{Sources: [][]byte{f.Source}}
		for i, st := range f.Stages {
			start, end := dockerfile.Lines(st.Location)
			out.Targets = append(out.Targets, jsonTarget{st.Name, i == len(f.Stages)-1, st.DocComment, st.BaseName, st.Platform, newLocation(start, end)})
		}
		return printJSON(e.stdout, out)
	}
	tw := tabwriter.NewWriter(e.stdout, 0, 0, 1, ' ', 0)
	fmt.Fprint(tw, "TARGET\tDESCRIPTION\n")
	for i, st := range f.Stages {
		name := st.Name
		if i == len(f.Stages)-1 {
			if name != "" {
				name += " "
			}
			name += "(default)"
		}
		fmt.Fprintf(tw, "%s\t%s\n", name, st.DocComment)
	}
	return tw.Flush()
}

type jsonOutline struct {
	Name        string      `json:"name,omitempty"`
	Description string      `json:"description,omitempty"`
	Args        []jsonArg   `json:"args,omitempty"`
	Secrets     []jsonMount `json:"secrets,omitempty"`
	SSH         []jsonMount `json:"ssh,omitempty"`
	Cache       []jsonCache `json:"cache,omitempty"`
	Sources     [][]byte    `json:"sources,omitempty"`
}

type jsonArg struct {
	Name        string        `json:"name"`
	Description string        `json:"description,omitempty"`
	Value       string        `json:"value,omitempty"`
	Location    *jsonLocation `json:"location,omitempty"`
}

type jsonMount struct {
	Name     string        `json:"name"`
	Required bool          `json:"required,omitempty"`
	Location *jsonLocation `json:"location,omitempty"`
}

type jsonCache struct {
	ID       string        `json:"ID"`
	Location *jsonLocation `json:"location,omitempty"`
}

// printOutline prints what a target takes.
func (e *env) printOutline(c *call, f *dockerfile.File, o *build.Outline) error {
	if c.format == "json" {
		return printJSON(e.stdout, newJSONOutline(f, o))
	}
	if o.Name != "" || o.Description != "" {
		tw := tabwriter.NewWriter(e.stdout, 0, 0, 1, ' ', 0)
		name := o.Name
		if name == "" {
			name = "(default)"
		}
		fmt.Fprintf(tw, "TARGET:\t%s\n", name)
		if o.Description != "" {
			fmt.Fprintf(tw, "DESCRIPTION:\t%s\n", o.Description)
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(e.stdout)
	}
	var args [][]string
	for _, a := range o.Args {
		args = append(args, []string{a.Name, a.Value, a.Description})
	}
	var caches [][]string
	for _, m := range o.Caches {
		caches = append(caches, []string{m.ID})
	}
	e.printTable([]string{"BUILD ARG", "VALUE", "DESCRIPTION"}, args)
	e.printTable([]string{"SECRET", "REQUIRED"}, mountRows(o.Secrets))
	e.printTable([]string{"SSH", "REQUIRED"}, mountRows(o.SSH))
	e.printTable([]string{"CACHE"}, caches)
	return nil
}

func mountRows(mounts []build.OutlineMount) [][]string {
	var rows [][]string
	for _, m := range mounts {
		required := ""
		if m.Required {
			required = "true"
		}
		rows = append(rows, []string{m.ID, required})
	}
	return rows
}

// printTable prints a table and an empty line, nothing if there are no rows.
func (e *env) printTable(head []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	tw := tabwriter.NewWriter(e.stdout, 0, 0, 3, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(tw, "\t")
			}
			fmt.Fprint(tw, cell)
		}
		fmt.Fprintln(tw)
	}
	tw.Flush() //nolint:errcheck // standard output; nothing to be done about it
	fmt.Fprintln(e.stdout)
}

func newJSONOutline(f *dockerfile.File, o *build.Outline) jsonOutline {
	out := jsonOutline{Name: o.Name, Description: o.Description, Sources: [][]byte{f.Source}}
	for _, a := range o.Args {
		out.Args = append(out.Args, jsonArg{a.Name, a.Description, a.Value, newLocation(a.Start, a.End)})
	}
	mounts := func(list []build.OutlineMount) (rows []jsonMount) {
		for _, m := range list {
			rows = append(rows, jsonMount{m.ID, m.Required, newLocation(m.Start, m.End)})
		}
		return rows
	}
	out.Secrets, out.SSH = mounts(o.Secrets), mounts(o.SSH)
	for _, m := range o.Caches {
		out.Cache = append(out.Cache, jsonCache{m.ID, newLocation(m.Start, m.End)})
	}
	return out
}
