// SPDX-License-Identifier: Apache-2.0

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
)

// collectGarbage removes what no image, cached step or container needs. While
// another process uses the store it does nothing: the next one that removes
// something does it then.
func collectGarbage(ctx context.Context, e *env) error {
	s, err := e.store()
	if err != nil {
		return err
	}
	err = s.Exclusive(func() error {
		rfs, err := rootfs.Open(s)
		if err != nil {
			return err
		}
		c, err := cache.Open(s)
		if err != nil {
			return err
		}
		keep, err := containerSnapshots(s)
		if err != nil {
			return err
		}
		failed := build.NewFailedSteps(s)
		if err := failed.Expire(ctx, rfs.Snapshots(), time.Now()); err != nil {
			return err
		}
		stand, err := failed.Snapshots()
		if err != nil {
			return err
		}
		keep = append(keep, stand...)
		err = c.Walk(func(r *cache.Record) error {
			keep = append(keep, snapshot.ID(r.Snapshot))
			return nil
		})
		if err != nil {
			return err
		}
		_, err = rfs.Collect(ctx, keep)
		return err
	})
	if errors.Is(err, store.ErrBusy) {
		return nil
	}
	return err
}
