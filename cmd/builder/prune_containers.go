// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"builder/internal/sys"
	"builder/supervisor"
)

// runContainerPrune removes containers that don't run.
func runContainerPrune(_ context.Context, e *env, args []string) error {
	fs := flags("container")
	force := fs.BoolP("force", "f", false, "don't ask")
	filters := fs.StringArray("filter", nil, "only containers of a `NAME=VALUE` as ps has: label, until, …")
	if _, err := e.parse(fs, args, 0, 0); err != nil {
		return err
	}
	if !*force {
		if err := e.confirmed("container prune", "all containers that don't run"); err != nil {
			return err
		}
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	gone, freed, err := e.pruneContainers(e.records(s), e.pruneFilters(*filters))
	for _, id := range gone {
		fmt.Fprintln(e.stdout, id)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "\nTotal reclaimed space: %s\n", humanSize(freed))
	return nil
}

// pruneContainers removes containers that don't run.
func (e *env) pruneContainers(records supervisor.Records, filters []string) (gone []string, freed int64, err error) {
	match, err := parseContainerFilters(e, filters)
	if err != nil {
		return nil, 0, err
	}
	list, err := records.List()
	if err != nil {
		return nil, 0, err
	}
	for _, c := range list {
		if c.State.Alive() || c.State.Status == supervisor.Restarting || !match(c) {
			continue
		}
		var m sys.Meter
		size, err := m.Take(records.Dir(c.ID))
		if err != nil {
			return gone, freed, err
		}
		err = records.Remove(c.Config)
		if errors.Is(err, supervisor.ErrRunning) {
			continue // it was just started
		}
		if err != nil {
			return gone, freed, err
		}
		freed += size
		records.Event(c.Config, "destroy", nil)
		gone = append(gone, c.ID)
	}
	return gone, freed, nil
}
