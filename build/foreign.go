// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
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
	step     *foreignStep  // or what another step makes, on nothing
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
		var records remotecache.Records
		keys, err := remotecache.ImageKeys(st.img, st.platform)
		for _, key := range keys {
			records = append(records, c.Root(key)...)
		}
		return records, err
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
	below, err := r.foreignRecords(ctx, c, s.stage, number-1)
	if err != nil || len(below) == 0 && !bottom(s.stage, number-1) {
		return nil, err
	}
	f, err := r.foreignStep(ctx, s)
	if f == nil || err != nil {
		return nil, err
	}
	return r.matchInputs(ctx, c, f, below)
}

func (r *runner) matchInputs(ctx context.Context, c *remotecache.Cache, f *foreignStep, below remotecache.Records) (remotecache.Records, error) {
	var inputs [][]remotecache.From
	for _, in := range f.inputs {
		from := remotecache.From{Selector: in.selector}
		var err error
		switch {
		case in.parent:
			from.Records = below
		case in.stage != nil:
			from.Records, err = r.foreignRecords(ctx, c, in.stage, len(in.stage.steps))
		case in.step != nil:
			from.Records, err = r.matchInputs(ctx, c, in.step, nil)
		default:
			from.Records = c.Root(remotecache.ContentKey(in.content))
		}
		if err != nil {
			return nil, err
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
	return addForeign(w, f, below, done, result), nil
}

func addForeign(w *remotecache.Writer, f *foreignStep, below []int, done map[*stage][]int, result *remotecache.Layers) []int {
	var inputs [][]remotecache.Input
	for _, in := range f.inputs {
		var links []remotecache.Input
		switch {
		case in.parent:
			links = linksTo(below, in.selector)
		case in.stage != nil && len(in.stage.steps) == 0 && in.stage.base == nil:
			links = linksTo(rootRecords(w, in.stage), in.selector)
		case in.stage != nil:
			links = linksTo(done[in.stage], in.selector)
		case in.step != nil:
			links = linksTo(addForeign(w, in.step, nil, done, nil), "")
		default:
			links = linksTo([]int{w.Add(remotecache.ContentKey(in.content), nil, nil)}, "")
		}
		if len(links) == 0 {
			return nil
		}
		inputs = append(inputs, links)
	}
	return []int{w.Add(f.digest, inputs, result)}
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

func (o *runOp) foreign(ctx context.Context, r *runner, s *step) (f foreignStep, known bool, err error) {
	run := r.opts.Run
	run.Network, run.Hosts, run.DNS, run.Resources = "", nil, container.DNS{}, container.Resources{}
	if !reflect.ValueOf(run).IsZero() || len(o.devices) > 0 || o.script != nil || r.opts.Allow.SecretLeak || o.network == "host" {
		return f, false, nil
	}
	in := remotecache.Run{
		Args: o.args, Env: o.env, Dir: o.dir, User: o.user, Hostname: o.hostname,
		NoNet: o.network == "none", Insecure: o.insecure, Platform: o.platform, Secrets: o.foreignSecrets(),
	}
	for _, h := range r.opts.Run.Hosts {
		in.Hosts = append(in.Hosts, h.Name)
	}
	f.inputs = onParent(s, remotecache.Selector("/"))
	if in.Mounts, known = o.foreignMounts(ctx, r, s, &f); !known {
		return f, false, nil
	}
	f.digest, err = remotecache.RunKey(in)
	return f, true, err
}

func (o *runOp) foreignSecrets() (out []remotecache.RunSecret) {
	for _, kind := range []string{"secret", "ssh"} {
		for _, m := range o.secrets {
			if m.kind != kind {
				continue
			}
			secret := remotecache.RunSecret{
				Agent: kind == "ssh", ID: m.id, Target: m.target, Env: m.env, UID: m.uid, GID: m.gid, Mode: m.mode, Optional: !m.required,
			}
			if secret.Agent && m.id == "default" {
				secret.ID = "" // as if it had not been said
			}
			out = append(out, secret)
		}
	}
	return out
}

// foreignMounts are the mounts of a step, whose inputs are added to it.
func (o *runOp) foreignMounts(ctx context.Context, r *runner, s *step, f *foreignStep) (out []remotecache.RunMount, known bool) {
	mounts := slices.Clone(o.mounts)
	slices.SortFunc(mounts, func(a, b *runMount) int { return strings.Compare(a.target, b.target) })
	var shown []string // of the build context
	number := map[*stage]int{}
	paths := map[*stage][]string{}
	for _, m := range mounts {
		mount := remotecache.RunMount{Target: m.target, ReadOnly: m.ReadOnly}
		source := path.Join("/", m.Source)
		switch {
		case m.Type == instructions.MountTypeTmpfs:
			mount.Size = m.SizeLimit
		case m.Type == instructions.MountTypeCache && m.from == nil && !m.ownRoot() && source == "/":
			mount.Cache, mount.ID, mount.Sharing = true, m.namespace+"/"+m.cacheID(), string(m.sharing())
		case m.Type == instructions.MountTypeBind && len(f.inputs) > 0 && (m.from == nil || m.from.tree == nil && m.from != s.stage.base):
			if number[m.from] == 0 {
				number[m.from] = len(f.inputs)
				f.inputs = append(f.inputs, foreignInput{stage: m.from})
			}
			mount.Input = number[m.from]
			paths[m.from] = append(paths[m.from], source)
			if m.from == nil {
				shown = append(shown, m.Source)
			}
		default:
			return nil, false
		}
		out = append(out, mount)
	}
	for st, n := range number {
		in := &f.inputs[n]
		if in.selector = remotecache.Selector(paths[st]...); st == nil {
			if in.content, in.selector = r.foreignBind(ctx, shown), ""; in.content == "" {
				return nil, false
			}
		}
	}
	return out, true
}

// foreignBind is BuildKit's digest of what is mounted of the build context; ""
// if it can't be told.
func (r *runner) foreignBind(ctx context.Context, sources []string) digest.Digest {
	tree, err := r.tree(ctx, nil)
	if err != nil || slices.ContainsFunc(sources, func(s string) bool { return strings.ContainsAny(s, `*?[\`) }) {
		return ""
	}
	d, err := tree.BuildKitDigest(ctx, sources)
	if err != nil {
		return ""
	}
	return d
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

func (o *copyOp) foreign(ctx context.Context, r *runner, s *step) (f foreignStep, known bool, err error) {
	owner, ok := foreignOwner(o.chown)
	if !ok || len(o.parts) != 1 || o.changed() {
		return f, false, nil
	}
	p := o.parts[0]
	if p.url != nil || p.req.Parents || len(p.req.Exclude)+len(p.req.Inline) > 0 || p.from != nil && p.from.tree != nil {
		return f, false, nil
	}
	onNothing := bottom(s.stage, slices.Index(s.stage.steps, s))
	in := remotecache.Copy{Dest: p.req.Dest, Owner: owner, Mode: -1, Unpack: p.req.Unpack, Scratch: onNothing || o.link}
	for _, src := range p.req.Sources {
		in.Sources = append(in.Sources, path.Join("/", src))
	}
	if p.req.Mode != "" {
		in.Mode, in.ModeStr = 0, p.req.Mode
		if mode, err := strconv.ParseUint(p.req.Mode, 8, 31); err == nil {
			in.Mode, in.ModeStr = int32(mode), ""
		}
	}
	if f.digest, err = remotecache.CopyKey(in); err != nil {
		return f, false, err
	}
	from := foreignInput{stage: p.from, selector: remotecache.CopySelector(in.Sources...)}
	if p.from == nil {
		from.selector = ""
		if from.content, err = p.foreignContent(ctx, r, s); err != nil || from.content == "" {
			return f, false, err
		}
	}
	if o.link && !onNothing {
		copied := foreignStep{f.digest, []foreignInput{from}}
		f.digest, err = remotecache.MergeKey()
		f.inputs = append(onParent(s, ""), foreignInput{step: &copied})
		return f, true, err
	}
	f.inputs = append(onParent(s, ""), from)
	return f, true, nil
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
