// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"builder/image"
)

// historyRow is what a --format of history can show. The names are docker's.
type historyRow struct {
	ID           string
	CreatedSince string
	CreatedAt    string
	CreatedBy    string
	Size         string
	Comment      string
}

var historyHeader = historyRow{
	ID: "IMAGE", CreatedSince: "CREATED", CreatedAt: "CREATED AT", CreatedBy: "CREATED BY", Size: "SIZE", Comment: "COMMENT",
}

func runHistory(_ context.Context, e *env, args []string) error {
	fs := flags("history")
	format := fs.String("format", "", "`table`, json, or a Go template")
	human := fs.BoolP("human", "H", true, "show sizes and times as people say them")
	noTrunc := fs.Bool("no-trunc", false, "don't shorten")
	platform := fs.String("platform", "", platformUsage)
	quiet := fs.BoolP("quiet", "q", false, "show only IDs")
	names, err := e.parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	_, img, err := imageFor(s, names[0], *platform)
	if err != nil {
		return err
	}
	rows := historyRows(img, *human, *noTrunc)
	if *quiet && *format == "" {
		for _, r := range rows {
			fmt.Fprintln(e.stdout, r.(historyRow).ID)
		}
		return nil
	}
	t := table{format: *format, header: historyHeader, columns: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"}
	if !*human {
		t.columns = strings.Replace(t.columns, "CreatedSince", "CreatedAt", 1)
	}
	return t.print(e.stdout, rows)
}

// historyRows tells how an image came to be, the last step first. Only that
// one has an ID: what came before was never an image.
func historyRows(img image.Image, human, noTrunc bool) []any {
	layers := img.Manifest.Layers
	rows := make([]any, len(img.Config.History))
	for i, h := range img.Config.History {
		var size int64
		if !h.EmptyLayer && len(layers) > 0 {
			size, layers = layers[0].Size, layers[1:]
		}
		r := historyRow{ID: "<missing>", CreatedBy: strings.ReplaceAll(h.CreatedBy, "\t", " "), Comment: h.Comment, Size: strconv.FormatInt(size, 10)}
		if human {
			r.Size = humanSize(size)
		}
		if h.Created != nil {
			r.CreatedSince, r.CreatedAt = since(*h.Created), h.Created.Local().Format(time.RFC3339)
		}
		if !noTrunc {
			r.CreatedBy = shorten(r.CreatedBy, 45)
		}
		if i == len(rows)-1 {
			r.ID = formatID(img.ID(), noTrunc)
		}
		rows[len(rows)-1-i] = r
	}
	return rows
}
