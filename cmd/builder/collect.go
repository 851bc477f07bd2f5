// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"errors"
	"time"

	"builder/build"
	"builder/cache"
	"builder/rootfs"
	"builder/snapshot"
	"builder/store"
	"builder/supervisor"
)

// collectGarbage removes what no image, cached step or container needs. While
// another process uses the store it does nothing: the next one that removes
// something does it then.
func collectGarbage(ctx context.Context, e *env) error {
	_, err := collect(ctx, e, 0, func(build.FailedSteps, snapshot.Snapshotter) error { return nil })
	return err
}

// collect does first and then removes what no image, cached step or container
// needs. It does neither, and reports busy, if others use the store for longer
// than wait.
func collect(ctx context.Context, e *env, wait time.Duration, first func(build.FailedSteps, snapshot.Snapshotter) error) (busy bool, err error) {
	s, err := e.store()
	if err != nil {
		return false, err
	}
	rfs, err := rootfs.Open(s)
	if err != nil {
		return false, err
	}
	err = s.Exclusive(wait, func() error {
		failed := build.NewFailedSteps(s)
		if err := first(failed, rfs.Snapshots()); err != nil {
			return err
		}
		if err := failed.Expire(ctx, rfs.Snapshots(), time.Now()); err != nil {
			return err
		}
		keep, err := kept(s, failed)
		if err != nil {
			return err
		}
		_, err = rfs.Collect(ctx, keep)
		return err
	})
	if errors.Is(err, store.ErrBusy) {
		return true, nil
	}
	// What was detached is nobody's: others need not wait for the removal.
	return false, errors.Join(err, rfs.Snapshots().Sweep())
}

// kept are the snapshots that containers, failed steps and step records need.
func kept(s *store.Store, failed build.FailedSteps) ([]snapshot.ID, error) {
	c, err := cache.Open(s)
	if err != nil {
		return nil, err
	}
	keep, err := supervisor.NewRecords(s).Snapshots()
	if err != nil {
		return nil, err
	}
	mounts, err := mountsOf(s).list()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		keep = append(keep, snapshot.ID(m.Snapshot))
	}
	stand, err := failed.Snapshots()
	if err != nil {
		return nil, err
	}
	keep = append(keep, stand...)
	err = c.Walk(func(r *cache.Record) error {
		if r.Snapshot != "" {
			keep = append(keep, snapshot.ID(r.Snapshot))
		}
		return nil
	})
	return keep, err
}
