// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
)

func runPs(_ context.Context, e *env, args []string) error {
	fs := flags("ps")
	all := fs.BoolP("all", "a", false, "show ended containers too")
	quiet := fs.BoolP("quiet", "q", false, "show only IDs")
	noTrunc := fs.Bool("no-trunc", false, "don't shorten")
	if _, err := e.parse(fs, args, 0, 0); err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	cs := containerStore{s}
	list, err := cs.list()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 3, ' ', 0)
	if !*quiet {
		fmt.Fprintln(w, "CONTAINER ID\tIMAGE\tCOMMAND\tCREATED\tSTATUS\tNAMES")
	}
	for _, r := range list {
		running := cs.running(r)
		if !running && !*all {
			continue
		}
		id, command := r.ID, fmt.Sprintf("%q", strings.Join(r.Args, " "))
		if !*noTrunc {
			id = id[:min(12, len(id))]
			if len(command) > 20 {
				command = command[:19] + "…"
			}
		}
		if *quiet {
			fmt.Fprintln(w, id)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s ago\t%s\t%s\n", id, r.Image, command, units.HumanDuration(time.Since(r.Created)), r.status(running), r.Name)
	}
	return w.Flush()
}

// status is the STATUS column of ps.
func (r record) status(running bool) string {
	switch {
	case running:
		return "Up " + units.HumanDuration(time.Since(r.Created))
	case r.Done:
		return fmt.Sprintf("Exited (%d) %s ago", r.ExitCode, units.HumanDuration(time.Since(r.Finished)))
	}
	return "Dead"
}

func runRm(ctx context.Context, e *env, args []string) error {
	fs := flags("rm")
	names, err := e.parse(fs, args, 1, -1)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	cs := containerStore{s}
	var errs []error
	for _, name := range names {
		r, err := cs.find(name)
		if err == nil {
			err = cs.remove(r)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintln(e.stdout, name)
	}
	return errors.Join(errs...)
}
