// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"os"
	"time"

	"builder/cache"
	owners "builder/internal/owner"
	"builder/internal/sys"
	"builder/snapshot"
)

// workdirOp makes a working directory.
type workdirOp struct {
	dir   string
	user  string // owner of the directories made, "" for root
	epoch *time.Time
}

func (o *workdirOp) kind() string      { return "workdir" }
func (o *workdirOp) sources() []*stage { return nil }

func (o *workdirOp) key(_ context.Context, _ *runner, _ *step, h *cache.Hash) error {
	h.Add("dir", o.dir)
	h.Add("user", o.user)
	return nil
}

func (o *workdirOp) run(_ context.Context, r *runner, s *step, active snapshot.Active) error {
	root, err := active.Mount()
	if err != nil {
		return err
	}
	defer root.Close()
	uid, gid := 0, 0
	if o.user != "" {
		owner := r.lookupOwner(s, root, o.user)
		uid, gid = int(owner.UID), int(owner.GID)
	}
	dir, err := sys.MkdirAllInRoot(root, o.dir, 0o755, func(made *os.File, _ string) error {
		if o.user != "" {
			if err := owners.Chown(made, uid, gid); err != nil {
				return err
			}
		}
		if o.epoch == nil {
			return nil
		}
		return os.Chtimes(sys.FDPath(made), *o.epoch, *o.epoch)
	})
	if err != nil {
		return err
	}
	return dir.Close()
}
