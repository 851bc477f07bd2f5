// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strconv"
	"sync"

	"builder/cache"
	"builder/container"
	"builder/remotecache"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"
)

// foreignStep is a step as BuildKit's caches have it.
type foreignStep struct {
	digest digest.Digest
	inputs []foreignInput
}

// foreignInput is what such a step is done to.
type foreignInput struct {
	parent   bool          // the step before
	stage    *stage        // or the end of a stage
	selector string        // what of it is seen
	content  digest.Digest // or files
}

// foreign is an op that BuildKit has a digest for. known is false if it can't
// be told.
type foreign interface {
	foreign(ctx context.Context, r *runner, s *step) (f foreignStep, known bool, err error)
}

// foreigns are the steps of a build as BuildKit's caches have them, each worked
// out once.
type foreigns struct {
	mu      sync.Mutex
	steps   map[*step]*foreignStep // nil: it has no digest that is known
	records map[foreignAt]remotecache.Records
}

// foreignAt is a place in a stage, as a cache has it.
type foreignAt struct {
	cache *remotecache.Cache
	stage *stage
	steps int // that are done
}

// foreignStep returns a step as BuildKit has it, nil if it can't be told.
func (r *runner) foreignStep(ctx context.Context, s *step) (*foreignStep, error) {
	r.foreigns.mu.Lock()
	f, ok := r.foreigns.steps[s]
	r.foreigns.mu.Unlock()
	if ok {
		return f, nil
	}
	if op, can := s.op.(foreign); can {
		step, known, err := op.foreign(ctx, r, s)
		if err != nil {
			return nil, err
		}
		if known {
			f = &step
		}
	}
	r.foreigns.mu.Lock()
	defer r.foreigns.mu.Unlock()
	r.foreigns.steps[s] = f
	return f, nil
}

// foreignRecords are the records of a cache for a stage after some of its steps.
func (r *runner) foreignRecords(ctx context.Context, c *remotecache.Cache, st *stage, steps int) (remotecache.Records, error) {
	if steps == 0 {
		if st.base != nil {
			return r.foreignRecords(ctx, c, st.base, len(st.base.steps))
		}
		return c.Root(foreignImage(st)), nil
	}
	at := foreignAt{c, st, steps}
	r.foreigns.mu.Lock()
	records, ok := r.foreigns.records[at]
	r.foreigns.mu.Unlock()
	if ok {
		return records, nil
	}
	records, err := r.matchForeign(ctx, c, st.steps[steps-1], steps)
	if err != nil {
		return nil, err
	}
	r.foreigns.mu.Lock()
	defer r.foreigns.mu.Unlock()
	r.foreigns.records[at] = records
	return records, nil
}

func (r *runner) matchForeign(ctx context.Context, c *remotecache.Cache, s *step, number int) (remotecache.Records, error) {
	var inputs [][]remotecache.From
	below, err := r.foreignRecords(ctx, c, s.stage, number-1)
	if err != nil || len(below) == 0 && !bottom(s.stage, number-1) {
		return nil, err
	}
	f, err := r.foreignStep(ctx, s)
	if f == nil || err != nil {
		return nil, err
	}
	for _, in := range f.inputs {
		var from remotecache.From
		switch {
		case in.parent:
			from = remotecache.From{Records: below, Selector: in.selector}
		case in.stage != nil:
			records, err := r.foreignRecords(ctx, c, in.stage, len(in.stage.steps))
			if err != nil {
				return nil, err
			}
			from = remotecache.From{Records: records, Selector: in.selector}
		default:
			from = remotecache.From{Records: c.Root(remotecache.ContentKey(in.content))}
		}
		inputs = append(inputs, []remotecache.From{from})
	}
	return c.Step(f.digest, inputs), nil
}

// bottom reports whether there is nothing below a stage's next step.
func bottom(st *stage, steps int) bool {
	for ; steps == 0 && st.base != nil; st = st.base {
		steps = len(st.base.steps)
	}
	return steps == 0 && !st.onImage()
}

// foreignImage is the digest of the record for a stage's image.
func foreignImage(st *stage) digest.Digest {
	ids := st.img.ChainIDs()
	if len(ids) == 0 {
		return ""
	}
	return remotecache.ImageKey(ids[len(ids)-1])
}

// importForeign looks for a step's result in the caches of other builds as
// BuildKit writes them.
func (r *runner) importForeign(ctx context.Context, s *step) (found *imported, err error) {
	number := slices.Index(s.stage.steps, s) + 1
	r.imports.each(ctx, func(source *importSource, c *remotecache.Cache) bool {
		var records remotecache.Records
		if records, err = r.foreignRecords(ctx, c, s.stage, number); err != nil {
			return true
		}
		layers, ok := c.Result(records)
		if ok {
			found = &imported{layers: layers, source: source}
		}
		return ok
	})
	return found, err
}

// recordForeign adds a step to a cache that is being written as BuildKit would
// have it. done has the records of what was added before.
func (r *runner) recordForeign(ctx context.Context, w *remotecache.Writer, s *step, below []int, done map[*stage][]int, result *remotecache.Layers) ([]int, error) {
	if len(below) == 0 && !bottom(s.stage, slices.Index(s.stage.steps, s)) {
		return nil, nil
	}
	f, err := r.foreignStep(ctx, s)
	if f == nil || err != nil {
		return nil, err
	}
	var inputs [][]remotecache.Input
	for _, in := range f.inputs {
		var links []remotecache.Input
		switch {
		case in.parent:
			links = linksTo(below, in.selector)
		case in.stage != nil:
			if links = linksTo(done[in.stage], in.selector); len(links) == 0 {
				return nil, nil
			}
		default:
			links = linksTo([]int{w.Add(remotecache.ContentKey(in.content), nil, nil)}, "")
		}
		inputs = append(inputs, links)
	}
	return []int{w.Add(f.digest, inputs, result)}, nil
}

func linksTo(records []int, selector string) (links []remotecache.Input) {
	for _, i := range records {
		links = append(links, remotecache.Input{Selector: selector, Link: i})
	}
	return links
}

// onParent is the step's first input, if there is something below it.
func onParent(s *step, selector string) []foreignInput {
	if bottom(s.stage, slices.Index(s.stage.steps, s)) {
		return nil
	}
	return []foreignInput{{parent: true, selector: selector}}
}

func (o *runOp) foreign(_ context.Context, r *runner, s *step) (foreignStep, bool, error) {
	run := r.opts.Run
	run.Network, run.Hosts, run.DNS, run.Resources = "", nil, container.DNS{}, container.Resources{}
	if !reflect.ValueOf(run).IsZero() || len(o.secrets)+len(o.devices) > 0 || o.script != nil || r.opts.Allow.SecretLeak || o.network == "host" {
		return foreignStep{}, false, nil
	}
	in := remotecache.Run{
		Args: o.args, Env: o.env, Dir: o.dir, User: o.user, Hostname: o.hostname,
		NoNet: o.network == "none", Insecure: o.insecure, Platform: o.platform,
	}
	for _, h := range r.opts.Run.Hosts {
		in.Hosts = append(in.Hosts, h.Name)
	}
	for _, m := range o.mounts {
		if m.ReadOnly || m.from != nil || m.ownRoot() || m.Source != "" && path.Join("/", m.Source) != "/" {
			return foreignStep{}, false, nil
		}
		switch m.Type {
		case instructions.MountTypeCache:
			in.Mounts = append(in.Mounts, remotecache.RunMount{Target: m.target, Cache: true, ID: m.namespace + "/" + m.cacheID(), Sharing: string(m.sharing())})
		case instructions.MountTypeTmpfs:
			in.Mounts = append(in.Mounts, remotecache.RunMount{Target: m.target, Size: m.SizeLimit})
		default:
			return foreignStep{}, false, nil
		}
	}
	key, err := remotecache.RunKey(in)
	return foreignStep{key, onParent(s, remotecache.PathSelector("/"))}, true, err
}

func (o *workdirOp) foreign(_ context.Context, _ *runner, s *step) (foreignStep, bool, error) {
	owner, ok := foreignOwner(o.user)
	if !ok {
		return foreignStep{}, false, nil
	}
	timestamp := int64(-1)
	if o.epoch != nil {
		timestamp = o.epoch.UnixNano()
	}
	key, err := remotecache.DirKey(o.dir, owner, timestamp)
	return foreignStep{key, onParent(s, "")}, true, err
}

func (o *copyOp) foreign(ctx context.Context, r *runner, s *step) (foreignStep, bool, error) {
	var f foreignStep
	owner, ok := foreignOwner(o.chown)
	if !ok || o.link || len(o.parts) != 1 || o.changed() {
		return f, false, nil
	}
	p := o.parts[0]
	if p.url != nil || p.req.Parents || len(p.req.Exclude)+len(p.req.Inline) > 0 || p.from != nil && p.from.tree != nil {
		return f, false, nil
	}
	in := remotecache.Copy{Dest: p.req.Dest, Owner: owner, Mode: -1, Unpack: p.req.Unpack, Scratch: bottom(s.stage, slices.Index(s.stage.steps, s))}
	for _, src := range p.req.Sources {
		in.Sources = append(in.Sources, path.Join("/", src))
	}
	if p.req.Mode != "" {
		in.Mode, in.ModeStr = 0, p.req.Mode
		if mode, err := strconv.ParseUint(p.req.Mode, 8, 31); err == nil {
			in.Mode, in.ModeStr = int32(mode), ""
		}
	}
	var err error
	if f.digest, err = remotecache.CopyKey(in); err != nil {
		return f, false, err
	}
	f.inputs = onParent(s, "")
	if p.from != nil {
		f.inputs = append(f.inputs, foreignInput{stage: p.from, selector: remotecache.PathSelector(in.Sources...)})
		return f, true, nil
	}
	content, err := p.foreignContent(ctx, r, s)
	f.inputs = append(f.inputs, foreignInput{content: content})
	return f, content != "", err
}

// foreignContent is BuildKit's digest of what is copied from the build context,
// remembered by ours.
func (p *copyPart) foreignContent(ctx context.Context, r *runner, s *step) (digest.Digest, error) {
	ours, err := p.selectAndDigest(ctx, r, s)
	if err != nil {
		return "", err
	}
	h := cache.NewHash("BuildKit's digest of files")
	h.Add("content", ours)
	h.AddList("source", p.req.Sources)
	h.Add("request", fmt.Sprintf("%q %q %s", p.req.Dest, p.req.Mode, owner(p.req)))
	if d := r.env.Cache.Memo(h.Sum()); d != "" {
		return digest.Digest(d), nil
	}
	tree, err := r.tree(ctx, nil)
	if err != nil {
		return "", err
	}
	d, err := tree.BuildKitDigest(ctx, p.req.Sources)
	if err != nil || d == "" {
		return d, err
	}
	return d, r.env.Cache.SetMemo(h.Sum(), d.String())
}

// foreignOwner is the owner that USER or --chown says, if it is a number.
func foreignOwner(user string) (*remotecache.Owner, bool) {
	if user == "" {
		return nil, true
	}
	owner, byName := parseChown(user)
	if byName {
		return nil, false
	}
	out := &remotecache.Owner{UID: owner.UID}
	for _, c := range user {
		if c == ':' {
			out.GID = &owner.GID
		}
	}
	return out, true
}
