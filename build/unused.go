// SPDX-License-Identifier: Apache-2.0

package build

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"builder/image"
	"builder/progress"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/util/suggest"
)

// warnUnused tells of build arguments that no ARG takes, and of those that ask
// for what builder does not do.
func (r *runner) warnUnused() {
	declared := r.plan.declaredArgs()
	for _, name := range slices.Sorted(maps.Keys(r.opts.Args)) {
		var text string
		switch {
		case name == "BUILDKIT_INLINE_CACHE" && r.opts.Args[name] != "0":
			text = "the build argument BUILDKIT_INLINE_CACHE has no effect: caches inside of images are not supported yet"
		case slices.Contains(declared, name) || predefinedArg(name):
			continue
		default:
			text = suggest.WrapError(fmt.Errorf("the build argument %s is not used: no ARG declares it", name), name, declared, true).Error()
		}
		r.event("warnings", progress.Event{Log: &progress.Log{Stream: progress.Warning, Data: []byte(text + "\n")}})
	}
}

// declaredArgs are the names of all ARGs of the file and of the triggers that
// were taken in.
func (p *plan) declaredArgs() []string {
	var names []string
	add := func(c *instructions.ArgCommand) {
		for _, arg := range c.Args {
			names = append(names, arg.Key)
		}
	}
	for i := range p.file.MetaArgs {
		add(&p.file.MetaArgs[i])
	}
	for _, st := range p.stages {
		for _, c := range st.commands {
			if arg, ok := c.Command.(*instructions.ArgCommand); ok {
				add(arg)
			}
		}
	}
	return names
}

// predefinedArg reports whether a build argument means something without an
// ARG: BuildKit's own, the platforms' and the proxies.
func predefinedArg(name string) bool {
	if strings.HasPrefix(name, "BUILDKIT_") || name == epochArg {
		return true
	}
	for _, prefix := range []string{"TARGET", "BUILD"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok && slices.Contains([]string{"PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT", "STAGE"}, rest) {
			return true
		}
	}
	return slices.Contains(image.ProxyNames, strings.ToUpper(name))
}
