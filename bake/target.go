// SPDX-License-Identifier: Apache-2.0

package bake

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// Target is one build. Nil means that an attribute was not given: what a
// target inherits shows through.
type Target struct {
	Name        string `json:"-"`
	Description string `json:"description,omitempty"`

	Inherits []string `json:"inherits,omitempty"`

	Annotations      []string           `json:"annotations,omitempty"`
	Attest           []Entry            `json:"attest,omitempty"`
	Context          *string            `json:"context,omitempty"`
	Contexts         map[string]string  `json:"contexts,omitempty"`
	Dockerfile       *string            `json:"dockerfile,omitempty"`
	DockerfileInline *string            `json:"dockerfile-inline,omitempty"`
	Args             map[string]*string `json:"args,omitempty"`
	Labels           map[string]*string `json:"labels,omitempty"`
	Tags             []string           `json:"tags,omitempty"`
	CacheFrom        []Entry            `json:"cache-from,omitempty"`
	CacheTo          []Entry            `json:"cache-to,omitempty"`
	Target           *string            `json:"target,omitempty"`
	Secrets          []Secret           `json:"secret,omitempty"`
	SSH              []SSH              `json:"ssh,omitempty"`
	Platforms        []string           `json:"platforms,omitempty"`
	Outputs          []Entry            `json:"output,omitempty"`
	Pull             *bool              `json:"pull,omitempty"`
	NoCache          *bool              `json:"no-cache,omitempty"`
	Network          *string            `json:"network,omitempty"`
	NoCacheFilter    []string           `json:"no-cache-filter,omitempty"`
	ShmSize          *string            `json:"shm-size,omitempty"`
	Ulimits          []string           `json:"ulimits,omitempty"`
	Resources        *Resources         `json:"resources,omitempty"`
	Call             *string            `json:"call,omitempty"`
	Entitlements     []string           `json:"entitlements,omitempty"`
	ExtraHosts       map[string]*string `json:"extra-hosts,omitempty"`
	Policy           []Entry            `json:"policy,omitempty"`

	// Linked is set of a target that is built only because others take it as
	// a context.
	Linked bool `json:"-"`

	places map[string]Place // where attributes were given
	ours   map[string]bool  // what --set gave, which needs no allowing
}

// FromSet reports whether --set gave what kind and name say: output, ssh,
// secret and its ID, or entitlements and one of them. It is the user's wish
// and not the definition's.
func (t *Target) FromSet(kind, name string) bool { return t.ours[kind+" "+name] }

func (t *Target) fromSet(kind, name string) {
	t.ours = mergeMaps(t.ours, map[string]bool{kind + " " + name: true})
}

// SetArg sets a build argument.
func (t *Target) SetArg(name, value string) {
	t.Args = mergeMaps(t.Args, map[string]*string{name: &value})
}

// Place is a line of a definition file, for messages.
type Place struct {
	File File
	Line int
}

// Fault is err about an attribute of the target, at the place where it was
// given if that is known.
func (t *Target) Fault(attribute string, err error) error {
	fault := &attributeError{target: t.Name, attribute: attribute, err: err}
	p, ok := t.places[attribute]
	if !ok {
		return fault
	}
	return &Error{File: p.File, Start: p.Line, End: p.Line, Err: fault}
}

type attributeError struct {
	target, attribute string
	err               error
}

func (e *attributeError) Error() string {
	return "target " + e.target + ": " + e.attribute + ": " + e.err.Error()
}

func (e *attributeError) Unwrap() error { return e.err }

// MarshalJSON writes the target such that it can be read as a definition
// again: what looks like a template in it is escaped.
func (t *Target) MarshalJSON() ([]byte, error) {
	type plain Target
	out := plain(*t)
	out.Annotations = slices.Clone(t.Annotations)
	for i, a := range out.Annotations {
		out.Annotations[i] = escapeTemplate(a)
	}
	if t.DockerfileInline != nil {
		text := escapeTemplate(*t.DockerfileInline)
		out.DockerfileInline = &text
	}
	out.Labels, out.Args, out.ExtraHosts = escapeValues(t.Labels), escapeValues(t.Args), escapeValues(t.ExtraHosts)
	return json.Marshal(&out)
}

func escapeTemplate(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "${", "$${"), "%{", "%%{")
}

func escapeValues(m map[string]*string) map[string]*string {
	out := maps.Clone(m)
	for k, v := range out {
		if v != nil {
			text := escapeTemplate(*v)
			out[k] = &text
		}
	}
	return out
}

// merge lays over over t. Lists of what a build may use are joined: attest,
// annotations, cache-from, entitlements, no-cache-filter, policy, secret, ssh,
// ulimits; so are maps, key by key. All else is replaced.
func (t *Target) merge(over *Target) {
	if over.Description != "" {
		t.Description = over.Description
	}
	for _, f := range []struct{ to, from **string }{
		{&t.Context, &over.Context}, {&t.Dockerfile, &over.Dockerfile}, {&t.DockerfileInline, &over.DockerfileInline},
		{&t.Target, &over.Target}, {&t.Network, &over.Network}, {&t.ShmSize, &over.ShmSize}, {&t.Call, &over.Call},
	} {
		if *f.from != nil {
			*f.to = *f.from
		}
	}
	for _, f := range []struct{ to, from **bool }{{&t.Pull, &over.Pull}, {&t.NoCache, &over.NoCache}} {
		if *f.from != nil {
			*f.to = *f.from
		}
	}
	for _, f := range []struct{ to, from *[]string }{{&t.Tags, &over.Tags}, {&t.Platforms, &over.Platforms}} {
		if *f.from != nil {
			*f.to = slices.Clone(*f.from)
		}
	}
	for _, f := range []struct{ to, from *[]Entry }{{&t.CacheTo, &over.CacheTo}, {&t.Outputs, &over.Outputs}} {
		if *f.from != nil {
			*f.to = cloneEntries(*f.from)
		}
	}
	for _, f := range []struct{ to, from *[]string }{
		{&t.Annotations, &over.Annotations}, {&t.NoCacheFilter, &over.NoCacheFilter}, {&t.Ulimits, &over.Ulimits},
		{&t.Entitlements, &over.Entitlements}, {&t.Inherits, &over.Inherits},
	} {
		*f.to = slices.Concat(*f.to, *f.from)
	}
	for _, f := range []struct{ to, from *[]Entry }{
		{&t.Attest, &over.Attest}, {&t.CacheFrom, &over.CacheFrom}, {&t.Policy, &over.Policy},
	} {
		*f.to = slices.Concat(*f.to, *f.from)
	}
	t.Secrets, t.SSH = slices.Concat(t.Secrets, over.Secrets), slices.Concat(t.SSH, over.SSH)
	for _, f := range []struct{ to, from *map[string]*string }{
		{&t.Args, &over.Args}, {&t.Labels, &over.Labels}, {&t.ExtraHosts, &over.ExtraHosts},
	} {
		*f.to = mergeValues(*f.to, *f.from)
	}
	t.Contexts = mergeMaps(t.Contexts, over.Contexts)
	t.Resources = over.Resources.over(t.Resources)
	t.places, t.ours = mergeMaps(t.places, over.places), mergeMaps(t.ours, over.ours)
}

// drop takes an attribute back.
func (t *Target) drop(attribute string) {
	switch attribute {
	case "args":
		t.Args = nil
	case "attest":
		t.Attest = nil
	case "cache-from":
		t.CacheFrom = nil
	case "cache-to":
		t.CacheTo = nil
	case "context":
		t.Context = nil
	case "contexts":
		t.Contexts = nil
	case "dockerfile":
		t.Dockerfile = nil
	case "dockerfile-inline":
		t.DockerfileInline = nil
	case "entitlements":
		t.Entitlements = nil
	case "extra-hosts":
		t.ExtraHosts = nil
	case "labels":
		t.Labels = nil
	case "network":
		t.Network = nil
	case "no-cache":
		t.NoCache = nil
	case "no-cache-filter":
		t.NoCacheFilter = nil
	case "platforms":
		t.Platforms = nil
	case "pull":
		t.Pull = nil
	case "shm-size":
		t.ShmSize = nil
	case "ssh":
		t.SSH = nil
	case "tags":
		t.Tags = nil
	case "target":
		t.Target = nil
	}
}

// mergeValues is mergeMaps, but null leaves what was there.
func mergeValues(to, from map[string]*string) map[string]*string {
	set := maps.Clone(from)
	maps.DeleteFunc(set, func(_ string, v *string) bool { return v == nil })
	return mergeMaps(to, set)
}

func mergeMaps[V any](to, from map[string]V) map[string]V {
	if len(from) == 0 {
		return to
	}
	out := maps.Clone(to)
	if out == nil {
		out = map[string]V{}
	}
	maps.Copy(out, from)
	return out
}

// normalize drops repetitions and empty words, and asks for what a network of
// the host needs.
func (t *Target) normalize() {
	for _, l := range []*[]string{&t.Annotations, &t.Tags, &t.Platforms, &t.NoCacheFilter, &t.Ulimits} {
		*l = uniqueWords(*l)
	}
	t.Attest = lastOf(t.Attest, func(e Entry) string { return e.Type })
	t.Secrets = lastOf(t.Secrets, func(s Secret) string { return s.ID })
	t.SSH = lastOf(t.SSH, func(s SSH) string { return s.ID })
	t.CacheFrom, t.CacheTo, t.Outputs = uniqueEntries(t.CacheFrom), uniqueEntries(t.CacheTo), uniqueEntries(t.Outputs)
	if t.Network != nil && *t.Network == "host" {
		t.Entitlements = append(t.Entitlements, "network.host")
	}
	t.Entitlements = uniqueWords(t.Entitlements)
	t.Contexts = maps.Clone(t.Contexts)
	maps.DeleteFunc(t.Contexts, func(_, v string) bool { return v == "" })
}

func uniqueWords(words []string) []string {
	return slices.DeleteFunc(unique(words), func(w string) bool { return w == "" })
}

// lastOf keeps of those with the same key the last, at the place of the first.
func lastOf[T any](list []T, key func(T) string) []T {
	at := map[string]int{}
	var out []T
	for _, v := range list {
		if i, ok := at[key(v)]; ok {
			out[i] = v
			continue
		}
		at[key(v)] = len(out)
		out = append(out, v)
	}
	return out
}

func uniqueEntries(list []Entry) []Entry {
	var out []Entry
	for _, e := range list {
		if !slices.ContainsFunc(out, e.equal) {
			out = append(out, e)
		}
	}
	return out
}
