// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"path/filepath"

	"builder/internal/sys"
	"builder/rootfs"
	"builder/snapshot"
	"builder/store"
	"builder/supervisor"
)

// containerSizes measures containers, and what each stands on once.
type containerSizes struct {
	records supervisor.Records
	snaps   snapshot.Snapshotter
	images  map[snapshot.ID]int64
}

func newContainerSizes(s *store.Store) (*containerSizes, error) {
	rfs, err := rootfs.Open(s)
	if err != nil {
		return nil, err
	}
	return &containerSizes{supervisor.NewRecords(s), rfs.Snapshots(), map[snapshot.ID]int64{}}, nil
}

// of returns how many bytes the files have that a container has written, and how many
// with those of its image, which others may share.
func (s *containerSizes) of(ctx context.Context, c supervisor.Config) (written, whole int64, err error) {
	m := sys.Meter{Lengths: true}
	if written, err = m.Take(filepath.Join(s.records.Dir(c.ID), "fs")); err != nil {
		return 0, 0, err
	}
	below := snapshot.ID(c.Snapshot)
	image, known := s.images[below]
	if !known && below != "" {
		top, lower, err := s.snaps.Diff(ctx, below)
		if err != nil {
			return 0, 0, err
		}
		for _, dir := range append([]string{top}, lower...) {
			n, err := m.Take(dir)
			if err != nil {
				return 0, 0, err
			}
			image += n
		}
		s.images[below] = image
	}
	return written, written + image, nil
}
