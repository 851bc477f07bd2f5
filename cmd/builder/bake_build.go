// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"builder/bake"
	"builder/build"
	"builder/buildcontext"
	"builder/image"
	"builder/internal/atomicfile"
	"builder/progress"

	"golang.org/x/sync/errgroup"
)

// bakery builds the targets of a definition side by side in one process.
type bakery struct {
	e       *env
	opts    *bakeOptions
	call    *call // of every target, whatever it says; or nil
	def     *bake.Definition
	targets map[string]*bakeTarget
}

// bakeTarget is a target being built, or built already.
type bakeTarget struct {
	*bake.Target
	req  *buildRequest
	done chan struct{} // closed when it is built or has failed
	res  *build.Result
	err  error
}

// build builds the targets of a definition, or answers their calls.
func (o *bakeOptions) build(ctx context.Context, b *bakery) error {
	if err := b.allowed(o.allow); err != nil {
		return err
	}
	var builds, calls []string
	stdout := ""
	for _, name := range slices.Sorted(maps.Keys(b.def.Targets)) {
		t := b.def.Targets[name]
		req, err := b.targetRequest(t)
		if err != nil {
			return err
		}
		b.targets[name] = &bakeTarget{Target: t, req: req, done: make(chan struct{})}
		if req.call != nil && !t.Linked {
			if b.call != nil {
				req.call = b.call
			}
			calls = append(calls, name)
			continue
		}
		builds = append(builds, name)
		for _, out := range req.outputs {
			if out.dest != "-" {
				continue
			}
			if stdout != "" {
				return t.Fault("output", fmt.Errorf("standard output is taken by target %s", stdout))
			}
			stdout = name
		}
	}
	if b.call != nil {
		builds = nil // linked targets are built for nobody
	}
	if err := b.run(ctx, builds); err != nil {
		return err
	}
	return b.callTargets(ctx, calls)
}

// run builds the targets that are named.
func (b *bakery) run(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	flags := *b.targets[names[0]].req.flags
	flags.progress, flags.quiet = b.opts.progress, b.opts.quiet
	session, err := b.e.openBuild(&flags)
	if err != nil {
		return err
	}
	session.trees = &sharedTrees{open: map[string]*buildcontext.Tree{}}
	plans := &plans{display: session.display, vertices: map[string]int{}}
	images := &sharedImages{source: session.env.Images, calls: map[imageCall]func() (image.Image, error){}}
	g, gctx := errgroup.WithContext(ctx)
	for _, name := range names {
		t := b.targets[name]
		own := *session
		own.env.Sink, own.env.Images = &targetSink{target: name, plans: plans}, images
		g.Go(func() error {
			defer close(t.done)
			t.res, t.err = b.buildTarget(gctx, own, t)
			return t.err
		})
	}
	err = errors.Join(g.Wait(), session.trees.Close())
	if closeErr := session.close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return b.report(names)
}

// buildTarget builds one target in a session of its own.
func (b *bakery) buildTarget(ctx context.Context, session buildSession, t *bakeTarget) (*build.Result, error) {
	t.req.opts.Parallel = max(2, 2*max(4, runtime.NumCPU())/len(b.targets))
	if err := b.linkContexts(t, func(other *bakeTarget) build.NamedContext { return b.linked(session, t, other) }); err != nil {
		return nil, err
	}
	if t.DockerfileInline != nil {
		stdin, err := pipe(*t.DockerfileInline)
		if err != nil {
			return nil, err
		}
		defer stdin.Close()
		e := *session.e
		e.stdin, session.e = stdin, &e
	}
	res, err := session.build(ctx, t.req)
	if err != nil {
		return nil, targetFault(t.Target, targetFlags(t.Target), err)
	}
	return res, nil
}

// linkContexts makes the targets that t takes as contexts its named contexts.
func (b *bakery) linkContexts(t *bakeTarget, open func(other *bakeTarget) build.NamedContext) error {
	t.req.contexts = map[string]build.NamedContext{}
	for name, source := range t.Contexts {
		other, ok := strings.CutPrefix(source, "target:")
		if !ok {
			continue
		}
		key, err := build.ContextName(name)
		if err != nil {
			return t.Fault("contexts", fmt.Errorf("%q: %w", name, err))
		}
		t.req.contexts[key] = open(b.targets[other])
	}
	return nil
}

// pipe gives text to whoever reads from a file.
func pipe(text string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		_, _ = w.WriteString(text) // fails if nobody reads, which is said elsewhere
		w.Close()
	}()
	return r, nil
}

// linked is the result of another target as a context: it is waited for.
func (b *bakery) linked(session buildSession, t, other *bakeTarget) build.NamedContext {
	return func(ctx context.Context, platform image.Platform) (build.ContextSource, error) {
		if other.req.call != nil && !other.Linked {
			return build.ContextSource{}, t.Fault("contexts", fmt.Errorf("target %s is not built: it is only to %s", other.Name, other.req.call.name))
		}
		select {
		case <-other.done:
		case <-ctx.Done():
			return build.ContextSource{}, ctx.Err()
		}
		if other.err != nil {
			return build.ContextSource{}, other.err
		}
		if len(other.res.Images) == 0 {
			return build.ContextSource{}, t.Fault("contexts", fmt.Errorf("target %s makes no image that it could stand for", other.Name))
		}
		made := other.res.Images[0].Platforms
		i := slices.IndexFunc(made, func(p build.PlatformImage) bool { return image.SamePlatform(p.Platform, platform) })
		if i < 0 && len(made) == 1 {
			i = 0
		}
		if i < 0 {
			return build.ContextSource{}, t.Fault("contexts", fmt.Errorf("target %s is not built for %s", other.Name, image.FormatPlatform(platform)))
		}
		img, err := session.env.Store.Image(made[i].Desc, made[i].Platform)
		return build.ContextSource{Image: &img}, err
	}
}

// report says what was built: with --quiet on standard output, and in the
// metadata file.
func (b *bakery) report(built []string) error {
	metadata := map[string]map[string]any{}
	for _, name := range built {
		t := b.targets[name]
		metadata[name] = t.req.metadata(t.res)
		if img := t.req.image(t.res); img != nil && b.opts.quiet && !t.Linked {
			fmt.Fprintln(b.e.stdout, name, imageID(*img))
		}
	}
	if b.opts.metadataFile == "" {
		return nil
	}
	data, err := json.MarshalIndent(metadata, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(b.opts.metadataFile, append(data, '\n'), 0o644)
}

// plans adds up what the targets' builds plan, for one display.
type plans struct {
	display  progress.Sink
	mu       sync.Mutex
	vertices map[string]int // by target
}

// targetSink is where the build of one target sends its events.
type targetSink struct {
	target string
	plans  *plans
}

// Event implements progress.Sink.
func (s *targetSink) Event(e progress.Event) {
	if e.Plan == nil {
		e.Vertex = s.target + " " + e.Vertex
		s.plans.display.Event(e)
		return
	}
	s.plans.mu.Lock()
	defer s.plans.mu.Unlock()
	s.plans.vertices[s.target] = e.Plan.Vertices
	sum := progress.Plan{Title: e.Plan.Title}
	for _, n := range s.plans.vertices {
		sum.Vertices += n
	}
	e.Plan = &sum
	s.plans.display.Event(e)
}

// sharedImages asks for each base image once, however many targets want it.
type sharedImages struct {
	source build.ImageSource
	mu     sync.Mutex
	calls  map[imageCall]func() (image.Image, error)
}

type imageCall struct {
	ref, platform string
	pull          bool
}

// Image implements build.ImageSource.
func (s *sharedImages) Image(ctx context.Context, ref image.Ref, platform image.Platform, pull bool) (image.Image, error) {
	call := imageCall{ref.String(), image.FormatPlatform(platform), pull}
	s.mu.Lock()
	once := s.calls[call]
	if once == nil {
		once = sync.OnceValues(func() (image.Image, error) { return s.source.Image(ctx, ref, platform, pull) })
		s.calls[call] = once
	}
	s.mu.Unlock()
	img, err := once()
	if errors.Is(err, context.Canceled) && ctx.Err() == nil {
		return s.source.Image(ctx, ref, platform, pull) // the one that asked first was cancelled
	}
	return img, err
}
