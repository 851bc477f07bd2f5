// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"builder/internal/sys"
	"builder/store"

	"github.com/docker/go-units"
)

// quota bounds what the state directory takes, as BuildKit's garbage collection
// does: BUILDER_MAX_USED, BUILDER_RESERVED and BUILDER_MIN_FREE.
type quota struct{ maxUsed, reserved, minFree int64 }

// limited reports whether there is a size to come down to.
func (q quota) limited() bool { return q.maxUsed+q.reserved+q.minFree > 0 }

// quota reads the bounds; none are set on most machines.
func (e *env) quota() (quota, error) {
	var q quota
	for _, bound := range []struct {
		name string
		to   *int64
	}{{"BUILDER_MAX_USED", &q.maxUsed}, {"BUILDER_RESERVED", &q.reserved}, {"BUILDER_MIN_FREE", &q.minFree}} {
		value := e.getenv(bound.name)
		if value == "" {
			continue
		}
		n, err := units.RAMInBytes(value)
		if err != nil || n <= 0 {
			return q, &usageError{msg: fmt.Sprintf("%s=%s: want a size such as 10GB", bound.name, value)}
		}
		*bound.to = n
	}
	return q, nil
}

// noRoomError says that a bound can't be kept.
type noRoomError struct {
	free, minFree int64
	dir           string
}

func (e *noRoomError) Error() string {
	return fmt.Sprintf("%s are free at %s, and BUILDER_MIN_FREE keeps %s", humanSize(e.free), e.dir, humanSize(e.minFree))
}

func (e *noRoomError) Hint() string {
	return "builder df shows what takes it; builder prune --all removes what no container needs"
}

// makeRoom is called before a command that writes much, and after it. It removes
// what nothing needs, oldest use first, until the bounds are kept; what is in
// use stays. Whether or not it was called, a large write that would break
// BUILDER_MIN_FREE fails before it begins. Without bounds nothing is looked at.
func (e *env) makeRoom(ctx context.Context, s *store.Store) error {
	q, err := e.quota()
	if err != nil || !q.limited() {
		return err
	}
	free, err := sys.FreeSpace(s.Path())
	if err != nil {
		return err
	}
	if q.maxUsed > 0 || free < q.minFree {
		if err := e.comeDownTo(ctx, s, q); err != nil {
			return err
		}
		if free, err = sys.FreeSpace(s.Path()); err != nil {
			return err
		}
	}
	if free < q.minFree {
		return &noRoomError{free, q.minFree, s.Path()}
	}
	return nil
}

// keepBounds is makeRoom after a command has done its work, which is no worse
// if the bounds can't be kept now: the next command that writes sees to it.
func (e *env) keepBounds(ctx context.Context, s *store.Store) {
	if err := e.makeRoom(ctx, s); err != nil {
		fmt.Fprintf(e.stderr, "builder: warning: %v\n", err)
	}
}
