// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"path"
	"slices"
	"strings"

	"builder/dockerfile"
	"builder/image"
	"builder/progress"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/util/suggest"
)

// Check plans a build without running it and returns what the build checks
// find, until the error if there is one. Without a target every stage is
// planned, also one that no build would need; of several platforms the first
// counts. env needs Images alone, and of the images that those give only the
// config is looked at.
func Check(ctx context.Context, env Env, opts Options) ([]progress.Finding, error) {
	p, err := emptyPlan(opts, callPlatform(opts))
	if err != nil {
		return nil, err
	}
	p.look, p.all = true, opts.Target == ""
	err = p.make(ctx, env)
	return Findings(p.file), err
}

// callPlatform is the platform that a Dockerfile is looked at for.
func callPlatform(opts Options) image.Platform {
	if len(opts.Platforms) > 0 {
		return opts.Platforms[0]
	}
	return image.HostPlatform()
}

// Findings are what the checks of a file have found so far. A file that could
// not be parsed may have some too.
func Findings(f *dockerfile.File) []progress.Finding {
	if f.Checks == nil {
		return nil
	}
	var out []progress.Finding
	for _, w := range f.Checks.Found() {
		out = append(out, progress.Finding{
			Rule: w.Rule.Name, Description: w.Rule.Description, URL: w.Rule.URL, Message: w.Message,
			File: f.Name, Source: f.Source, Start: w.Start, End: w.End,
		})
	}
	return out
}

// findings shows what the build checks found, and what there is to say of the
// syntax directive.
func (p *plan) findings(env Env) {
	if env.Sink == nil {
		return
	}
	if p.file.Note != "" {
		env.Sink.Event(progress.Event{Vertex: "note", Time: env.Now(),
			Log: &progress.Log{Stream: progress.Warning, Data: []byte(p.file.Note + "\n")}})
	}
	for _, f := range Findings(p.file) {
		env.Sink.Event(progress.Event{Time: env.Now(), Finding: &f})
	}
}

// checkDefaultBases checks that every FROM has a base image where no build
// argument is given.
func (p *plan) checkDefaultBases() {
	args := p.args.Clone()
	for _, cmd := range p.file.MetaArgs {
		for _, arg := range cmd.Args {
			if arg.Value == nil {
				continue
			}
			v, _, err := p.expand.Word(*arg.Value, args)
			if err != nil {
				return // the plan fails with it
			}
			args.Set(arg.Key, v)
		}
	}
	for _, st := range p.file.Stages {
		base, _, err := p.expand.Word(st.BaseName, args)
		if err != nil {
			return
		}
		if _, err := image.ParseRef(base); err != nil {
			rule := &linter.RuleInvalidDefaultArgInFrom
			p.checks.At(st.Location, nil).Report(rule, rule.Format(st.BaseName))
		}
	}
}

// checkFromArgs checks that FROM names only ARGs that are declared. unset are
// the names without a value.
func (p *plan) checkFromArgs(site dockerfile.Site, unset []string) {
	names := p.args.Keys()
	declared := map[string]bool{}
	for _, cmd := range p.file.MetaArgs {
		for _, arg := range cmd.Args {
			declared[arg.Key] = true
			names = append(names, arg.Key)
		}
	}
	for _, name := range unset {
		if _, ok := p.args.Get(name); ok || declared[name] {
			continue
		}
		similar, _ := suggest.Search(name, names, true)
		rule := &linter.RuleUndefinedArgInFrom
		site.Report(rule, rule.Format(name, similar))
	}
}

// checkStagePlatform checks FROM's --platform, which came to value.
func (p *plan) checkStagePlatform(site dockerfile.Site, def instructions.Stage, value string, unset []string) {
	used := p.expand.Used(def.Platform, p.args)
	target, _ := p.args.Get("TARGETPLATFORM")
	if len(used) == 1 && len(unset) == 0 && used[0] == "TARGETPLATFORM" && value == target {
		rule := &linter.RuleRedundantTargetPlatform
		site.Report(rule, rule.Format(def.Platform))
	}
	if len(used) > 0 || len(unset) > 0 {
		return
	}
	platform, err := image.ParsePlatform(value)
	if err == nil && !strings.Contains(def.Name, platform.OS) && !strings.Contains(def.Name, platform.Architecture) {
		rule := &linter.RuleFromPlatformFlagConstDisallowed
		site.Report(rule, rule.Format(value))
	}
}

// checkBasePlatforms checks that base images, and those that files are copied
// or mounted from, are for the platforms that were asked for.
func (p *plan) checkBasePlatforms() error {
	for _, st := range p.wanted() {
		if !st.implicit {
			p.checkBasePlatform(st, st.def.Location)
		}
		for _, cmd := range st.commands {
			for _, src := range cmd.sources {
				if src == nil || !src.implicit {
					continue
				}
				at := commandLocation(st, cmd)
				if _, isRun := cmd.Command.(*instructions.RunCommand); isRun {
					at = nil // as in BuildKit
				}
				p.checkBasePlatform(src, at)
			}
		}
	}
	return nil
}

func (p *plan) checkBasePlatform(st *stage, location []parser.Range) {
	have, want := st.img.Config.Platform, st.platform
	if st.base != nil || st.ref == (image.Ref{}) || len(st.img.Config.RootFS.DiffIDs) == 0 {
		return
	}
	if have.OS != want.OS || have.Architecture != want.Architecture {
		rule := &linter.RuleInvalidBaseImagePlatform
		p.checks.At(location, nil).Report(rule, rule.Format(st.def.BaseName, shownPlatform(want), shownPlatform(have)))
	}
}

// shownPlatform is a platform without the variants that go without saying.
func shownPlatform(p image.Platform) string {
	s := image.FormatPlatform(p)
	if usual, err := image.ParsePlatform(s); err == nil {
		return image.FormatPlatform(usual)
	}
	return s
}

// checkVars checks that an instruction uses only variables that there are.
// unset are the names without a value.
func (s *state) checkVars(unset []string) {
	for _, name := range unset {
		if s.declares(name) {
			continue
		}
		similar, _ := suggest.Search(name, s.env.Keys(), true)
		rule := &linter.RuleUndefinedVar
		s.site.Report(rule, rule.Format(name, similar))
	}
}

// declares tells whether an ARG of that name came before.
func (s *state) declares(name string) bool {
	for _, arg := range s.args {
		if arg.Key == name {
			return true
		}
	}
	return name == "BUILDKIT_SBOM_SCAN_CONTEXT" || name == "BUILDKIT_SBOM_SCAN_STAGE" // read by the builder, never set
}

// checkOnce reports the instruction before this one where the stage has two.
func (s *state) checkOnce(c instructions.Command) {
	name := strings.ToUpper(c.Name())
	if first, ok := s.once[name]; ok {
		rule := &linter.RuleMultipleInstructionsDisallowed
		s.site.For(first).Report(rule, rule.Format(c.Name()))
	}
	if s.once == nil {
		s.once = map[string]dockerfile.Site{}
	}
	s.once[name] = s.site
}

// checkShellForm checks that an image's command isn't run by a shell that the
// Dockerfile doesn't name.
func (s *state) checkShellForm(c instructions.Command, line instructions.ShellDependantCmdLine) {
	if line.PrependShell && len(s.config.Config.Shell) == 0 {
		rule := &linter.RuleJSONArgsRecommended
		s.site.Report(rule, rule.Format(c.Name()))
	}
}

// checkPair checks a NAME=VALUE of ENV or LABEL.
func (s *state) checkPair(c instructions.Command, kv instructions.KeyValuePair) {
	if kv.NoDelim {
		rule := &linter.RuleLegacyKeyValueFormat
		s.site.Report(rule, rule.Format(c.Name()))
	}
}

// checkSecret checks that a variable's name doesn't sound like a secret's.
func (s *state) checkSecret(instruction, name string) {
	if soundsSecret(name) {
		rule := &linter.RuleSecretsUsedInArgOrEnv
		s.site.Report(rule, rule.Format(instruction, name))
	}
}

// soundsSecret tells whether one of the words of a name, which "_" divides, is
// of those that secrets are named with, and none says that it isn't one.
func soundsSecret(name string) bool {
	secret := []string{"apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"}
	harmless := []string{"public", "file", "version"}
	found := false
	for word := range strings.SplitSeq(name, "_") {
		is := func(w string) bool { return strings.EqualFold(w, word) }
		if slices.ContainsFunc(harmless, is) {
			return false
		}
		found = found || slices.ContainsFunc(secret, is)
	}
	return found
}

// checkWorkdir checks that the stage's first WORKDIR is absolute.
func (s *state) checkWorkdir(dir string) {
	if !s.workdirSet && !path.IsAbs(dir) {
		rule := &linter.RuleWorkdirRelativePath
		s.site.Report(rule, rule.Format(dir))
	}
	s.workdirSet = true
}

// checkPort checks a word of EXPOSE.
func (s *state) checkPort(spec string) {
	rest, proto, _ := strings.Cut(spec, "/")
	if proto != strings.ToLower(proto) {
		rule := &linter.RuleExposeProtoCasing
		s.site.Report(rule, rule.Format(spec))
	}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && strings.Trim(rest[:i], ":") != "" {
		rule := &linter.RuleExposeInvalidFormat
		s.site.Report(rule, rule.Format(spec))
	}
}

// checkSource checks that a source of COPY or ADD is in the build context at
// all.
func (p *plan) checkSource(s *state, verb, source string) {
	source = path.Clean(source)
	if p.opts.Context != nil && p.opts.Context.Excludes(source) {
		rule := &linter.RuleCopyIgnoredFile
		s.site.Report(rule, rule.Format(verb, source))
	}
}
