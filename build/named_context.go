// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"builder/buildcontext"
	"builder/image"
)

// NamedContext opens what a name of --build-context stands for, for a
// platform. It is called only if the build needs it, perhaps several times.
type NamedContext func(ctx context.Context, platform image.Platform) (ContextSource, error)

// ContextSource is what a named context holds: files, or an image whose every
// blob is in the store, or, if neither is set, nothing, as FROM scratch.
type ContextSource struct {
	Tree  *buildcontext.Tree
	Image *image.Image
	URL   string // where the files were fetched from, "" if they were not
}

// ContextName is the name under which [Options.Contexts] has a named context:
// a reference as people write it, without a tag that says nothing.
func ContextName(name string) (string, error) {
	name, platform, hasPlatform := strings.Cut(name, "::")
	ref, err := image.ParseRef(strings.ToLower(name))
	if err != nil {
		return "", err
	}
	name = strings.TrimSuffix(ref.Familiar(), ":latest")
	if !hasPlatform {
		return name, nil
	}
	p, err := image.ParsePlatform(platform)
	return name + "::" + image.FormatPlatform(p), err
}

// namedContext is the context that a stage's name or a base image's stands for
// on a platform, nil if there is none of that name.
func (p *plan) namedContext(name string, platform image.Platform) NamedContext {
	if len(p.opts.Contexts) == 0 || strings.EqualFold(name, "scratch") || strings.EqualFold(name, "context") {
		return nil
	}
	key, err := ContextName(name)
	if err != nil {
		return nil // no reference: what it is instead is told elsewhere
	}
	if c, ok := p.opts.Contexts[key+"::"+image.FormatPlatform(platform)]; ok {
		return c
	}
	return p.opts.Contexts[key]
}

// openNamed resolves a stage whose base, or which itself, is a named context.
func (p *plan) openNamed(ctx context.Context, st *stage, open NamedContext) error {
	src, err := open(ctx, st.platform)
	if err != nil {
		return fmt.Errorf("named context %s: %w", st.contextName(), err)
	}
	st.img.Config = scratchConfig(st.platform)
	switch {
	case src.Image != nil:
		st.img = *src.Image
	case src.Tree != nil:
		st.tree = src.Tree
	default:
		st.nothing = true
	}
	return nil
}

// contextName is what a stage's named context was given as.
func (st *stage) contextName() string {
	if st.replaced {
		return st.def.Name
	}
	return st.def.BaseName
}

// dispatchTree makes the step that fills a stage which stands on the files of
// a named context, unless nothing needs more than parts of them.
func (p *plan) dispatchTree(st *stage) {
	if st.tree == nil || !p.standsOn(st) {
		return
	}
	code := "FROM " + st.contextName()
	op := &copyOp{parts: []*copyPart{{from: st, req: buildcontext.Request{Sources: []string{"/"}, Dest: "/"}}}}
	s := &step{stage: st, op: op, code: code, shown: code, location: st.def.Location}
	st.steps = append(st.steps, s)
	st.state.history = append(st.state.history, historyEntry{step: s})
	st.state.history[len(st.state.history)-1].Comment = "buildkit.exporter.image.v0"
}

// standsOn reports whether a stage's whole file system is needed: it is built,
// or something is built on it.
func (p *plan) standsOn(st *stage) bool {
	return st == p.target || len(st.commands) > 0 || slices.ContainsFunc(p.reachable(), func(s *stage) bool { return s.base == st })
}

// files is the tree of a mount's or a COPY's source that is no file system of
// a stage: the build context, or a named one. Nil if it is a stage's.
func (r *runner) files(from *stage) (*buildcontext.Tree, error) {
	if from != nil {
		return from.tree, nil
	}
	if r.opts.Context == nil {
		return nil, errors.New("this build has no context to copy from: it reads only a Dockerfile")
	}
	return r.opts.Context, nil
}
