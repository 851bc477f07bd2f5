// SPDX-License-Identifier: Apache-2.0

package bake

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Definition is what is to be built: targets with everything that they
// inherit, and the groups that name them. It is what --print shows.
type Definition struct {
	Groups  map[string]*Group  `json:"group,omitempty"`
	Targets map[string]*Target `json:"target"`
}

// Resolve gives the targets that names (of targets or groups, or patterns)
// stand for, without names the group or target "default", with overrides, each
// PATTERN.KEY=VALUE, applied. Targets that others take as a context are added,
// marked Linked.
func (c *Config) Resolve(names, overrides []string) (*Definition, error) {
	if len(names) == 0 {
		names = []string{"default"}
	}
	var roots []string
	for _, name := range names {
		matched, err := c.match(targetName(name))
		if err != nil {
			return nil, err
		}
		roots = append(roots, matched...)
	}
	roots = unique(roots)
	r := resolver{c: c, def: &Definition{Groups: map[string]*Group{}, Targets: map[string]*Target{}}, linked: map[string]bool{}}
	var err error
	if r.overrides, err = c.parseOverrides(overrides); err != nil {
		return nil, err
	}
	for _, name := range roots {
		targets, err := r.expand(name, nil)
		if err != nil {
			return nil, err
		}
		for _, t := range targets {
			if r.def.Targets[t] == nil {
				if r.def.Targets[t], err = r.target(t); err != nil {
					return nil, err
				}
			}
		}
	}
	r.nameDefault(roots)
	for _, name := range slices.Sorted(maps.Keys(r.def.Targets)) {
		if err := r.link(r.def.Targets[name], nil); err != nil {
			return nil, err
		}
	}
	return r.def, nil
}

// targetName is a name as targets have it: a service of a compose file may
// have dots in its name.
func targetName(name string) string { return strings.ReplaceAll(name, ".", "_") }

type resolver struct {
	c         *Config
	overrides map[string][]override
	def       *Definition
	linked    map[string]bool // targets whose contexts have been followed
}

// match gives the groups and targets that a pattern matches.
func (c *Config) match(pattern string) ([]string, error) {
	if !strings.ContainsAny(pattern, "*?[]") {
		return []string{pattern}, nil
	}
	var out []string
	for _, n := range c.names() {
		if ok, err := path.Match(pattern, n); err != nil {
			return nil, fmt.Errorf("pattern %q: %w", pattern, err)
		} else if ok {
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		return nil, c.unknown(fmt.Sprintf("no target matches %q", pattern), "")
	}
	return out, nil
}

func (c *Config) names() []string {
	var out []string
	for _, g := range c.Groups {
		out = append(out, g.Name)
	}
	for _, t := range c.Targets {
		out = append(out, t.Name)
	}
	return out
}

// UnknownTarget says that a name stands for nothing.
type UnknownTarget struct {
	msg   string
	known []string
}

func (e *UnknownTarget) Error() string { return e.msg }

// Hint names what there is.
func (e *UnknownTarget) Hint() string {
	if len(e.known) == 0 {
		return "the files define no targets"
	}
	const most = 20
	names := e.known
	if len(names) > most {
		names = append(slices.Clone(names[:most]), "…")
	}
	return "there are: " + strings.Join(names, ", ")
}

func (c *Config) unknown(msg, name string) error {
	known := slices.Sorted(slices.Values(c.names()))
	if name != "" {
		msg += DidYouMean(name, known)
	}
	return &UnknownTarget{msg: msg, known: unique(known)}
}

// expand gives the targets of a group, or the name itself. The groups on the
// way are added to the definition.
func (r *resolver) expand(name string, within []string) ([]string, error) {
	g := r.c.group(name)
	if g == nil {
		if r.c.target(name) == nil {
			msg := fmt.Sprintf("there is no target %q", name)
			if len(within) > 0 {
				msg += fmt.Sprintf(", which group %q names", within[len(within)-1])
			}
			return nil, r.c.unknown(msg, name)
		}
		return []string{name}, nil
	}
	if r.def.Groups[name] != nil {
		return nil, nil // expanded before: its targets are known
	}
	r.def.Groups[name] = &Group{Name: g.Name, Description: g.Description, Targets: slices.Clone(unique(g.Targets))}
	var out []string
	for _, member := range g.Targets {
		targets, err := r.expand(member, append(within, name))
		if err != nil {
			return nil, err
		}
		out = append(out, targets...)
	}
	return unique(out), nil
}

// nameDefault makes the group "default" what was asked for.
func (r *resolver) nameDefault(roots []string) {
	for _, name := range roots {
		g := r.def.Groups["default"]
		if name == "default" && g != nil {
			continue
		}
		if g == nil {
			g = &Group{Name: "default"}
			r.def.Groups["default"] = g
		}
		g.Targets = append(g.Targets, name)
	}
	if g := r.def.Groups["default"]; g != nil {
		g.Targets = unique(g.Targets)
		slices.Sort(g.Targets)
	}
}

// target gives a target with what it inherits and its overrides.
func (r *resolver) target(name string) (*Target, error) {
	t, err := r.inherited(name, map[string]*Target{}, nil)
	if err != nil {
		return nil, err
	}
	t.Inherits = nil
	context := "."
	if t.Context != nil {
		context = *t.Context
	}
	if !IsRemote(context) {
		context = path.Clean(strings.TrimPrefix(context, "cwd://"))
	}
	t.Context = &context
	if t.Dockerfile == nil || *t.Dockerfile == "" {
		file := "Dockerfile"
		t.Dockerfile = &file
	}
	return t, nil
}

// inherited lays a target over what it inherits, in order. done holds what has
// been resolved, way the targets that are being resolved.
func (r *resolver) inherited(name string, done map[string]*Target, way []string) (*Target, error) {
	if t := done[name]; t != nil {
		return t, nil
	}
	own := r.c.target(name)
	if own == nil {
		if len(way) == 0 {
			return nil, r.c.unknown(fmt.Sprintf("there is no target %q", name), name)
		}
		heir := r.c.target(way[len(way)-1])
		return nil, heir.Fault("inherits", r.c.unknown(fmt.Sprintf("there is no target %q", name), name))
	}
	t := &Target{}
	for _, base := range own.Inherits {
		if base == name || slices.Contains(way, base) {
			return nil, own.Fault("inherits", fmt.Errorf("target %s inherits itself", base))
		}
		b, err := r.inherited(base, done, append(way, name))
		if err != nil {
			return nil, err
		}
		t.merge(b)
	}
	t.merge(own)
	t.Name = name
	for _, o := range r.overrides[name] {
		if err := o.apply(t); err != nil {
			return nil, fmt.Errorf("--set %s: %w", o.text, err)
		}
	}
	t.normalize()
	done[name] = t
	return t, nil
}

// link adds the targets that t takes as contexts, and what they need to be
// allowed to t.
func (r *resolver) link(t *Target, way []string) error {
	way = append(way, t.Name)
	for _, name := range slices.Sorted(maps.Keys(t.Contexts)) {
		other, ok := strings.CutPrefix(t.Contexts[name], "target:")
		if !ok {
			continue
		}
		if slices.Contains(way, other) {
			if other == t.Name {
				return t.Fault("contexts", errors.New("a target can't be a context of itself"))
			}
			return t.Fault("contexts", fmt.Errorf("targets are contexts of each other: %s", strings.Join(append(way, other), " → ")))
		}
		linked := r.def.Targets[other]
		if linked == nil {
			var err error
			if linked, err = r.target(other); err != nil {
				return t.Fault("contexts", err)
			}
			linked.Outputs = []Entry{{Type: "cacheonly"}}
			linked.Linked = true
			r.def.Targets[other] = linked
		}
		if !r.linked[other] {
			if err := r.link(linked, way); err != nil {
				return err
			}
		}
		t.Entitlements = unique(append(t.Entitlements, linked.Entitlements...))
		if len(t.Platforms) > 1 && len(linked.Platforms) > 1 {
			for _, p := range t.Platforms {
				if !slices.Contains(linked.Platforms, p) {
					return t.Fault("platforms", fmt.Errorf("target %s, which is a context, is not built for %s", other, p))
				}
			}
		}
	}
	r.linked[t.Name] = true
	return nil
}
