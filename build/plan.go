// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"builder/buildcontext"
	"builder/dockerfile"
	"builder/image"
	"builder/internal/secrets"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/util/suggest"
	"golang.org/x/sync/errgroup"
)

// plan is a Dockerfile made ready to run: every stage that the target needs,
// with its steps.
type plan struct {
	opts     Options
	file     *dockerfile.File
	expand   *dockerfile.Expander
	platform image.Platform
	args     *image.Env // global ARGs
	stages   []*stage   // in file order; images named by COPY --from last
	byName   map[string]*stage
	target   *stage
	checks   *dockerfile.Checks
	all      bool // plan every stage, not only what the target needs
	look     bool // nothing is to be built

	// guard has the values of the secrets that were given, nil for none;
	// unguarded are the IDs of those that are too short to be looked for.
	guard     *secrets.Set
	unguarded []string
}

// stage is one FROM and what follows it.
type stage struct {
	def      instructions.Stage
	name     string // as shown, "" if it is the only one
	fromName string // its base image as a vertex
	platform image.Platform
	base     *stage             // the earlier stage it is FROM
	ref      image.Ref          // else the image it is FROM; zero for scratch
	img      image.Image        // resolved
	implicit bool               // stands for an image named by --from, not for a FROM
	replaced bool               // a named context stands for the whole stage
	nothing  bool               // it stands on a named context that is empty
	tree     *buildcontext.Tree // the files of the named context it stands on
	commands []command
	triggers bool // ONBUILD triggers of the base were taken in
	noCache  bool // its steps are run again
	deps     []*stage

	// Made by dispatch.
	dispatched bool
	state      *state
	steps      []*step
}

// command is an instruction and the stages that it copies or mounts from.
type command struct {
	instructions.Command
	sources []*stage // of RUN: one for each mount, nil where it has none
	onBuild bool
}

// newPlan plans a build. The plan is returned with an error too: of it only
// the checks count then.
func newPlan(ctx context.Context, env Env, opts Options, platform image.Platform) (*plan, error) {
	p, err := emptyPlan(opts, platform)
	if err != nil {
		return nil, err
	}
	return p, p.make(ctx, env)
}

func emptyPlan(opts Options, platform image.Platform) (*plan, error) {
	file, err := opts.Dockerfile.Copy() // each platform expands its own
	if err != nil {
		return nil, err
	}
	return &plan{
		opts: opts, file: file, byName: map[string]*stage{}, expand: dockerfile.NewExpander(file.Escape),
		platform: platform, checks: file.Checks,
	}, nil
}

func (p *plan) make(ctx context.Context, env Env) error {
	phases := []func() error{
		p.globalArgs,
		func() error { return p.resolveEpoch(ctx, env) },
		p.makeStages,
		p.findTarget,
		p.bindCommands,
		p.checkCycles,
		p.checkBases,
		func() error { return p.resolve(ctx, env) },
		p.checkBasePlatforms,
		p.dispatch,
		p.checks.Err,
		p.guardSecrets,
	}
	for _, phase := range phases {
		if err := phase(); err != nil {
			return err
		}
	}
	return nil
}

// at places an error at an instruction.
func (p *plan) at(location []parser.Range, format string, args ...any) error {
	return p.file.At(location, fmt.Errorf(format, args...))
}

// predefined are the ARGs that every Dockerfile has before the first FROM.
func (p *plan) predefined() []string {
	host := image.HostPlatform()
	target := p.opts.Target
	if target == "" {
		target = p.file.Stages[len(p.file.Stages)-1].Name
	}
	if target == "" {
		target = "default"
	}
	var out []string
	for _, kv := range [][2]string{
		{"BUILDPLATFORM", image.FormatPlatform(host)}, {"BUILDOS", host.OS}, {"BUILDOSVERSION", ""},
		{"BUILDARCH", host.Architecture}, {"BUILDVARIANT", host.Variant},
		{"TARGETPLATFORM", image.FormatPlatform(p.platform)}, {"TARGETOS", p.platform.OS}, {"TARGETOSVERSION", ""},
		{"TARGETARCH", p.platform.Architecture}, {"TARGETVARIANT", p.platform.Variant},
		{"TARGETSTAGE", target},
	} {
		value := kv[1]
		if v, ok := p.opts.Args[kv[0]]; ok {
			value = v
		}
		out = append(out, kv[0]+"="+value)
	}
	return out
}

// globalArgs sets the predefined ARGs and those before the first FROM.
func (p *plan) globalArgs() error {
	p.args = image.NewEnv(p.predefined()...)
	p.checkDefaultBases()
	for _, cmd := range p.file.MetaArgs {
		for _, arg := range cmd.Args {
			value, given := p.opts.Args[arg.Key]
			if !given && arg.Value == nil {
				continue
			}
			if !given {
				v, _, err := p.expand.Word(*arg.Value, p.args)
				if err != nil {
					return p.file.At(cmd.Location(), err)
				}
				value = v
			}
			p.args.Set(arg.Key, value)
		}
	}
	return nil
}

// makeStages expands the FROM lines and finds which stages stand on others.
func (p *plan) makeStages() error {
	for i, def := range p.file.Stages {
		if i == 0 && p.opts.From != "" {
			def.BaseName = p.opts.From
		}
		site := p.checks.At(def.Location, def.Comments)
		base, unset, err := p.expand.Word(def.BaseName, p.args)
		if err != nil {
			return p.file.At(def.Location, err)
		}
		p.checkFromArgs(site, unset)
		if base == "" {
			return p.at(def.Location, "base name (%s) should not be blank", def.BaseName)
		}
		def.BaseName = base
		st := &stage{def: def, name: def.Name, platform: p.platform}
		st.noCache = p.opts.NoCache || slices.ContainsFunc(p.opts.NoCacheStages, func(n string) bool { return strings.EqualFold(n, st.def.Name) })
		if st.name == "" {
			st.name = fmt.Sprintf("stage-%d", i)
		}
		if def.Platform != "" {
			if err := p.stagePlatform(st, site); err != nil {
				return err
			}
		}
		if st.def.Name != "" && p.namedContext(st.def.Name, st.platform) != nil {
			st.replaced, st.def.Commands = true, nil
		}
		p.addStage(st)
	}
	if len(p.stages) == 1 {
		p.stages[0].name = ""
	}
	return nil
}

func (p *plan) stagePlatform(st *stage, site dockerfile.Site) error {
	v, unset, err := p.expand.Word(st.def.Platform, p.args)
	if err != nil {
		return p.file.At(st.def.Location, err)
	}
	p.checkFromArgs(site, unset)
	p.checkStagePlatform(site, st.def, v, unset)
	if v == "" {
		err := fmt.Errorf("empty platform value from expression %s", st.def.Platform)
		for _, name := range unset {
			err = suggest.WrapError(err, name, p.args.Keys(), true)
		}
		return p.file.At(st.def.Location, err)
	}
	st.platform, err = image.ParsePlatform(v)
	return p.file.At(st.def.Location, err)
}

// onImage reports whether a stage stands on an image, rather than on another
// stage, on files, or on nothing.
func (st *stage) onImage() bool {
	return st.base == nil && st.tree == nil && !st.nothing && st.img.Manifest.Config.Digest != ""
}

// shown is how a stage's base is called.
func (st *stage) shown() string {
	if st.ref == (image.Ref{}) {
		return st.contextName()
	}
	return st.ref.Familiar()
}

// addStage appends a stage and binds its base, which may be any stage before.
// Names of stages don't tell upper from lower case.
func (p *plan) addStage(st *stage) {
	if base, ok := p.byName[st.def.BaseName]; ok && !st.implicit && !st.replaced {
		st.base = base
	}
	p.stages = append(p.stages, st)
	if st.def.Name != "" {
		p.byName[strings.ToLower(st.def.Name)] = st
	}
}

func (p *plan) findTarget() error {
	p.target = p.stages[len(p.stages)-1]
	if p.opts.Target == "" {
		return nil
	}
	if st, ok := p.byName[strings.ToLower(p.opts.Target)]; ok {
		p.target = st
		return nil
	}
	if i, err := strconv.Atoi(p.opts.Target); err == nil && i >= 0 && i < len(p.stages) {
		p.target = p.stages[i]
		return nil
	}
	err := fmt.Errorf("target stage %q could not be found", p.opts.Target)
	return &dockerfile.Error{Name: p.file.Name, Source: p.file.Source,
		Err: suggest.WrapError(err, p.opts.Target, slices.Sorted(maps.Keys(p.byName)), true)}
}

// bindCommands finds the stages that COPY --from and RUN --mount name.
func (p *plan) bindCommands() error {
	for _, st := range slices.Clone(p.stages) {
		for _, c := range st.def.Commands {
			cmd, err := p.bind(st, command{Command: c})
			if err != nil {
				return err
			}
			st.commands = append(st.commands, cmd)
		}
	}
	return nil
}

func (p *plan) bind(st *stage, cmd command) (command, error) {
	switch c := cmd.Command.(type) {
	case *instructions.CopyCommand:
		if c.From == "" {
			return cmd, nil
		}
		src, err := p.copySource(st, cmd, c)
		if err != nil {
			return cmd, p.file.At(commandLocation(st, cmd), err)
		}
		cmd.sources = []*stage{src}
	case *instructions.RunCommand:
		for _, m := range instructions.GetMounts(c) {
			var src *stage
			if m.From != "" {
				src = p.stageOrImage(m.From, commandLocation(st, cmd))
			}
			cmd.sources = append(cmd.sources, src)
		}
	}
	for _, src := range cmd.sources {
		if src != nil {
			st.deps = append(st.deps, src)
		}
	}
	return cmd, nil
}

func (p *plan) copySource(st *stage, cmd command, c *instructions.CopyCommand) (*stage, error) {
	if from, _, err := p.expand.Word(c.From, image.NewEnv()); err != nil {
		return nil, err
	} else if from != c.From {
		return nil, errors.New("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround")
	}
	i, err := strconv.Atoi(c.From)
	if err != nil {
		return p.stageOrImage(c.From, commandLocation(st, cmd)), nil
	}
	if i < 0 || i >= len(p.file.Stages) {
		return nil, fmt.Errorf("invalid stage index %d: the Dockerfile has %d stages, counted from 0", i, len(p.file.Stages))
	}
	return p.stages[i], nil
}

// stageOrImage is the stage of that name or, if there is none, a new one that
// stands for the image of that name.
func (p *plan) stageOrImage(name string, location []parser.Range) *stage {
	if st, ok := p.byName[strings.ToLower(name)]; ok {
		return st
	}
	for _, st := range p.stages {
		if st.implicit && st.def.BaseName == name {
			return st
		}
	}
	st := &stage{def: instructions.Stage{BaseName: name, Location: location}, name: name, platform: p.platform, implicit: true}
	p.addStage(st)
	return st
}

// checkCycles finds stages that need themselves.
func (p *plan) checkCycles() error {
	const visiting, done = 1, 2
	mark := map[*stage]int{}
	var visit func(st *stage) error
	visit = func(st *stage) error {
		switch mark[st] {
		case visiting:
			return p.at(st.def.Location, "circular dependency detected on stage: %s", st.name)
		case done:
			return nil
		}
		mark[st] = visiting
		for _, d := range st.needs() {
			if err := visit(d); err != nil {
				return err
			}
		}
		mark[st] = done
		return nil
	}
	for _, st := range p.stages {
		if err := visit(st); err != nil {
			return err
		}
	}
	return nil
}

// checkBases finds base images whose names can't be any image's, also of stages
// that nothing needs, as BuildKit does.
func (p *plan) checkBases() error {
	for _, st := range p.stages {
		if st.base != nil || st.def.BaseName == "scratch" {
			continue
		}
		if _, err := image.ParseRef(st.def.BaseName); err != nil {
			return p.file.At(st.def.Location, err)
		}
	}
	return nil
}

// needs are the stages that a stage can't be built without.
func (st *stage) needs() []*stage {
	if st.base == nil {
		return st.deps
	}
	return append([]*stage{st.base}, st.deps...)
}

// empty reports whether nothing was put into a stage so far.
func (st *stage) empty() bool {
	if len(st.steps) > 0 {
		return false
	}
	if st.base != nil {
		return st.base.empty()
	}
	return st.def.BaseName == "scratch" || st.nothing
}

// reachable are the stages that the target needs, itself included, in file
// order.
func (p *plan) reachable() []*stage {
	need := map[*stage]bool{}
	var visit func(st *stage)
	visit = func(st *stage) {
		if need[st] {
			return
		}
		need[st] = true
		for _, d := range st.needs() {
			visit(d)
		}
	}
	visit(p.target)
	var out []*stage
	for _, st := range p.stages {
		if need[st] {
			out = append(out, st)
		}
	}
	return out
}

// wanted are the stages that are planned, in file order.
func (p *plan) wanted() []*stage {
	if p.all {
		return p.stages
	}
	return p.reachable()
}

// resolve finds the base images of what the target needs, and takes in the
// ONBUILD triggers of bases, which may need further stages and images.
func (p *plan) resolve(ctx context.Context, env Env) error {
	resolved := map[*stage]bool{}
	for {
		g, gctx := errgroup.WithContext(ctx)
		for _, st := range p.wanted() {
			if st.base != nil || resolved[st] {
				continue
			}
			resolved[st] = true
			g.Go(func() error { return p.resolveImage(gctx, env, st) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		more, err := p.takeTriggers()
		if err != nil {
			return err
		}
		if !more {
			return p.checkCycles()
		}
	}
}

func (p *plan) resolveImage(ctx context.Context, env Env, st *stage) error {
	name := st.def.BaseName
	if st.replaced {
		name = st.def.Name
	}
	if open := p.namedContext(name, st.platform); open != nil {
		return p.file.At(st.def.Location, p.openNamed(ctx, st, open))
	}
	if st.def.BaseName == "scratch" {
		st.platform = p.platform // whatever its FROM says
		st.img.Config = scratchConfig(st.platform)
		return nil
	}
	ref, err := image.ParseRef(st.def.BaseName)
	if err != nil {
		return p.file.At(st.def.Location, err)
	}
	st.ref = ref
	st.img, err = env.Images.Image(ctx, ref, st.platform, p.opts.Pull)
	if err != nil {
		err = suggest.WrapError(err, st.def.BaseName, slices.Sorted(maps.Keys(p.byName)), true)
		return p.file.At(st.def.Location, fmt.Errorf("base image %s: %w", ref.Familiar(), err))
	}
	return nil
}

// takeTriggers puts the ONBUILD instructions of bases before the commands of
// the stages on them; true if one brought a stage or image not known before.
func (p *plan) takeTriggers() (more bool, err error) {
	for _, st := range p.reachable() {
		if st.triggers || st.implicit || st.replaced {
			continue
		}
		st.triggers = true
		triggers := slices.Clone(st.img.Config.Config.OnBuild)
		if st.base != nil {
			for _, c := range st.base.commands {
				if ob, ok := c.Command.(*instructions.OnbuildCommand); ok {
					triggers = append(triggers, ob.Expression)
				}
			}
		}
		var commands []command
		for _, trigger := range triggers {
			c, err := dockerfile.ParseTrigger(trigger)
			if err != nil {
				return false, p.file.At(st.def.Location, err)
			}
			cmd, err := p.bind(st, command{Command: c, onBuild: true})
			if err != nil {
				return false, p.file.At(st.def.Location, err)
			}
			more = more || len(cmd.sources) > 0
			commands = append(commands, cmd)
		}
		st.commands = append(commands, st.commands...)
	}
	return more, nil
}
