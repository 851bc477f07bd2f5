// SPDX-License-Identifier: Apache-2.0

package build

import (
	"cmp"
	"context"
	"maps"
	"path"
	"slices"

	"builder/dockerfile"
	"builder/image"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Outline is what a build of a target takes from outside, as BuildKit tells
// it: each list in the order of the Dockerfile.
type Outline struct {
	Name        string // of the target, "" if it has none
	Description string // from the comment above it
	Args        []OutlineArg
	Secrets     []OutlineMount
	SSH         []OutlineMount
	Caches      []OutlineMount
}

// OutlineArg is an ARG that the target or a stage it needs uses.
type OutlineArg struct {
	Name, Value, Description string
	Start, End               int // lines, counted from 1
}

// OutlineMount is a secret, an agent or a cache that a RUN mounts.
type OutlineMount struct {
	ID         string
	Required   bool
	Start, End int
}

// NewOutline plans a build without running it and tells what it takes. env and
// opts are as for [Check].
func NewOutline(ctx context.Context, env Env, opts Options) (*Outline, error) {
	p, err := emptyPlan(opts, callPlatform(opts))
	if err != nil {
		return nil, err
	}
	p.look = true
	if err := p.make(ctx, env); err != nil {
		return nil, err
	}
	o := &outliner{
		plan: p, seen: map[*stage]bool{}, globals: map[string]globalArg{},
		out: Outline{Name: p.target.def.Name, Description: p.target.def.DocComment},
	}
	o.readGlobals()
	o.stage(p.target)
	slices.SortStableFunc(o.out.Args, func(a, b OutlineArg) int { return cmp.Compare(a.Start, b.Start) })
	for _, list := range [][]OutlineMount{o.out.Secrets, o.out.SSH, o.out.Caches} {
		slices.SortStableFunc(list, func(a, b OutlineMount) int { return cmp.Compare(a.Start, b.Start) })
	}
	return &o.out, nil
}

// outliner walks the stages that a target needs. Of a name that several of
// them have the one nearest to the target counts.
type outliner struct {
	plan    *plan
	globals map[string]globalArg
	seen    map[*stage]bool
	out     Outline
}

// globalArg is an ARG from before the first FROM.
type globalArg struct {
	OutlineArg
	uses []string // the global ARGs in its default
}

// readGlobals goes through the global ARGs as [plan.globalArgs] does.
func (o *outliner) readGlobals() {
	p := o.plan
	values := image.NewEnv(p.predefined()...)
	for _, cmd := range p.file.MetaArgs {
		for _, arg := range cmd.Args {
			g := globalArg{OutlineArg: newOutlineArg(arg, cmd.Location())}
			value, given := p.opts.Args[arg.Key]
			if !given && arg.Value != nil {
				g.uses = p.expand.Used(*arg.Value, values)
				value, _, _ = p.expand.Word(*arg.Value, values) // the plan was made with it
			}
			if slices.Contains(g.uses, arg.Key) { // what it was before stands on something too
				g.uses = append(slices.DeleteFunc(g.uses, func(n string) bool { return n == arg.Key }), o.globals[arg.Key].uses...)
			}
			if given || arg.Value != nil {
				values.Set(arg.Key, value)
				g.Value = value
			}
			o.globals[arg.Key] = g
		}
	}
}

func newOutlineArg(arg instructions.KeyValuePairOptional, location []parser.Range) OutlineArg {
	out := OutlineArg{Name: arg.Key, Description: arg.DocComment}
	out.Start, out.End = dockerfile.Lines(location)
	return out
}

// stage takes a stage in, then what it stands on and what it copies from.
func (o *outliner) stage(st *stage) {
	if o.seen[st] {
		return
	}
	o.seen[st] = true
	o.args(st)
	for _, cmd := range st.commands {
		if run, ok := cmd.Command.(*instructions.RunCommand); ok {
			o.mounts(run, commandLocation(st, cmd))
		}
	}
	for _, d := range st.needs() {
		o.stage(d)
	}
}

// args takes in the ARGs of a stage: those that it declares and the global
// ones that its FROM uses, with those that stand behind them.
func (o *outliner) args(st *stage) {
	own := o.declared(st)
	used := slices.Sorted(maps.Keys(own))
	if i := slices.Index(o.plan.stages, st); i < len(o.plan.file.Stages) {
		def := o.plan.file.Stages[i]
		used = append(used, o.plan.expand.Used(def.BaseName, o.plan.args)...)
		used = append(used, o.plan.expand.Used(def.Platform, o.plan.args)...)
	}
	done := map[string]bool{}
	var add func(name string)
	add = func(name string) {
		if done[name] {
			return
		}
		done[name] = true
		arg, known := own[name], true
		if arg == nil {
			var g globalArg
			g, known = o.globals[name]
			arg = &g.OutlineArg
			for _, behind := range g.uses {
				add(behind)
			}
		}
		if known && !slices.ContainsFunc(o.out.Args, func(a OutlineArg) bool { return a.Name == name }) {
			o.out.Args = append(o.out.Args, *arg)
		}
	}
	for _, name := range used {
		add(name)
	}
}

// declared are the ARGs of a stage, nil for one that takes the global value.
func (o *outliner) declared(st *stage) map[string]*OutlineArg {
	own := map[string]*OutlineArg{}
	values := st.state.args // the base's come first
	if st.base != nil {
		values = values[len(st.base.state.args):]
	}
	for _, cmd := range st.commands {
		c, ok := cmd.Command.(*instructions.ArgCommand)
		if !ok {
			continue
		}
		for _, arg := range c.Args {
			value := values[0]
			values = values[1:]
			_, given := o.plan.opts.Args[arg.Key]
			_, global := o.plan.args.Get(arg.Key)
			if arg.Value == nil && !given && global {
				if own[arg.Key] == nil {
					own[arg.Key] = nil
				}
				continue
			}
			out := newOutlineArg(arg, commandLocation(st, cmd))
			out.Value = value.ValueString()
			own[arg.Key] = &out
		}
	}
	return own
}

// mounts takes in what a RUN mounts.
func (o *outliner) mounts(run *instructions.RunCommand, location []parser.Range) {
	for _, m := range instructions.GetMounts(run) {
		out := OutlineMount{ID: m.CacheID, Required: m.Required}
		out.Start, out.End = dockerfile.Lines(location)
		list := &o.out.Caches
		switch m.Type {
		case instructions.MountTypeSecret:
			list = &o.out.Secrets
			if m.Source != "" {
				out.ID = m.Source
			} else if out.ID == "" {
				out.ID = path.Base(m.Target)
			}
		case instructions.MountTypeSSH:
			list = &o.out.SSH
			out.ID = cmp.Or(out.ID, "default")
		case instructions.MountTypeCache:
			out.ID = cmp.Or(out.ID, path.Clean(m.Target))
		default:
			continue
		}
		if !slices.ContainsFunc(*list, func(have OutlineMount) bool { return have.ID == out.ID }) {
			*list = append(*list, out)
		}
	}
}
