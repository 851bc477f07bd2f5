// SPDX-License-Identifier: Apache-2.0

package bake

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// build reads a service's build section.
func (r *composer) build(y *yamlFile, n *yaml.Node, s *service, dir string) error {
	t := &Target{places: map[string]Place{"": y.place(n)}}
	s.build = t
	what := "service " + s.name + ": build"
	if n.Kind == yaml.ScalarNode {
		w, err := y.word(n, what)
		if w != nil {
			path := rebase(dir, *w)
			t.Context = &path
		}
		return err
	}
	fields, dropped, err := y.fields(n, what)
	if err != nil {
		return err
	}
	s.buildDropped = dropped
	for _, f := range fields {
		if err := r.buildField(y, f, s, dir); err != nil {
			return y.at(f.value, err)
		}
	}
	return nil
}

// bakeNames are the attributes that fields of a build section become, where
// the names differ.
func bakeName(field string) string {
	switch field {
	case "additional_contexts":
		return "contexts"
	case "secrets":
		return "secret"
	case "sbom", "provenance":
		return "attest"
	}
	return strings.ReplaceAll(field, "_", "-")
}

func (r *composer) buildField(y *yamlFile, f pair, s *service, dir string) error {
	t := s.build
	what := "service " + s.name + ": build." + f.key
	t.places[bakeName(f.key)] = y.place(f.node)
	texts := map[string]**string{
		"context": &t.Context, "dockerfile": &t.Dockerfile, "dockerfile_inline": &t.DockerfileInline,
		"network": &t.Network, "target": &t.Target, "shm_size": &t.ShmSize,
	}
	lists := map[string]*[]string{
		"entitlements": &t.Entitlements, "no_cache_filter": &t.NoCacheFilter, "platforms": &t.Platforms, "tags": &t.Tags,
	}
	truths := map[string]**bool{"no_cache": &t.NoCache, "pull": &t.Pull}
	var err error
	switch {
	case strings.HasPrefix(f.key, "x-"):
		if f.key == "x-bake" {
			s.bake, err = bakeExtension(y, f.value, "service "+s.name+": x-bake", dir)
		}
	case texts[f.key] != nil:
		var w *string
		if w, err = y.word(f.value, what); err == nil && w != nil && *w != "" {
			err = setComposeText(texts[f.key], f.key, *w, dir)
		}
	case lists[f.key] != nil:
		*lists[f.key], err = y.words(f.value, what, f.key == "no_cache_filter")
	case truths[f.key] != nil:
		var b *bool
		if b, err = y.truth(f.value, what); b != nil && *b {
			*truths[f.key] = b
		}
	case f.key == "isolation", f.key == "privileged":
		var w *string
		if w, err = y.word(f.value, what); err == nil && w != nil && !slices.Contains([]string{"", "default", "false"}, *w) {
			err = fmt.Errorf("%s: %s is not supported", what, *w)
		}
	default:
		err = r.buildCollection(y, f, s, dir, what)
	}
	if err != nil {
		return y.at(f.value, err)
	}
	return nil
}

func setComposeText(to **string, key, value, dir string) (err error) {
	switch key {
	case "context":
		value = rebase(dir, value)
	case "shm_size":
		if value, err = shmSize(value); err != nil {
			return fmt.Errorf("shm_size: %w", err)
		}
	}
	*to = &value
	return nil
}

// buildCollection reads the fields that are mappings, or lists of several
// forms.
func (r *composer) buildCollection(y *yamlFile, f pair, s *service, dir, what string) (err error) {
	t := s.build
	switch f.key {
	case "args":
		t.Args, err = y.values(f.value, what)
	case "labels":
		if t.Labels, err = y.values(f.value, what); err == nil {
			for k, v := range t.Labels {
				if v == nil {
					t.Labels[k] = new(string)
				}
			}
		}
	case "additional_contexts":
		t.Contexts, err = namedContexts(y, f.value, what, dir, true)
	case "extra_hosts":
		t.ExtraHosts, err = extraHosts(y, f.value, what)
	case "ulimits":
		var pairs []pair
		if pairs, err = y.mapping(f.value, what); err != nil {
			return err
		}
		s.ulimits = map[string]string{}
		for _, p := range pairs {
			if s.ulimits[p.key], err = compoundUlimit(y, p.value, what+"."+p.key); err != nil {
				return err
			}
		}
	case "ssh":
		var agents map[string]*string
		agents, err = y.values(f.value, what)
		for id, path := range agents {
			a := SSH{ID: id}
			if path != nil && *path != "" {
				a.Paths = []string{*path}
			}
			t.SSH = append(t.SSH, a)
		}
	case "secrets":
		s.secrets, err = secretNames(y, f.value, what)
	case "cache_from", "cache_to":
		list := &t.CacheFrom
		if f.key == "cache_to" {
			list = &t.CacheTo
		}
		*list, err = entriesOf(y, f.value, what, false, parseCache)
	case "provenance", "sbom":
		var w *string
		if w, err = y.word(f.value, what); err != nil || w == nil || *w == "" {
			return err
		}
		form := "type=" + f.key + "," + *w
		switch strings.ToLower(*w) {
		case "true":
			form = "type=" + f.key
		case "false":
			form = "type=" + f.key + ",disabled=true"
		}
		var more []Entry
		if more, err = parseAttest(form); err == nil {
			t.Attest = append(t.Attest, more...)
			slices.SortStableFunc(t.Attest, func(a, b Entry) int { return strings.Compare(b.Type, a.Type) })
		}
	default:
		return y.errorf(f.node, "service %s: build: unknown field %q%s", s.name, f.key, DidYouMean(f.key, composeFields()))
	}
	return err
}

func composeFields() []string {
	return []string{
		"additional_contexts", "args", "cache_from", "cache_to", "context", "dockerfile", "dockerfile_inline", "entitlements",
		"extra_hosts", "labels", "network", "no_cache", "no_cache_filter", "platforms", "provenance", "pull", "sbom",
		"secrets", "shm_size", "ssh", "tags", "target", "ulimits", "x-bake",
	}
}

// namedContexts reads contexts by name. Services of the same files become
// targets; clean writes paths the short way, as the build section has them.
func namedContexts(y *yamlFile, n *yaml.Node, what, dir string, clean bool) (map[string]string, error) {
	values, err := y.values(n, what)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, v := range values {
		if v == nil {
			return nil, y.errorf(n, "%s: %s has no value", what, name)
		}
		out[name] = *v
		if clean || dir != "" {
			out[name] = rebase(dir, *v)
		}
		for _, prefix := range []string{"service:", "target:"} {
			if other, ok := strings.CutPrefix(*v, prefix); ok {
				out[name] = "target:" + targetName(other)
			}
		}
	}
	return out, nil
}

func extraHosts(y *yamlFile, n *yaml.Node, what string) (map[string]*string, error) {
	out := map[string]*string{}
	add := func(host, ip string) {
		ip = strings.Trim(ip, "[]")
		if old := out[host]; old != nil {
			ip = *old + "," + ip
		}
		out[host] = &ip
	}
	if n.Kind == yaml.SequenceNode {
		words, err := y.words(n, what, false)
		if err != nil {
			return nil, err
		}
		for _, w := range words {
			i := strings.IndexAny(w, "=:")
			if i <= 0 {
				return nil, y.errorf(n, "%s: %q: want HOST=IP", what, w)
			}
			add(w[:i], w[i+1:])
		}
		return out, nil
	}
	pairs, err := y.mapping(n, what)
	if err != nil {
		return nil, err
	}
	for _, p := range pairs {
		ips, err := y.words(p.value, what+"."+p.key, true)
		if err != nil {
			return nil, err
		}
		for _, ip := range ips {
			add(p.key, ip)
		}
	}
	return out, nil
}

func secretNames(y *yamlFile, n *yaml.Node, what string) ([]string, error) {
	list, err := y.sequence(n, what)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, el := range list {
		if el.Kind != yaml.MappingNode {
			w, err := y.word(el, what)
			if err != nil {
				return nil, err
			}
			if w != nil {
				out = append(out, *w)
			}
			continue
		}
		fields, err := y.mapping(el, what)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(fields, func(f pair) bool { return f.key == "source" })
		if i < 0 {
			return nil, y.errorf(el, "%s: a secret has no source", what)
		}
		w, err := y.word(fields[i].value, what)
		if err != nil {
			return nil, err
		}
		if w != nil {
			out = append(out, *w)
		}
	}
	return out, nil
}

func entriesOf(y *yamlFile, n *yaml.Node, what string, single bool, parse func(string) ([]Entry, error)) ([]Entry, error) {
	words, err := y.words(n, what, single)
	if err != nil {
		return nil, err
	}
	var out []Entry
	for _, w := range words {
		if w == "" {
			continue
		}
		entries, err := parse(w)
		if err != nil {
			return nil, y.errorf(n, "%s: %w", what, err)
		}
		out = append(out, entries...)
	}
	return out, nil
}

// bakeExtension reads x-bake, which gives what the build section has no field
// for.
func bakeExtension(y *yamlFile, n *yaml.Node, what, dir string) (*Target, error) {
	fields, err := y.mapping(n, what)
	if err != nil {
		return nil, err
	}
	t := &Target{places: map[string]Place{}}
	lists := map[string]*[]string{"tags": &t.Tags, "platforms": &t.Platforms, "no-cache-filter": &t.NoCacheFilter}
	truths := map[string]**bool{"pull": &t.Pull, "no-cache": &t.NoCache}
	for _, f := range fields {
		what := what + "." + f.key
		t.places[f.key] = y.place(f.node)
		var err error
		switch {
		case lists[f.key] != nil:
			*lists[f.key], err = y.words(f.value, what, true)
		case truths[f.key] != nil:
			*truths[f.key], err = y.truth(f.value, what)
		case f.key == "cache-from":
			t.CacheFrom, err = entriesOf(y, f.value, what, true, parseCache)
		case f.key == "cache-to":
			t.CacheTo, err = entriesOf(y, f.value, what, true, parseCache)
		case f.key == "output":
			t.Outputs, err = entriesOf(y, f.value, what, true, parseOutput)
		case f.key == "contexts":
			t.Contexts, err = namedContexts(y, f.value, what, dir, false)
		case f.key == "secret":
			var words []string
			words, err = y.words(f.value, what, true)
			for _, w := range words {
				var s Secret
				if s, err = parseSecret(w); err != nil {
					break
				}
				t.Secrets = append(t.Secrets, s)
			}
		case f.key == "ssh":
			var words []string
			words, err = y.words(f.value, what, true)
			for _, w := range words {
				t.SSH = append(t.SSH, parseSSH(w))
			}
		default:
			known := []string{"cache-from", "cache-to", "contexts", "no-cache", "no-cache-filter", "output", "platforms", "pull", "secret", "ssh", "tags"}
			return nil, y.errorf(f.node, "%s: unknown field%s", what, DidYouMean(f.key, known))
		}
		if err != nil {
			return nil, y.at(f.value, fmt.Errorf("%s: %w", what, err))
		}
	}
	return t, nil
}
