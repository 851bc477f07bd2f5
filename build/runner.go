// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"builder/buildcontext"
	"builder/cache"
	"builder/image"
	owners "builder/internal/owner"
	"builder/internal/secrets"
	"builder/layer"
	"builder/progress"
	"builder/remotecache"
	"builder/snapshot"

	"golang.org/x/sync/errgroup"
)

// Stats say what a build did; tests hold them.
type Stats struct {
	Steps         int64 // steps of the stages that were needed
	Cached        int64 // of these, how many the cache had
	FilesStatted  int64 // context files looked at
	FilesHashed   int64 // context files whose bytes were read to hash them
	BytesHashed   int64
	LayersWritten int64 // layers whose blob had to be made
	Imported      int64 // cached steps that a cache of another build had
	LayersFetched int64 // layers fetched from such a cache
	Deferred      int64 // steps without a result that nothing needed after all, or only later
}

func (s *Stats) add(other Stats) {
	s.Steps += other.Steps
	s.Cached += other.Cached
	s.LayersWritten += other.LayersWritten
	s.Imported += other.Imported
	s.Deferred += other.Deferred
	s.LayersFetched += other.LayersFetched
}

// runner runs a plan.
type runner struct {
	env         Env
	opts        Options
	plan        *plan
	stages      map[*stage]*stageRun
	slots       *slots
	inImage     map[*stage]bool // the target and the stages it is FROM
	imports     *imports
	exports     *exports
	foreigns    foreigns
	stats       Stats
	temp        closers
	fingerprint func() (string, error) // of the secrets that are looked for

	// Layers are written beside the steps, a few at a time.
	layers   *errgroup.Group
	layerCtx context.Context //nolint:containedctx // the layers group's, which ends with it
}

// slots bound what a build does at the same time, on all its platforms.
type slots struct {
	steps  chan struct{} // one for each step that may run
	layers chan struct{} // one for each layer that may be written
}

func newSlots(steps int) *slots {
	return &slots{steps: make(chan struct{}, steps), layers: make(chan struct{}, 2)}
}

// stageRun is a stage being run, or run already.
type stageRun struct {
	done  chan struct{}
	err   error
	key   cache.Key
	files filesName                                      // names the file system at the end
	snap  func(ctx context.Context) (snapshot.ID, error) // after the last step
	steps []*stepResult
	keys  []cache.Key // of the steps that were looked for
	later *deferred   // what it is if its steps have not run; nil if they have

	mu   sync.Mutex // guards tree and root, made when first copied from
	tree *buildcontext.Tree
	root *os.File
}

// filesName names a file system.
type filesName struct {
	here       string // in this state directory: by a snapshot, an image
	everywhere string // in every cache: by an image, or the key of a step
	// told says that what other builds remember under that name is about
	// these very files: they are an image's, or another build made them.
	told bool
	way  []cache.Key // of the steps that lead to it, if they were looked for
}

// stepResult is what a step left.
type stepResult struct {
	key     cache.Key
	code    string        // the instruction
	fields  []cache.Field // of the key
	created time.Time
	whole   bool // the layer has what is as below, too: that of COPY --link

	imported *imported // the layers, if another build has made them

	mu   sync.Mutex
	snap snapshot.ID // "" while only layers are known: see snapshotOf
}

// layerOptions are those for the result's layer.
func (res *stepResult) layerOptions(opts layer.Options) layer.Options {
	opts.Whole = res.whole
	return opts
}

func newRunner(env Env, p *plan, shared *slots, im *imports) *runner {
	r := &runner{env: env, opts: p.opts, plan: p, stages: map[*stage]*stageRun{}, inImage: map[*stage]bool{}, slots: shared, imports: im, exports: &exports{}}
	r.foreigns = foreigns{steps: map[*step]*foreignStep{}, records: map[foreignAt]remotecache.Records{}}
	r.fingerprint = sync.OnceValues(func() (string, error) {
		salt, err := env.Cache.Salt()
		if err != nil {
			return "", err
		}
		return p.guard.Fingerprint(salt), nil
	})
	for st := p.target; st != nil; st = st.base {
		r.inImage[st] = true
	}
	return r
}

// run runs every step that the target needs, and writes its layers.
func (r *runner) run(ctx context.Context) error {
	for _, id := range r.plan.unguarded {
		r.warnStep("warnings", fmt.Sprintf("secret %q is shorter than %d bytes: it is not looked for in layers and output", id, secrets.MinLength))
	}
	r.layers, r.layerCtx = errgroup.WithContext(ctx)
	g, gctx := errgroup.WithContext(ctx)
	for _, st := range r.plan.reachable() {
		r.stages[st] = &stageRun{done: make(chan struct{})}
	}
	r.convertLayers()
	for _, st := range r.plan.reachable() {
		run := r.stages[st]
		g.Go(func() error {
			defer close(run.done)
			run.err = r.runStage(gctx, st, run)
			return run.err
		})
	}
	err := g.Wait()
	// Layers already begun are finished even after a failure: the next
	// build has use for them. A cancelled build drops them.
	if layerErr := r.layers.Wait(); err == nil {
		err = layerErr
	}
	return err
}

// announce tells how many vertices there will be at least.
func announce(runners []*runner) {
	n := len(runners[0].opts.Images)
	for _, r := range runners {
		for _, st := range r.plan.reachable() {
			n += len(st.steps)
			if st.fromName != "" {
				n++
			}
		}
	}
	runners[0].event("", progress.Event{Plan: &progress.Plan{Vertices: n}})
}

func (r *runner) event(vertex string, e progress.Event) {
	if r.env.Sink == nil {
		return
	}
	if vertex != "" && len(r.opts.Platforms) > 1 {
		// Steps on another platform than the target's have one name for all.
		vertex += " for " + image.FormatPlatform(r.plan.platform)
	}
	e.Vertex, e.Time = vertex, r.env.Now()
	r.env.Sink.Event(e)
}

// wait waits for another stage's end. Its failure is the caller's.
func (r *runner) wait(ctx context.Context, st *stage) (*stageRun, error) {
	run := r.stages[st]
	select {
	case <-run.done:
		if run.err != nil {
			// The same for everybody: whichever is seen first is the
			// failure that is reported.
			return nil, run.err
		}
		return run, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (r *runner) runStage(ctx context.Context, st *stage, run *stageRun) error {
	if err := r.startStage(ctx, st, run); err != nil {
		return err
	}
	first, err := r.deferStage(ctx, st, run)
	if err != nil || run.later != nil {
		return err
	}
	return r.runSteps(ctx, st.steps[first:], run)
}

// runSteps runs the next steps of a stage.
func (r *runner) runSteps(ctx context.Context, steps []*step, run *stageRun) error {
	for _, s := range steps {
		res, err := r.runStep(ctx, s, run)
		if err != nil {
			return err
		}
		r.advance(run, res)
	}
	return nil
}

// advance puts a result on top of a stage.
func (r *runner) advance(run *stageRun, res *stepResult) {
	run.key, run.files = res.key, r.filesOf(res)
	run.snap = func(ctx context.Context) (snapshot.ID, error) { return r.snapshotOf(ctx, res) }
	run.steps = append(run.steps, res)
}

func (r *runner) filesOf(res *stepResult) filesName {
	name := filesName{here: "snapshot " + string(res.snap), everywhere: "step " + string(res.key)}
	if res.imported != nil {
		name.here, name.told = "layers "+chainID(res.imported.layers.DiffIDs).String(), true
	}
	return name
}

// startStage finds what a stage stands on: the end of another stage, nothing,
// or an image, which is unpacked only when something needs its files.
func (r *runner) startStage(ctx context.Context, st *stage, run *stageRun) error {
	if st.base != nil {
		base, err := r.wait(ctx, st.base)
		if err != nil {
			return err
		}
		run.key, run.files, run.snap = base.key, base.name(), base.snap
		return nil
	}
	h := cache.NewHash("base")
	if owners.Kept() { // results are of no use to who doesn't look for owners there
		h.Add("owners", "kept")
	}
	if !st.onImage() {
		h.Add("scratch", "")
		run.key, run.files = h.Sum(), filesName{here: "scratch", everywhere: "scratch", told: true}
		run.snap = func(context.Context) (snapshot.ID, error) { return "", nil }
		return nil
	}
	h.Add("config", st.img.ID().String())
	name := "image " + st.img.ID().String()
	run.key, run.files = h.Sum(), filesName{here: name, everywhere: name, told: true}
	run.snap = r.unpackOnce(st)
	r.event(st.fromName, progress.Event{Start: &progress.Start{Name: st.fromName, Stage: st.name, Location: r.place(st.def.Location)}})
	r.event(st.fromName, progress.Event{Done: &progress.Done{Cached: true, Result: st.img.Desc.Digest}})
	return nil
}

// unpackOnce returns a function that unpacks a stage's image the first time
// it is called.
func (r *runner) unpackOnce(st *stage) func(context.Context) (snapshot.ID, error) {
	var mu sync.Mutex
	var id snapshot.ID
	var done bool
	return func(ctx context.Context) (snapshot.ID, error) {
		mu.Lock()
		defer mu.Unlock()
		if done {
			return id, nil
		}
		got, err := r.env.RootFS.Unpack(ctx, st.img, r.env.Sink, "unpack "+st.shown())
		if err != nil {
			return "", r.plan.file.At(st.def.Location, fmt.Errorf("unpack image %s: %w", st.shown(), err))
		}
		id, done = got, true
		return id, nil
	}
}

// runStep finds a step's result in the cache or runs it.
func (r *runner) runStep(ctx context.Context, s *step, parent *stageRun) (*stepResult, error) {
	atomic.AddInt64(&r.stats.Steps, 1)
	if err := r.waitForSources(ctx, s); err != nil {
		return nil, err
	}
	start, end := linesOf(s)
	r.begin(s)
	res, cached, err := r.result(ctx, s, parent)
	if err != nil {
		err = r.stepError(s, start, end, err)
		r.event(s.name, progress.Event{Done: &progress.Done{Err: err}})
		return nil, err
	}
	res.whole = linked(s)
	r.finish(s, res, cached)
	return res, nil
}

// waitForSources waits for the stages that a step takes files from: before they
// are done its key can't be known.
func (r *runner) waitForSources(ctx context.Context, s *step) error {
	for _, src := range s.op.sources() {
		if _, err := r.wait(ctx, src); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) begin(s *step) {
	r.event(s.name, progress.Event{Start: &progress.Start{Name: s.name, Stage: s.stage.name, Location: r.place(s.location)}})
}

// finish ends a step that has a result.
func (r *runner) finish(s *step, res *stepResult, cached bool) {
	if cached {
		atomic.AddInt64(&r.stats.Cached, 1)
		if res.imported != nil && res.imported.source != nil {
			atomic.AddInt64(&r.stats.Imported, 1)
		}
	}
	r.event(s.name, progress.Event{Done: &progress.Done{Cached: cached}})
	if res.imported == nil {
		r.writeLayer(s, res)
	}
}

// forms are the ways in which a stage's layers are to be written.
func (r *runner) forms(st *stage) (forms []layer.Options) {
	if r.inImage[st] && !r.opts.Edits.Squash {
		for _, form := range r.opts.Images {
			forms = append(forms, form.Layer)
		}
	}
	for _, to := range r.opts.CacheTo {
		if !to.Inline && (to.Max || r.inImage[st]) {
			forms = append(forms, to.Layer)
		}
	}
	return forms
}

// writeLayer begins to write a step's layer beside the steps that follow, in
// each form that is wanted. A cached step's layer mostly exists: then this is
// the reading of a file.
func (r *runner) writeLayer(s *step, res *stepResult) {
	begun := map[string]bool{}
	for _, form := range r.forms(s.stage) {
		opts := res.layerOptions(form)
		if begun[opts.Key()] || r.env.RootFS.Has(res.snap, opts) {
			continue
		}
		begun[opts.Key()] = true
		r.layers.Go(func() error {
			r.slots.layers <- struct{}{}
			defer func() { <-r.slots.layers }()
			atomic.AddInt64(&r.stats.LayersWritten, 1)
			_, err := r.env.RootFS.Commit(r.layerCtx, res.snap, opts)
			if err != nil {
				start, end := linesOf(s)
				return r.stepError(s, start, end, err)
			}
			return nil
		})
	}
}

// convertLayers begins to convert the base image's layers beside the steps,
// in the forms that want it.
func (r *runner) convertLayers() {
	_, base := r.chain(r.plan.target)
	for _, form := range r.opts.Images {
		if !form.ForceCompression {
			continue
		}
		for i, desc := range base.img.Manifest.Layers {
			diffID := base.img.Config.RootFS.DiffIDs[i]
			r.layers.Go(func() error {
				r.slots.layers <- struct{}{}
				defer func() { <-r.slots.layers }()
				_, err := r.env.RootFS.Convert(r.layerCtx, desc, diffID, form.Layer)
				return err
			})
		}
	}
}

// result returns a step's result and whether a cache had it.
func (r *runner) result(ctx context.Context, s *step, parent *stageRun) (*stepResult, bool, error) {
	settled := r.settled(s)
	key, fields, err := r.stepKey(ctx, s, parent.key)
	if err != nil {
		return nil, false, err
	}
	if res, err := r.find(ctx, s, key, fields); err != nil {
		return nil, false, err
	} else if res != nil {
		return res, true, r.checkCached(ctx, s, res)
	}
	if !settled {
		// The key was made of what a cache said of a stage's files. It must
		// be made of the files as the step will see them.
		if err := r.settle(ctx, s); err != nil {
			return nil, false, err
		}
		return r.result(ctx, s, parent)
	}
	lock, err := r.env.Cache.Lock(ctx, key, func() {
		r.event(s.name, progress.Event{Status: &progress.Status{ID: "lock", Action: "waiting for another build that runs this step"}})
	})
	if err != nil {
		return nil, false, err
	}
	defer lock.ReleaseAndRemove()
	if !s.stage.noCache {
		if res, ok := r.cached(ctx, key); ok {
			return res, true, r.checkCached(ctx, s, res)
		}
	}
	select {
	case r.slots.steps <- struct{}{}:
		defer func() { <-r.slots.steps }()
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	res, err := r.execute(ctx, s, parent)
	if err != nil {
		return nil, false, err
	}
	if c, ok := s.op.(*copyOp); ok && c.changed() {
		if key, fields, err = r.stepKey(ctx, s, parent.key); err != nil {
			return nil, false, err
		}
	}
	res.key, res.code, res.fields = key, s.code, fields
	return res, false, r.env.Cache.Put(&cache.Record{
		Key: key, Snapshot: string(res.snap), Instruction: s.code, Created: res.created, Fields: fields,
	})
}

// stepKey computes a step's key.
func (r *runner) stepKey(ctx context.Context, s *step, parent cache.Key) (cache.Key, []cache.Field, error) {
	h := cache.NewHash(s.op.kind())
	h.Add("parent", string(parent))
	err := s.op.key(ctx, r, s, h)
	return h.Sum(), h.Fields(), err
}

// find looks for a step's result in the state directory and then in the caches
// of other builds. It is nil if there is none.
func (r *runner) find(ctx context.Context, s *step, key cache.Key, fields []cache.Field) (*stepResult, error) {
	if s.stage.noCache {
		return nil, nil
	}
	if res, ok := r.cached(ctx, key); ok {
		return res, nil
	}
	res, err := r.importResult(ctx, s, key)
	if res != nil {
		res.code, res.fields = s.code, fields
	}
	return res, err
}

// cached looks for a usable result of a key in the state directory.
func (r *runner) cached(ctx context.Context, key cache.Key) (*stepResult, bool) {
	rec, err := r.env.Cache.Get(key)
	if err != nil {
		r.env.Log.Debug("no usable step record", "key", string(key), "why", err.Error())
		return nil, false
	}
	res := &stepResult{key: key, created: rec.Created}
	if _, err := r.env.RootFS.Snapshots().Stat(ctx, snapshot.ID(rec.Snapshot)); err == nil && rec.Snapshot != "" {
		res.snap = snapshot.ID(rec.Snapshot)
	}
	if len(rec.Layers) > 0 && r.present(rec.Layers) {
		res.imported = &imported{}
		for _, l := range rec.Layers {
			res.imported.layers.Blobs = append(res.imported.layers.Blobs, l.Blob)
			res.imported.layers.DiffIDs = append(res.imported.layers.DiffIDs, l.DiffID)
		}
	}
	if res.snap == "" && res.imported == nil {
		return nil, false
	}
	r.env.Cache.Used(key)
	return res, true
}

// present reports whether the blobs of layers are in the store.
func (r *runner) present(layers []cache.Layer) bool {
	for _, l := range layers {
		if !r.env.Store.Has(l.Blob) {
			return false
		}
	}
	return true
}

// linked reports whether a step is a COPY --link.
func linked(s *step) bool {
	c, ok := s.op.(*copyOp)
	return ok && c.link
}

// execute runs a step on a fresh snapshot and seals it.
func (r *runner) execute(ctx context.Context, s *step, parent *stageRun) (*stepResult, error) {
	below, err := parent.snap(ctx)
	if err != nil {
		return nil, err
	}
	under := below
	if linked(s) {
		under = ""
	}
	active, err := r.env.RootFS.Prepare(ctx, under)
	if err != nil {
		return nil, err
	}
	if err := s.op.run(ctx, r, s, active); err != nil {
		return nil, r.keep(ctx, s, active, err)
	}
	if owners.Kept() { // what is root's, of steps other than RUN
		if err := owners.Adopt(active.Upper(), owners.ID{}); err != nil {
			return nil, errors.Join(err, discard(active))
		}
	}
	if err := r.checkLeak(ctx, active); err != nil {
		return nil, errors.Join(err, discard(active))
	}
	if linked(s) {
		// Copied beside what is below, and only now put on top of it.
		if active, err = r.env.RootFS.Restack(active, below); err != nil {
			return nil, err
		}
	}
	id, err := active.Commit(ctx, "")
	if err != nil {
		return nil, errors.Join(err, discard(active))
	}
	return &stepResult{snap: id, created: r.env.Now().UTC()}, r.rememberSearch(id)
}
