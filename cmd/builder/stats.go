// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"builder/container"
	"builder/supervisor"

	"github.com/docker/go-units"
	"golang.org/x/term"
)

// statsRow is what a --format of stats can show. The names are docker's.
type statsRow struct {
	BlockIO   string
	CPUPerc   string
	Container string
	ID        string
	MemPerc   string
	MemUsage  string
	Name      string
	NetIO     string
	PIDs      string
}

var statsHeader = statsRow{
	BlockIO: "BLOCK I/O", CPUPerc: "CPU %", Container: "CONTAINER", ID: "CONTAINER ID", MemPerc: "MEM %", MemUsage: "MEM USAGE / LIMIT", Name: "NAME",
	NetIO: "NET I/O", PIDs: "PIDS",
}

const statsColumns = "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}"

// Times between two readings: the first ones, which are waited for, and others.
const (
	firstReading = 500 * time.Millisecond
	nextReading  = time.Second
)

// runStats shows what containers use.
func runStats(ctx context.Context, e *env, args []string) error {
	fs := flags("stats")
	all := fs.BoolP("all", "a", false, "show containers that don't run too")
	noStream := fs.Bool("no-stream", false, "show it once and not again and again")
	noTrunc := fs.Bool("no-trunc", false, "don't shorten IDs")
	format := fs.String("format", "", "a Go template, `json`, or \"table TEMPLATE\"")
	words, err := e.parse(fs, args, 0, -1)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	st := &statistics{records: supervisor.NewRecords(s), names: words, all: *all, noTrunc: *noTrunc}
	if st.groups, err = container.OpenGroups(); err != nil {
		return err
	}
	if _, err := st.read(); err != nil {
		return err
	}
	if err := s.Leave(); err != nil {
		return err
	}
	t := table{format: first(*format, e.dockerConfig().StatsFormat), columns: statsColumns, header: statsHeader}
	for wait := firstReading; ; wait = nextReading {
		select {
		case <-ctx.Done():
			return nil // the way to end it
		case <-time.After(wait):
		}
		rows, err := st.read()
		if err != nil {
			return err
		}
		var out bytes.Buffer
		if err := t.print(&out, rows); err != nil {
			return err
		}
		if err := e.showAgain(out.Bytes(), *noStream); err != nil {
			return err
		}
		if *noStream || len(rows) == 0 && len(words) > 0 {
			return nil
		}
	}
}

// showAgain writes a table over the one before, on a terminal.
func (e *env) showAgain(out []byte, once bool) error {
	if !once && term.IsTerminal(int(e.stdout.Fd())) {
		// Home; the rest of each line, and what is below, is cleared.
		out = append([]byte("\x1b[H"), bytes.ReplaceAll(out, []byte("\n"), []byte("\x1b[K\n"))...)
		out = append(out, "\x1b[J"...)
	}
	_, err := e.stdout.Write(out)
	return err
}

// statistics are readings of containers, the last one of each being kept: what
// is used in a time is the difference.
type statistics struct {
	records supervisor.Records
	groups  container.Groups
	names   []string
	all     bool
	noTrunc bool
	before  map[string]container.Stats // nil before the first
}

func (s *statistics) read() ([]any, error) {
	list, asked, err := s.containers()
	if err != nil {
		return nil, err
	}
	rows := make([]any, 0, len(list))
	now := map[string]container.Stats{}
	for i, c := range list {
		row := statsRow{Container: asked[i], Name: c.Name, ID: c.ID, CPUPerc: "0.00%", MemPerc: "0.00%", MemUsage: "0B / 0B", NetIO: "0B / 0B", BlockIO: "0B / 0B", PIDs: "0"}
		if !s.noTrunc {
			row.ID = truncate(row.ID, 12)
		}
		if c.State.Alive() {
			if st, err := s.one(c); err == nil { // else it has just ended
				row.fill(st, s.before[c.ID])
				now[c.ID] = st
			}
		}
		rows = append(rows, row)
	}
	s.before = now
	return rows, nil
}

// containers are those that are shown, and how they were asked for.
func (s *statistics) containers() (list []supervisor.Container, asked []string, err error) {
	if len(s.names) == 0 {
		if list, err = s.records.List(); err != nil {
			return nil, nil, err
		}
		if !s.all {
			list = slices.DeleteFunc(list, func(c supervisor.Container) bool { return !c.State.Alive() })
		}
		for _, c := range list {
			asked = append(asked, truncate(c.ID, 12))
		}
		return list, asked, nil
	}
	for _, name := range s.names {
		c, err := s.records.Find(name)
		if err != nil {
			if s.before != nil && errors.Is(err, supervisor.ErrNotFound) {
				continue // removed meanwhile
			}
			return nil, nil, err
		}
		list, asked = append(list, c), append(asked, name)
	}
	return list, asked, nil
}

func (s *statistics) one(c supervisor.Container) (container.Stats, error) {
	g, err := findGroup(s.groups, c)
	if err != nil {
		return container.Stats{}, err
	}
	defer g.Close()
	return g.Stats()
}

// fill shows a reading; the share of processors is since the one before.
func (r *statsRow) fill(st, before container.Stats) {
	if d := st.Time.Sub(before.Time); !before.Time.IsZero() && d > 0 && st.CPU >= before.CPU {
		r.CPUPerc = fmt.Sprintf("%.2f%%", float64(st.CPU-before.CPU)/float64(d)*100)
	}
	r.MemUsage = units.BytesSize(float64(st.Memory)) + " / " + units.BytesSize(float64(st.MemoryLimit))
	if st.MemoryLimit > 0 {
		r.MemPerc = fmt.Sprintf("%.2f%%", float64(st.Memory)/float64(st.MemoryLimit)*100)
	}
	pair := func(a, b uint64) string {
		return units.HumanSizeWithPrecision(float64(a), 3) + " / " + units.HumanSizeWithPrecision(float64(b), 3)
	}
	r.NetIO, r.BlockIO = pair(st.NetReceived, st.NetSent), pair(st.DiskRead, st.DiskWritten)
	r.PIDs = strconv.FormatUint(st.Pids, 10)
}
