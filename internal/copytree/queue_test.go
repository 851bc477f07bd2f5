// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

func TestEach(t *testing.T) {
	var done atomic.Int64
	// Each task but the last pushes two smaller ones.
	err := Each(t.Context(), 4, []int{5, 5}, func(worker, task int, push func(int)) error {
		if worker < 0 || worker > 3 {
			t.Errorf("worker %d", worker)
		}
		done.Add(1)
		if task > 0 {
			push(task - 1)
			push(task - 1)
		}
		return nil
	})
	if err != nil || done.Load() != 2*63 {
		t.Errorf("%d tasks done: %v", done.Load(), err)
	}
	if err := Each(t.Context(), 2, nil, func(int, int, func(int)) error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestEachStops(t *testing.T) {
	boom := errors.New("boom")
	var done atomic.Int64
	err := Each(t.Context(), 2, make([]int, 1000), func(_, _ int, push func(int)) error {
		push(0)
		if done.Add(1) == 10 {
			return boom
		}
		return nil
	})
	if !errors.Is(err, boom) || done.Load() > 20 {
		t.Errorf("after %d tasks: %v", done.Load(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done.Store(0)
	err = Each(ctx, 2, []int{0}, func(_, _ int, push func(int)) error {
		push(0)
		push(0)
		if done.Add(1) == 10 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if err := Each(ctx, 2, []int{0}, func(int, int, func(int)) error { t.Error("begun"); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled before: %v", err)
	}
}
