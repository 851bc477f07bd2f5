// SPDX-License-Identifier: Apache-2.0

package build

import (
	"errors"
	"fmt"
	"strings"

	"builder/image"
	"builder/internal/sys"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// dispatch works out every step of every stage that the target needs, and the
// config that each stage ends with.
func (p *plan) dispatch() error {
	for _, st := range p.wanted() {
		st.state = newState(st)
		if st.base == nil {
			for _, e := range p.opts.Env {
				name, value, _ := strings.Cut(e, "=")
				st.state.setEnv(name, value)
			}
		}
		if st.base != nil {
			st.platform = st.base.platform
		}
		p.dispatchTree(st)
		for _, cmd := range st.commands {
			st.state.at = commandLocation(st, cmd)
			if err := p.dispatchCommand(st, cmd); err != nil {
				return p.file.At(commandLocation(st, cmd), err)
			}
		}
		st.dispatched = true
		p.nameSteps(st)
	}
	p.target.state.edit(p.opts.Edits)
	for k, v := range p.opts.Labels {
		labels := &p.target.state.config.Config.Labels
		if *labels == nil {
			*labels = map[string]string{}
		}
		(*labels)[k] = v
	}
	if len(p.opts.Platforms) > 0 {
		p.target.state.config.Platform = mergePlatform(p.target.state.config.Platform, p.platform)
	}
	return nil
}

// mergePlatform is the image's platform where one was asked for.
func mergePlatform(have, want image.Platform) image.Platform {
	if have.OS != want.OS || have.Architecture != want.Architecture {
		return want
	}
	if want.Variant != "" {
		have.Variant = want.Variant
	}
	return have
}

func (p *plan) dispatchCommand(st *stage, cmd command) error {
	s := st.state
	s.site = p.checks.At(commandLocation(st, cmd), cmd.Comments())
	if err := p.expandCommand(s, cmd.Command); err != nil {
		return err
	}
	switch c := cmd.Command.(type) {
	case *instructions.EnvCommand:
		line := "ENV"
		for _, kv := range c.Env {
			s.checkPair(c, kv)
			s.checkSecret("ENV", kv.Key)
			s.setEnv(kv.Key, kv.Value)
			line += " " + kv.String()
		}
		s.note(nil, "%s", line)
	case *instructions.ArgCommand:
		return p.dispatchArg(s, c)
	case *instructions.LabelCommand:
		line := "LABEL"
		if s.config.Config.Labels == nil {
			s.config.Config.Labels = map[string]string{}
		}
		for _, kv := range c.Labels {
			s.checkPair(c, kv)
			s.config.Config.Labels[kv.Key] = kv.Value
			line += " " + kv.String()
		}
		s.note(nil, "%s", line)
	case *instructions.RunCommand:
		return p.dispatchRun(st, cmd, c)
	case *instructions.CopyCommand:
		return p.dispatchCopy(st, cmd, c)
	case *instructions.AddCommand:
		return p.dispatchAdd(st, cmd, c)
	case *instructions.WorkdirCommand:
		return p.dispatchWorkdir(st, cmd, c)
	default:
		return p.dispatchConfig(s, cmd.Command)
	}
	return nil
}

// expandCommand expands the variables of an instruction in place, with the
// values from before it. ARG expands its own.
func (p *plan) expandCommand(s *state, c instructions.Command) error {
	if _, isArg := c.(*instructions.ArgCommand); isArg {
		return nil
	}
	if ex, ok := c.(instructions.SupportsSingleWordExpansion); ok {
		err := ex.Expand(func(word string) (string, error) {
			v, unset, err := p.expand.Word(word, s.env)
			s.checkVars(unset)
			return v, err
		})
		if err != nil {
			return err
		}
	}
	if ex, ok := c.(instructions.SupportsSingleWordExpansionRaw); ok {
		return ex.ExpandRaw(func(text string) (string, error) {
			v, unset, err := p.expand.Document(text, s.env)
			s.checkVars(unset)
			return v, err
		})
	}
	return nil
}

// dispatchArg declares ARGs: a value given for the build, else the default,
// else the global ARG of that name.
func (p *plan) dispatchArg(s *state, c *instructions.ArgCommand) error {
	var line []string
	for _, arg := range c.Args {
		s.checkSecret("ARG", arg.Key)
		if given, ok := p.opts.Args[arg.Key]; ok {
			arg.Value = &given
		} else if arg.Value != nil {
			v, unset, err := p.expand.Word(*arg.Value, s.env)
			s.checkVars(unset)
			if err != nil {
				return err
			}
			arg.Value = &v
		} else if v, ok := p.args.Get(arg.Key); ok {
			arg.Value = &v
		}
		text := arg.Key
		if arg.Value != nil {
			s.env.Set(arg.Key, *arg.Value)
			text += "=" + *arg.Value
		}
		s.args = append(s.args, arg)
		line = append(line, text)
	}
	s.note(nil, "ARG %s", strings.Join(line, " "))
	return nil
}

// dispatchConfig handles the instructions that only change the config.
func (p *plan) dispatchConfig(s *state, c instructions.Command) error {
	config := &s.config.Config
	switch c := c.(type) {
	case *instructions.MaintainerCommand:
		s.config.Author = c.Maintainer
		s.note(nil, "MAINTAINER %v", c.Maintainer)
	case *instructions.CmdCommand:
		s.checkOnce(c)
		s.checkShellForm(c, c.ShellDependantCmdLine)
		config.Cmd = s.commandLine(c.ShellDependantCmdLine)
		config.ArgsEscaped = true //nolint:staticcheck // deprecated, but part of what docker reads
		s.cmdSet = true
		s.note(nil, "CMD %q", config.Cmd)
	case *instructions.EntrypointCommand:
		s.checkOnce(c)
		s.checkShellForm(c, c.ShellDependantCmdLine)
		config.Entrypoint = s.commandLine(c.ShellDependantCmdLine)
		if !s.cmdSet {
			config.Cmd = nil
		}
		s.note(nil, "ENTRYPOINT %q", config.Entrypoint)
	case *instructions.HealthCheckCommand:
		s.checkOnce(c)
		h := *c.Health
		config.Healthcheck = &h
		s.note(nil, "HEALTHCHECK %+v", h)
	case *instructions.ExposeCommand:
		return p.dispatchExpose(s, c)
	case *instructions.UserCommand:
		config.User = c.User
		s.note(nil, "USER %v", c.User)
	case *instructions.VolumeCommand:
		if config.Volumes == nil {
			config.Volumes = map[string]struct{}{}
		}
		for _, v := range c.Volumes {
			if v == "" {
				return errors.New("VOLUME specified can not be an empty string")
			}
			config.Volumes[v] = struct{}{}
		}
		s.note(nil, "VOLUME %v", c.Volumes)
	case *instructions.StopSignalCommand:
		if _, err := sys.ParseSignal(c.Signal); err != nil {
			return err
		}
		config.StopSignal = c.Signal
		s.note(nil, "STOPSIGNAL %v", c.Signal)
	case *instructions.ShellCommand:
		config.Shell = c.Shell
		s.note(nil, "SHELL %v", c.Shell)
	case *instructions.OnbuildCommand:
		config.OnBuild = append(config.OnBuild, c.Expression)
	default:
		return fmt.Errorf("instruction %s is not supported", strings.ToUpper(c.Name()))
	}
	return nil
}

// commandLine is the argument vector of an instruction in shell or exec form.
func (s *state) commandLine(c instructions.ShellDependantCmdLine) []string {
	if c.PrependShell {
		return append(s.shell(), strings.Join(c.CmdLine, " "))
	}
	return c.CmdLine
}

func (p *plan) dispatchExpose(s *state, c *instructions.ExposeCommand) error {
	var specs []string
	for _, port := range c.Ports {
		words, err := p.expand.Words(port, s.env)
		if err != nil {
			return err
		}
		specs = append(specs, words...)
	}
	ports, err := parsePorts(specs)
	if err != nil {
		return err
	}
	for _, spec := range specs {
		s.checkPort(spec)
	}
	config := &s.config.Config
	if config.ExposedPorts == nil {
		config.ExposedPorts = map[string]struct{}{}
	}
	for _, port := range ports {
		config.ExposedPorts[port] = struct{}{}
	}
	s.note(nil, "EXPOSE %v", ports)
	return nil
}

// dispatchWorkdir sets the working directory and, unless it is "/", makes it.
func (p *plan) dispatchWorkdir(st *stage, cmd command, c *instructions.WorkdirCommand) error {
	s := st.state
	if c.Path == "" {
		return errors.New("WORKDIR needs a path: it is empty after expansion")
	}
	s.checkWorkdir(c.Path)
	s.setDir(c.Path)
	wd := s.config.Config.WorkingDir
	if wd == "/" {
		s.note(nil, "WORKDIR %s", wd)
		return nil
	}
	made := p.addStep(st, cmd, &workdirOp{dir: s.dir(), user: s.config.Config.User, epoch: p.opts.Epoch})
	s.note(made, "WORKDIR %s", wd)
	return nil
}

// addStep appends a step to a stage.
func (p *plan) addStep(st *stage, cmd command, op op) *step {
	code := ""
	if c, ok := cmd.Command.(fmt.Stringer); ok {
		code = c.String()
	}
	s := &step{stage: st, op: op, onBuild: cmd.onBuild, code: code, location: commandLocation(st, cmd)}
	s.shown = upperFirstWord(p.expand.Display(code, st.state.env))
	s.crossing = crossing(st.platform, st.state.env)
	st.steps = append(st.steps, s)
	return s
}

// nameSteps numbers the steps of a stage; its base image counts as the first.
func (p *plan) nameSteps(st *stage) {
	first := 0
	if st.onImage() {
		first = 1
	}
	total := len(st.steps) + first
	switch {
	case st.implicit && st.onImage():
		st.fromName = p.scopeOf(st, "") + "FROM " + st.shown()
	case st.onImage():
		st.fromName = fmt.Sprintf("[%s1/%d] FROM %s", p.prefix(st, ""), total, st.shown())
	}
	for i, s := range st.steps {
		onBuild := ""
		if s.onBuild {
			onBuild = "ONBUILD "
		}
		s.name = fmt.Sprintf("[%s%*d/%d] %s%s", p.prefix(st, s.crossing), len(fmt.Sprint(total)), i+1+first, total, onBuild, s.shown)
	}
}

// prefix is what stands before the number of a stage's step: the build's name,
// the platform and the stage's, where there are several of each.
func (p *plan) prefix(st *stage, crossing string) string {
	prefix := p.scopeOf(st, crossing)
	if st.name != "" {
		prefix += st.name + " "
	}
	return prefix
}

func (p *plan) scopeOf(st *stage, crossing string) string {
	scope := ""
	if p.opts.Name != "" {
		scope = p.opts.Name + " "
	}
	if len(p.opts.Platforms) > 1 {
		scope += image.FormatPlatform(st.platform) + crossing + " "
	}
	return scope
}

// crossing says which other platform a step is for, as far as its stage has
// declared that it wants to know: "->arm64".
func crossing(on image.Platform, env *image.Env) string {
	to := on
	if name, ok := env.Get("TARGETPLATFORM"); ok {
		p, err := image.ParsePlatform(name)
		if err != nil {
			return ""
		}
		to = p
	} else {
		if os, ok := env.Get("TARGETOS"); ok {
			to.OS = os
		}
		if arch, ok := env.Get("TARGETARCH"); ok {
			to.Architecture = arch
			to.Variant, _ = env.Get("TARGETVARIANT")
		}
	}
	switch {
	case to.OS != on.OS:
		return "->" + image.FormatPlatform(to)
	case to.Architecture != on.Architecture:
		return "->" + strings.TrimPrefix(image.FormatPlatform(to), to.OS+"/")
	}
	return ""
}

func upperFirstWord(s string) string {
	word, rest, _ := strings.Cut(s, " ")
	return strings.TrimRight(strings.ToUpper(word)+" "+rest, " ")
}
