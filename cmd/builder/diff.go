// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"

	"builder/image"
	"builder/rootfs"
	"builder/snapshot"
	"builder/store"
	"builder/supervisor"
)

// diffLists is the JSON form of diff. The names are podman's.
type diffLists struct {
	Changed []string `json:"changed,omitempty"`
	Added   []string `json:"added,omitempty"`
	Deleted []string `json:"deleted,omitempty"`
}

func runDiff(ctx context.Context, e *env, args []string) error {
	fs := flags("diff")
	format := fs.String("format", "", "`json`, or nothing for a line for each path")
	platform := fs.String("platform", "", platformUsage)
	names, err := e.parse(fs, args, 1, 2)
	if err != nil {
		return err
	}
	if *format != "" && *format != "json" {
		return &usageError{msg: fmt.Sprintf("diff: --format %q: want json", *format)}
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	if len(names) == 1 && *platform == "" {
		changes, err := containerChanges(ctx, s, names[0])
		if !errors.Is(err, supervisor.ErrNotFound) {
			return e.printChanges(changes, *format, err)
		}
	}
	_, img, err := imageFor(s, names[0], *platform)
	if err != nil {
		return err
	}
	base := withoutLast(img)
	if len(names) > 1 {
		if _, base, err = imageFor(s, names[1], *platform); err != nil {
			return err
		}
	}
	changes, err := rootfs.Diff(ctx, s, base, img)
	if err != nil {
		err = fmt.Errorf("diff %s: %w", names[0], err)
	}
	return e.printChanges(changes, *format, err)
}

// containerChanges are what a container has changed of its image.
func containerChanges(ctx context.Context, s *store.Store, name string) ([]rootfs.Change, error) {
	records := supervisor.NewRecords(s)
	c, err := records.Find(name)
	if err != nil {
		return nil, err
	}
	rfs, err := rootfs.Open(s)
	if err != nil {
		return nil, err
	}
	return rfs.UpperChanges(ctx, upperDir(records, c.ID), snapshot.ID(c.Snapshot))
}

func (e *env) printChanges(changes []rootfs.Change, format string, err error) error {
	if err != nil {
		return err
	}
	if format == "json" {
		return e.printDiffJSON(changes)
	}
	w := bufio.NewWriter(e.stdout)
	for _, c := range changes {
		fmt.Fprintf(w, "%c %s\n", c.Kind, c.Path)
	}
	return w.Flush()
}

// withoutLast is an image as it was before its last layer.
func withoutLast(img image.Image) image.Image {
	if n := len(img.Manifest.Layers); n > 0 {
		img.Manifest.Layers = img.Manifest.Layers[:n-1]
		img.Config.RootFS.DiffIDs = img.Config.RootFS.DiffIDs[:n-1]
	}
	return img
}

func (e *env) printDiffJSON(changes []rootfs.Change) error {
	var lists diffLists
	for _, c := range changes {
		list := &lists.Changed
		switch c.Kind {
		case rootfs.Added:
			list = &lists.Added
		case rootfs.Deleted:
			list = &lists.Deleted
		}
		*list = append(*list, c.Path)
	}
	text, err := toJSON(lists)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(e.stdout, text)
	return err
}
