// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// prunes are docker's commands of the name prune that are more, or less, than prune.
func prunes() map[string]runFunc {
	return map[string]runFunc{
		"builder": runPrune, "buildx": runPrune, "container": runContainerPrune, "image": runImagePrune, "system": runSystemPrune,
	}
}

// runImagePrune removes images without a name, or all that no container needs. What
// only the cache needs of them stays.
func runImagePrune(ctx context.Context, e *env, args []string) error {
	fs := flags("image")
	var f pruneFlags
	fs.BoolVarP(&f.all, "all", "a", false, "also images with a name, if no container needs them")
	fs.BoolVarP(&f.force, "force", "f", false, "don't ask")
	filters := fs.StringArray("filter", nil, "remove only what matches `NAME=VALUE`: until, label, label!, dangling")
	if _, err := e.parse(fs, args, 0, 0); err != nil {
		return err
	}
	for _, w := range e.pruneFilters(*filters) {
		switch {
		case w == "dangling=true", w == "dangling=1":
		case w == "dangling=false", w == "dangling=0":
			f.all = true
		case strings.HasPrefix(w, "type="):
			return &usageError{msg: "image prune: --filter type is for builder prune"}
		default:
			f.filters = append(f.filters, w)
		}
	}
	f.filters = append(f.filters, "type=image")
	p, err := f.parse(time.Now())
	if err != nil {
		return err
	}
	if !f.force {
		what := "images without a name"
		if f.all {
			what = "all images without a container"
		}
		if err := e.confirmed("image prune", what); err != nil {
			return err
		}
	}
	return p.remove(ctx, e, false)
}

// runSystemPrune removes what prune does, and before that the containers that don't
// run, networks that none is on, and anonymous volumes if asked to.
func runSystemPrune(ctx context.Context, e *env, args []string) error {
	fs := flags("system")
	var f pruneFlags
	fs.BoolVarP(&f.all, "all", "a", false, "also images with a name that no container needs, and all of the step cache")
	fs.BoolVarP(&f.force, "force", "f", false, "don't ask")
	wordsVar(fs, &f.filters, "filter", "remove only what matches `NAME=VALUE`: until, label, label!")
	volumes := fs.Bool("volumes", false, "also anonymous volumes that no container uses")
	if _, err := e.parse(fs, args, 0, 0); err != nil {
		return err
	}
	f.filters = e.pruneFilters(f.filters)
	p, err := f.parse(time.Now())
	if err != nil {
		return err
	}
	for _, w := range f.filters {
		switch name, _, _ := strings.Cut(w, "="); {
		case name == "until" && *volumes:
			return &usageError{msg: "system prune: --filter until is not for volumes: leave out --volumes"}
		case name == "type":
			return &usageError{msg: "system prune: --filter type is for builder prune"}
		}
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	if !f.force {
		what := []string{"all containers that don't run", "all networks that no container is on"}
		if *volumes {
			what = append(what, "all anonymous volumes that no container uses")
		}
		if err := e.confirmed("system prune", append(what, p.what()...)...); err != nil {
			return err
		}
	}
	records := e.records(s)
	show := func(title string, gone []string) {
		if len(gone) > 0 {
			fmt.Fprintf(e.stdout, "%s:\n%s\n\n", title, strings.Join(gone, "\n"))
		}
	}
	gone, freed, err := e.pruneContainers(records, f.filters)
	show("Deleted Containers", gone)
	if err != nil {
		return err
	}
	gone, err = e.pruneNetworks(records, f.filters)
	show("Deleted Networks", gone)
	if err != nil {
		return err
	}
	if *volumes {
		var more int64
		gone, more, err = pruneVolumes(records, false, f.filters)
		show("Deleted Volumes", gone)
		if err != nil {
			return err
		}
		freed += more
	}
	if freed > 0 {
		fmt.Fprintf(e.stdout, "Reclaimed of these: %s\n\n", humanSize(freed))
	}
	return p.remove(ctx, e, false)
}
