// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"fmt"
	"io"

	"builder/layer"
	"builder/rootfs"
	"builder/snapshot"
	"builder/supervisor"
)

// runExport writes the files of a container as a tar.
func runExport(ctx context.Context, e *env, args []string) error {
	fs := flags("export")
	output := fs.StringP("output", "o", "-", "write to a `FILE` instead of standard output")
	words, err := e.parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	rfs, err := rootfs.Open(s)
	if err != nil {
		return err
	}
	records := supervisor.NewRecords(s)
	r, err := records.Find(words[0])
	if err != nil {
		return err
	}
	if !r.State.Alive() {
		// Held, so that nobody starts or removes it meanwhile.
		lock, err := records.Hold(r.Config)
		if err != nil {
			return fmt.Errorf("export %s: %w", r.Name, err)
		}
		defer lock.Release()
	}
	root, err := containerView(ctx, rfs, records.Dir(r.ID), snapshot.ID(r.Snapshot))
	if err != nil {
		return fmt.Errorf("export %s: %w", r.Name, err)
	}
	defer root.Close()
	err = e.writeFile(*output, func(w io.Writer) error {
		opts := layer.Options{Compression: layer.Uncompressed, Live: true, Owners: shownOwners(r.Spec.IDs)}
		_, err := layer.WriteTrees(ctx, w, []layer.Tree{{Root: root}}, opts)
		return err
	})
	if err == nil {
		records.Event(r.Config, "export", nil)
	}
	return err
}
