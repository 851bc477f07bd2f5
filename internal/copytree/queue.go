// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"context"
	"runtime"
	"sync"
)

// Workers is the number of goroutines that work on a tree at once: most of
// their time is spent in the kernel, where more than a few only contend.
func Workers() int { return min(max(runtime.GOMAXPROCS(0), 2), 8) }

// Each runs fn for the tasks and for those that fn pushes, on as many
// goroutines as workers says, the last pushed first. worker, from 0, tells
// them apart, for their scratch memory. It returns when all have ended, with
// the first error; after an error or the end of ctx no task is begun.
func Each[T any](ctx context.Context, workers int, tasks []T, fn func(worker int, task T, push func(T)) error) error {
	q := &queue[T]{tasks: tasks, pending: len(tasks)}
	q.more.L = &q.mu
	stop := context.AfterFunc(ctx, func() { q.fail(context.Cause(ctx)) })
	defer stop()
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for {
				task, ok := q.pop()
				if !ok {
					return
				}
				q.done(fn(w, task, q.push))
			}
		})
	}
	wg.Wait()
	return q.err
}

type queue[T any] struct {
	mu      sync.Mutex
	more    sync.Cond
	tasks   []T
	pending int // tasks waiting or running
	err     error
}

func (q *queue[T]) push(t T) {
	q.mu.Lock()
	q.tasks = append(q.tasks, t)
	q.pending++
	q.mu.Unlock()
	q.more.Signal()
}

func (q *queue[T]) pop() (t T, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.tasks) == 0 && q.pending > 0 && q.err == nil {
		q.more.Wait()
	}
	if len(q.tasks) == 0 || q.err != nil {
		return t, false
	}
	last := len(q.tasks) - 1
	t = q.tasks[last]
	q.tasks = q.tasks[:last]
	return t, true
}

func (q *queue[T]) done(err error) {
	q.mu.Lock()
	q.pending--
	end := q.pending == 0
	q.mu.Unlock()
	if err != nil {
		q.fail(err)
	}
	if end {
		q.more.Broadcast()
	}
}

func (q *queue[T]) fail(err error) {
	q.mu.Lock()
	if q.err == nil {
		q.err = err
	}
	q.mu.Unlock()
	q.more.Broadcast()
}
