// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"sync"
	"sync/atomic"

	"builder/cache"
	"builder/progress"
	"builder/snapshot"
)

// deferred is a stage of which a cache of another build knows what was taken
// from its end, though not what its steps left. Its steps run only if somebody
// needs its files.
type deferred struct {
	make func(context.Context) (*stageRun, error)

	mu   sync.Mutex
	real *stageRun // once they have run
	err  error
}

func (d *deferred) run(ctx context.Context) (*stageRun, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.real == nil && d.err == nil {
		d.real, d.err = d.make(ctx)
	}
	return d.real, d.err
}

// now returns the stage as it really is, nil if its steps haven't run.
func (d *deferred) now() *stageRun {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.real
}

// name is that of the files at the stage's end.
func (run *stageRun) name() filesName {
	files := run.files
	if run.later != nil {
		if real := run.later.now(); real != nil {
			files = real.files
		}
	}
	files.way = run.keys
	return files
}

// results are those of the stage's steps, as far as they are known.
func (run *stageRun) results() []*stepResult {
	if run.later != nil {
		if real := run.later.now(); real != nil {
			return real.steps
		}
	}
	return run.steps
}

// deferStage takes the steps of a stage whose results the caches have, and
// defers the stage if there are others and a cache has what is taken from its
// end. Its name then is the key of its last step, as the caches know it. It
// returns how many steps it has taken.
func (r *runner) deferStage(ctx context.Context, st *stage, run *stageRun) (taken int, err error) {
	if r.inImage[st] || st.noCache {
		return 0, nil
	}
	key, n := run.key, 0
	for i, s := range st.steps {
		if err := r.waitForSources(ctx, s); err != nil {
			return n, err
		}
		var fields []cache.Field
		if key, fields, err = r.stepKey(ctx, s, key); err != nil {
			return n, nil //nolint:nilerr // the step will say so, in its place
		}
		run.keys = append(run.keys, key)
		if i > n {
			continue // only the key counts
		}
		res, err := r.find(ctx, s, key, fields)
		if err != nil {
			return n, err
		}
		if res != nil {
			n++
			atomic.AddInt64(&r.stats.Steps, 1)
			r.begin(s)
			res.whole = linked(s)
			r.finish(s, res, true)
			r.advance(run, res)
			continue
		}
		// To know the end means to wait for all that the stage takes from
		// others: not without a reason.
		if !r.onWay(ctx, key) {
			return n, nil
		}
	}
	if n < len(st.steps) && r.knowsEnd(ctx, key) {
		r.deferTo(st, run, key, n)
		return n, r.env.Cache.SetMemo(wayKey(run.keys[n]), "known")
	}
	return n, nil
}

// onWay reports whether a cache has what was taken from the end of a stage that
// has a step of the key.
func (r *runner) onWay(ctx context.Context, step cache.Key) bool {
	return r.env.Cache.Memo(wayKey(step)) != "" || r.imports.has(ctx, wayKey(step))
}

// wayKey is the key under which a cache has that it knows what was taken from
// the end of a stage that has a step of the key.
func wayKey(step cache.Key) cache.Key {
	h := cache.NewHash("way to the end of a stage")
	h.Add("step", string(step))
	return h.Sum()
}

// deferTo makes a stage one whose steps after the first n run later.
func (r *runner) deferTo(st *stage, run *stageRun, key cache.Key, n int) {
	real := &stageRun{key: run.key, files: run.files, snap: run.snap, steps: run.steps}
	run.later = &deferred{make: func(ctx context.Context) (*stageRun, error) {
		return real, r.runSteps(ctx, st.steps[n:], real)
	}}
	name := "step " + string(key)
	run.key, run.files = key, filesName{here: name, everywhere: name, told: true}
	run.snap = func(ctx context.Context) (snapshot.ID, error) {
		real, err := run.later.run(ctx)
		if err != nil {
			return "", err
		}
		return real.snap(ctx)
	}
	for _, s := range st.steps[n:] {
		r.begin(s)
		r.event(s.name, progress.Event{Done: &progress.Done{Cached: true}})
	}
	atomic.AddInt64(&r.stats.Deferred, int64(len(st.steps)-n))
}

// knowsEnd reports whether a cache has what was taken from the end of a stage
// whose last step has the key.
func (r *runner) knowsEnd(ctx context.Context, last cache.Key) bool {
	return r.env.Cache.Memo(endKey(last)) != "" || r.imports.has(ctx, endKey(last))
}

// endKey is the key under which a cache has that it knows what was taken from
// a stage whose last step has the key.
func endKey(last cache.Key) cache.Key {
	h := cache.NewHash("end of stage")
	h.Add("step", string(last))
	return h.Sum()
}

// needed are the stages whose files a step works on.
func needed(s *step) []*stage {
	stages := s.op.sources()
	if s.stage.base != nil {
		stages = append(stages, s.stage.base)
	}
	return stages
}

// settled reports whether the steps of all stages whose files a step works on
// have run.
func (r *runner) settled(s *step) bool {
	for _, st := range needed(s) {
		if run := r.stages[st]; run.later != nil && run.later.now() == nil {
			return false
		}
	}
	return true
}

// settle runs the steps of these stages.
func (r *runner) settle(ctx context.Context, s *step) error {
	for _, st := range needed(s) {
		if run := r.stages[st]; run.later != nil {
			if _, err := run.later.run(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}
