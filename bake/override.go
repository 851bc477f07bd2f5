// SPDX-License-Identifier: Apache-2.0

package bake

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// override is one --set, or several of the same key, for one target.
type override struct {
	text     string // as it was given, for messages
	key      string // the attribute
	name     string // what follows it: the argument of args.X
	values   []string
	addition bool // += instead of =
}

// listKeys are those that can be given several times and added to.
func listKeys() []string {
	return []string{
		"annotations", "attest", "cache-from", "cache-to", "entitlements", "no-cache-filter", "output", "platform",
		"policy", "secrets", "ssh", "tags", "ulimits",
	}
}

// namedKeys are those of which one part is set.
func namedKeys() []string {
	return []string{"args", "contexts", "extra-hosts", "labels", "resources", "secret"}
}

// plainKeys have one value.
func plainKeys() []string {
	return []string{"call", "context", "dockerfile", "load", "network", "no-cache", "pull", "push", "shm-size", "target"}
}

// parseOverrides reads what --set gives, by target, in the order of first
// mention.
func (c *Config) parseOverrides(words []string) (map[string][]override, error) {
	out := map[string][]override{}
	for _, w := range words {
		o, pattern, err := c.parseOverride(w)
		if err != nil {
			return nil, fmt.Errorf("--set %s: %w", w, err)
		}
		targets, err := c.targetsLike(pattern)
		if err != nil {
			return nil, fmt.Errorf("--set %s: %w", w, err)
		}
		for _, t := range targets {
			i := slices.IndexFunc(out[t], func(p override) bool { return p.key == o.key && p.name == o.name })
			switch {
			case i < 0:
				out[t] = append(out[t], o)
			case slices.Contains(listKeys(), o.key):
				out[t][i].values = slices.Concat(out[t][i].values, o.values)
				out[t][i].addition = o.addition
			default:
				out[t][i] = o
			}
		}
	}
	return out, nil
}

func (c *Config) parseOverride(w string) (o override, pattern string, err error) {
	key, value, given := strings.Cut(w, "=")
	o = override{text: w}
	key, o.addition = strings.CutSuffix(key, "+")
	pattern, key, ok := strings.Cut(key, ".")
	if !ok || pattern == "" || key == "" {
		return o, "", errors.New("want TARGET.KEY=VALUE")
	}
	o.key, o.name, _ = strings.Cut(key, ".")
	all := slices.Concat(listKeys(), namedKeys(), plainKeys())
	switch {
	case o.key == "platforms":
		return o, "", errors.New(`the key is "platform"`)
	case o.key == "inherits":
		return o, "", errors.New("what a target inherits can't be set from outside")
	case !slices.Contains(all, o.key):
		return o, "", fmt.Errorf("unknown key %q%s", o.key, DidYouMean(o.key, all))
	case slices.Contains(namedKeys(), o.key) != (o.name != ""):
		if o.name == "" {
			return o, "", fmt.Errorf("%s needs a name: TARGET.%s.NAME=VALUE", o.key, o.key)
		}
		return o, "", fmt.Errorf("%s has no parts: want TARGET.%s=VALUE", o.key, o.key)
	case !given && o.key != "args":
		return o, "", errors.New("want TARGET.KEY=VALUE")
	case o.addition && !slices.Contains(listKeys(), o.key):
		return o, "", fmt.Errorf("%s is no list: += can't add to it", o.key)
	}
	if !given {
		value, given = c.env(o.name)
	}
	if given {
		o.values = []string{value}
	}
	return o, pattern, nil
}

// targetsLike gives the targets that a pattern matches.
func (c *Config) targetsLike(pattern string) ([]string, error) {
	if c.target(pattern) != nil {
		return []string{pattern}, nil
	}
	var out []string
	for _, t := range c.Targets {
		ok, err := path.Match(pattern, t.Name)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, t.Name)
		}
	}
	if len(out) == 0 {
		return nil, c.unknown(fmt.Sprintf("no target matches %q", pattern), pattern)
	}
	return out, nil
}

// apply sets the attribute of t.
func (o override) apply(t *Target) error {
	delete(t.places, o.key)
	if slices.Contains(listKeys(), o.key) {
		return o.applyList(t)
	}
	if len(o.values) == 0 {
		return nil // args.X without a value, and the environment has none
	}
	value := o.values[0]
	texts := map[string]**string{
		"call": &t.Call, "context": &t.Context, "dockerfile": &t.Dockerfile, "network": &t.Network,
		"shm-size": &t.ShmSize, "target": &t.Target,
	}
	maps := map[string]*map[string]*string{"args": &t.Args, "labels": &t.Labels, "extra-hosts": &t.ExtraHosts}
	switch {
	case texts[o.key] != nil:
		*texts[o.key] = &value
	case maps[o.key] != nil:
		*maps[o.key] = mergeMaps(*maps[o.key], map[string]*string{o.name: &value})
	case o.key == "contexts":
		t.Contexts = mergeMaps(t.Contexts, map[string]string{o.name: value})
	case o.key == "resources":
		r := Resources{}
		if t.Resources != nil {
			r = *t.Resources
		}
		t.Resources = &r
		return r.set(o.name, value)
	case o.key == "secret":
		return o.setSecret(t, value)
	default:
		return o.applyBool(t, value)
	}
	return nil
}

func (o override) applyBool(t *Target, value string) error {
	b, err := strconv.ParseBool(value)
	if err != nil {
		return fmt.Errorf("%q is neither true nor false", value)
	}
	switch o.key {
	case "pull":
		t.Pull = &b
	case "no-cache":
		t.NoCache = &b
	case "push":
		t.Outputs = withPush(t.Outputs, b)
	case "load":
		t.Outputs = withLoad(t.Outputs, b)
	}
	return nil
}

// setSecret says where a declared secret comes from.
func (o override) setSecret(t *Target, value string) error {
	s, err := parseSecret(value)
	if err != nil {
		return err
	}
	if s.ID != "" && s.ID != o.name {
		return fmt.Errorf("the value names another secret, %q", s.ID)
	}
	i := slices.IndexFunc(t.Secrets, func(d Secret) bool { return d.ID == o.name })
	if i < 0 {
		return fmt.Errorf("target %s declares no secret %q", t.Name, o.name)
	}
	s.ID = o.name
	t.fromSet("secret", s.ID)
	t.Secrets = slices.Clone(t.Secrets)
	t.Secrets[i] = s
	return nil
}

// applyList replaces a list, or adds to it. Annotations, attestations and
// entitlements are always added.
func (o override) applyList(t *Target) error {
	words := map[string]*[]string{
		"annotations": &t.Annotations, "entitlements": &t.Entitlements, "no-cache-filter": &t.NoCacheFilter,
		"platform": &t.Platforms, "tags": &t.Tags, "ulimits": &t.Ulimits,
	}
	if list := words[o.key]; list != nil {
		if !o.addition && o.key != "annotations" && o.key != "entitlements" {
			*list = nil
		}
		*list = slices.Concat(*list, o.values)
		if o.key == "entitlements" {
			for _, v := range o.values {
				t.fromSet(o.key, v)
			}
		}
		return nil
	}
	given := slices.DeleteFunc(slices.Clone(o.values), func(v string) bool { return v == "" })
	switch o.key {
	case "secrets":
		if !o.addition {
			t.Secrets = nil
		}
		for _, v := range given {
			s, err := parseSecret(v)
			if err != nil {
				return err
			}
			t.Secrets = append(slices.Clone(t.Secrets), s)
			t.fromSet("secret", s.ID)
		}
		return nil
	case "ssh":
		t.fromSet("ssh", "")
		if !o.addition {
			t.SSH = nil
		}
		for _, v := range given {
			t.SSH = append(slices.Clone(t.SSH), parseSSH(v))
		}
		return nil
	}
	return o.applyEntries(t, given)
}

func (o override) applyEntries(t *Target, given []string) error {
	list, parse := &t.Outputs, parseOutput
	switch o.key {
	case "attest":
		list, parse = &t.Attest, parseAttest
	case "cache-from":
		list, parse = &t.CacheFrom, parseCache
	case "cache-to":
		list, parse = &t.CacheTo, parseCache
	case "policy":
		list, parse = &t.Policy, parsePolicy
	}
	if !o.addition && o.key != "attest" {
		*list = nil
	}
	t.fromSet(o.key, "")
	for _, v := range given {
		entries, err := parse(v)
		if err != nil {
			return err
		}
		*list = slices.Concat(*list, entries)
	}
	return nil
}

// withPush is outputs with what --push or --set *.push=false makes of them.
func withPush(outputs []Entry, push bool) []Entry {
	outputs = cloneEntries(outputs)
	if !push {
		outputs = slices.DeleteFunc(outputs, func(e Entry) bool { return e.Type == "registry" })
	}
	add := push
	for i, e := range outputs {
		if e.Type != "docker" {
			add = false
		}
		if e.Type == "image" {
			if e.Attrs == nil {
				outputs[i].Attrs = map[string]string{}
			}
			outputs[i].Attrs["push"] = strconv.FormatBool(push)
		}
	}
	if add {
		outputs = append(outputs, Entry{Type: "image", Attrs: map[string]string{"push": "true"}})
	}
	return outputs
}

// withLoad is outputs and the image store, unless an output is no image.
func withLoad(outputs []Entry, load bool) []Entry {
	if !load {
		return outputs
	}
	for _, e := range outputs {
		switch e.Type {
		case "docker":
			if e.Dest == "" {
				return outputs
			}
		case "image", "registry", "oci":
		default:
			return outputs
		}
	}
	return append(slices.Clone(outputs), Entry{Type: "docker"})
}
