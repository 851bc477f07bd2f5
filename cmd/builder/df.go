// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/docker/go-units"
)

// dfRow is what a --format of df can show. The names are docker's.
type dfRow struct {
	Type        string
	TotalCount  string
	Active      string
	Size        string
	Reclaimable string

	Bytes            string // the sizes exactly
	ReclaimableBytes string
}

// dfPieceRow is the same with --verbose.
type dfPieceRow struct {
	Type        string
	ID          string
	Description string
	Size        string
	LastUsed    string
	Reclaimable string
	Bytes       string
}

func runDf(ctx context.Context, e *env, args []string) error {
	fs := flags("df")
	verbose := fs.BoolP("verbose", "v", false, "show each thing")
	format := fs.String("format", "", "`table`, json, or a Go template")
	if _, err := e.parse(fs, args, 0, 0); err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	v, err := newSurvey(s)
	if err != nil {
		return err
	}
	pieces, err := v.run(ctx)
	if err != nil {
		return fmt.Errorf("measure the state directory: %w", err)
	}
	if *verbose {
		return printPieces(e, *format, pieces)
	}
	t := table{format: *format, header: dfRow{"TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE", "BYTES", "RECLAIMABLE BYTES"}, columns: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"}
	var rows []any
	sum := tally{}
	for _, k := range kinds() {
		row := tally{}
		for _, p := range pieces {
			if p.kind == k {
				row.add(p)
				sum.add(p)
			}
		}
		rows = append(rows, row.show(string(k)))
	}
	return t.print(e.stdout, append(rows, sum.show("total")))
}

// tally counts pieces, active ones besides.
type tally struct {
	count, active     int
	size, reclaimable int64
}

func (t *tally) add(p piece) {
	if p.kind != kindOther {
		t.count++
		if !p.reclaimable() {
			t.active++
		}
	}
	t.size += p.size
	if p.reclaimable() {
		t.reclaimable += p.size
	}
}

// reclaimable reports whether prune --all would remove a piece, or container prune or
// volume prune --all: nothing that runs needs it, and no container an image or a volume.
func (p piece) reclaimable() bool { return p.need < needUse || p.idle }

func (t tally) show(name string) dfRow {
	percent := int64(0)
	if t.size > 0 {
		percent = t.reclaimable * 100 / t.size
	}
	return dfRow{
		Type: upperFirst(name), TotalCount: strconv.Itoa(t.count), Active: strconv.Itoa(t.active),
		Size: humanSize(t.size), Reclaimable: fmt.Sprintf("%s (%d%%)", humanSize(t.reclaimable), percent),
		Bytes: strconv.FormatInt(t.size, 10), ReclaimableBytes: strconv.FormatInt(t.reclaimable, 10),
	}
}

func printPieces(e *env, format string, pieces []piece) error {
	t := table{
		format: format, header: dfPieceRow{"TYPE", "ID", "DESCRIPTION", "SIZE", "LAST USED", "RECLAIMABLE", "BYTES"},
		columns: "{{.Type}}\t{{truncate .ID 19}}\t{{.Size}}\t{{.LastUsed}}\t{{.Reclaimable}}\t{{truncate .Description 60}}",
	}
	order := kinds()
	pieces = slices.Clone(pieces)
	slices.SortStableFunc(pieces, func(a, b piece) int { return slices.Index(order, a.kind) - slices.Index(order, b.kind) })
	var rows []any
	for _, p := range pieces {
		rows = append(rows, dfPieceRow{
			Type: upperFirst(string(p.kind)), ID: p.id, Description: p.about, Size: humanSize(p.size),
			LastUsed: lastUsed(p.used), Reclaimable: strconv.FormatBool(p.reclaimable()), Bytes: strconv.FormatInt(p.size, 10),
		})
	}
	return t.print(e.stdout, rows)
}

func lastUsed(t time.Time) string {
	if t.IsZero() {
		return "N/A"
	}
	return units.HumanDuration(time.Since(t)) + " ago"
}
