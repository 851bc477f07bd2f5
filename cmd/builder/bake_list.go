// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"builder/bake"
)

// listBake shows the targets or variables of a definition: what is
// targets|variables, or type=TYPE,format=table|json.
func listBake(w io.Writer, what string, cfg *bake.Config) error {
	kind, format := "", "table"
	for i, field := range strings.Split(what, ",") {
		key, value, ok := strings.Cut(field, "=")
		switch {
		case !ok && i == 0:
			kind = field
		case key == "type":
			kind = value
		case key == "format":
			format = value
		default:
			return &usageError{msg: fmt.Sprintf("bake: --list %q: unknown field %q", what, field), hint: "such as --list targets, --list type=variables,format=json"}
		}
	}
	if format != "table" && format != "json" {
		return &usageError{msg: fmt.Sprintf("bake: --list %q: unknown format %q: want table or json", what, format)}
	}
	switch kind {
	case "targets":
		return listTargets(w, format, cfg)
	case "variables":
		return listVariables(w, format, cfg)
	}
	return &usageError{msg: fmt.Sprintf("bake: --list %q: want targets or variables", what)}
}

// listedTarget is a row of --list targets.
type listedTarget struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Group       bool   `json:"group,omitempty"`
}

// listTargets shows targets and groups but those that begin with _, which are
// for the definition's own use.
func listTargets(w io.Writer, format string, cfg *bake.Config) error {
	var rows []listedTarget
	for _, t := range cfg.Targets {
		rows = append(rows, listedTarget{Name: t.Name, Description: t.Description})
	}
	for _, g := range cfg.Groups {
		members := strings.Join(slices.Sorted(slices.Values(g.Targets)), ", ")
		row := listedTarget{Name: g.Name, Description: members, Group: true}
		if g.Description != "" && members != "" {
			row.Description = g.Description + " (" + members + ")"
		} else if g.Description != "" {
			row.Description = g.Description
		}
		rows = append(rows, row)
	}
	rows = slices.DeleteFunc(rows, func(r listedTarget) bool { return strings.HasPrefix(r.Name, "_") })
	slices.SortStableFunc(rows, func(a, b listedTarget) int { return strings.Compare(a.Name, b.Name) })
	if format == "json" {
		return printJSON(w, rows)
	}
	table := [][]string{{"TARGET", "DESCRIPTION"}}
	for _, r := range rows {
		table = append(table, []string{r.Name, r.Description})
	}
	return writeTable(w, table)
}

func listVariables(w io.Writer, format string, cfg *bake.Config) error {
	if format == "json" {
		return printJSON(w, cfg.Variables)
	}
	table := [][]string{{"VARIABLE", "TYPE", "VALUE", "DESCRIPTION"}}
	for _, v := range cfg.Variables {
		value := "<null>"
		if v.Value != nil {
			value = *v.Value
		}
		table = append(table, []string{v.Name, v.Type, value, v.Description})
	}
	return writeTable(w, table)
}

func writeTable(w io.Writer, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 1, 8, 1, '\t', 0)
	for _, r := range rows {
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	return tw.Flush()
}
