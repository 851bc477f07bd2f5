// SPDX-License-Identifier: Apache-2.0

package bake

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// An attribute is what a definition may say of a target. Its value is
// converted to typ; if it has an element function, it is a list of elements
// that are written in several forms, and typ is a list of the form that they
// are brought to.
type attribute struct {
	name    string
	typ     cty.Type
	element func(cty.Value) ([]cty.Value, error)
}

// attributes are all of a target's but matrix and name, which make targets.
func attributes() []attribute {
	text, words := cty.String, cty.List(cty.String)
	dict := cty.Map(cty.String)
	entries := cty.List(dict)
	return []attribute{
		{name: "annotations", typ: words},
		{name: "args", typ: dict},
		{name: "attest", typ: entries, element: entryElement(parseAttest, attestFields)},
		{name: "cache-from", typ: entries, element: entryElement(parseCache, typedFields)},
		{name: "cache-to", typ: entries, element: entryElement(parseCache, typedFields)},
		{name: "call", typ: text},
		{name: "context", typ: text},
		{name: "contexts", typ: dict},
		{name: "description", typ: text},
		{name: "dockerfile", typ: text},
		{name: "dockerfile-inline", typ: text},
		{name: "entitlements", typ: words},
		{name: "extra-hosts", typ: dict},
		{name: "inherits", typ: words},
		{name: "labels", typ: dict},
		{name: "network", typ: text},
		{name: "no-cache", typ: cty.Bool},
		{name: "no-cache-filter", typ: words},
		{name: "output", typ: entries, element: entryElement(parseOutput, outputFields)},
		{name: "platforms", typ: words},
		{name: "policy", typ: entries, element: entryElement(parsePolicy, policyFields)},
		{name: "pull", typ: cty.Bool},
		{name: "resources", typ: resourcesType()},
		{name: "secret", typ: cty.List(secretType()), element: secretElement},
		{name: "shm-size", typ: text},
		{name: "ssh", typ: cty.List(sshType()), element: sshElement},
		{name: "tags", typ: words},
		{name: "target", typ: text},
		{name: "ulimits", typ: words},
	}
}

// groupAttributes are those of a group.
func groupAttributes() []attribute {
	return []attribute{{name: "description", typ: cty.String}, {name: "targets", typ: cty.List(cty.String)}}
}

// none is the value of an attribute that isn't given.
func (a attribute) none() cty.Value {
	if a.element != nil {
		return cty.ListValEmpty(a.typ.ElementType())
	}
	if a.name == "description" {
		return cty.StringVal("")
	}
	return cty.NullVal(a.typ)
}

// convert brings a value to the attribute's type.
func (a attribute) convert(v cty.Value) (cty.Value, error) {
	if !v.IsWhollyKnown() {
		return v, errors.New("its value isn't known")
	}
	if a.element == nil || v.IsNull() {
		return convert.Convert(v, a.typ)
	}
	if t := v.Type(); !t.IsTupleType() && !t.IsListType() && !t.IsSetType() {
		return v, fmt.Errorf("%s given, but a list is wanted", t.FriendlyName())
	}
	var list []cty.Value
	for _, el := range v.AsValueSlice() {
		if el.IsNull() || el.RawEquals(cty.StringVal("")) {
			continue
		}
		vals, err := a.element(el)
		if err != nil {
			return v, err
		}
		list = append(list, vals...)
	}
	if len(list) == 0 {
		return cty.ListValEmpty(a.typ.ElementType()), nil
	}
	return cty.ListVal(list), nil
}

func entryElement(text func(string) ([]Entry, error), fields func(*Entry, map[string]string) error) func(cty.Value) ([]cty.Value, error) {
	return func(v cty.Value) ([]cty.Value, error) {
		var entries []Entry
		if v.Type() == cty.String {
			var err error
			if entries, err = text(v.AsString()); err != nil {
				return nil, err
			}
		} else {
			attrs, err := stringMap(v)
			if err != nil {
				return nil, err
			}
			var e Entry
			if err := fields(&e, attrs); err != nil {
				return nil, err
			}
			entries = []Entry{e}
		}
		var out []cty.Value
		for _, e := range entries {
			out = append(out, e.value())
		}
		return out, nil
	}
}

// value is the entry as definitions that refer to it see it.
func (e Entry) value() cty.Value {
	m := map[string]cty.Value{}
	for k, v := range e.Attrs {
		m[k] = cty.StringVal(v)
	}
	if e.Type != "" {
		m["type"] = cty.StringVal(e.Type)
	}
	if e.Dest != "" {
		m["dest"] = cty.StringVal(e.Dest)
	}
	if e.Disabled {
		m["disabled"] = cty.StringVal("true")
	}
	if len(m) == 0 {
		return cty.MapValEmpty(cty.String)
	}
	return cty.MapVal(m)
}

// stringMap reads an object of strings; what is null isn't there.
func stringMap(v cty.Value) (map[string]string, error) {
	v, err := convert.Convert(v, cty.Map(cty.String))
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for k, el := range v.AsValueMap() {
		if !el.IsNull() {
			out[k] = el.AsString()
		}
	}
	return out, nil
}

func secretType() cty.Type {
	return cty.Object(map[string]cty.Type{"id": cty.String, "src": cty.String, "env": cty.String})
}

func secretElement(v cty.Value) ([]cty.Value, error) {
	var s Secret
	if v.Type() == cty.String {
		var err error
		if s, err = parseSecret(v.AsString()); err != nil {
			return nil, err
		}
	} else {
		fields, err := stringMap(v)
		if err != nil {
			return nil, err
		}
		for k := range fields {
			if !slices.Contains([]string{"id", "src", "env"}, k) {
				return nil, fmt.Errorf("unknown key %q: want id, src or env", k)
			}
		}
		s = Secret{ID: fields["id"], File: fields["src"], Env: fields["env"]}
	}
	return []cty.Value{cty.ObjectVal(map[string]cty.Value{
		"id": cty.StringVal(s.ID), "src": cty.StringVal(s.File), "env": cty.StringVal(s.Env),
	})}, nil
}

func sshType() cty.Type {
	return cty.Object(map[string]cty.Type{"id": cty.String, "paths": cty.List(cty.String)})
}

func sshElement(v cty.Value) ([]cty.Value, error) {
	if v.Type() == cty.String {
		s := parseSSH(v.AsString())
		return []cty.Value{sshValue(s.ID, s.Paths)}, nil
	}
	v, err := convert.Convert(v, cty.ObjectWithOptionalAttrs(sshType().AttributeTypes(), []string{"id", "paths"}))
	if err != nil {
		return nil, err
	}
	id := ""
	if v := v.GetAttr("id"); !v.IsNull() {
		id = v.AsString()
	}
	paths, err := stringList(v.GetAttr("paths"))
	return []cty.Value{sshValue(id, paths)}, err
}

func sshValue(id string, paths []string) cty.Value {
	list := cty.ListValEmpty(cty.String)
	if len(paths) > 0 {
		var vals []cty.Value
		for _, p := range paths {
			vals = append(vals, cty.StringVal(p))
		}
		list = cty.ListVal(vals)
	}
	return cty.ObjectVal(map[string]cty.Value{"id": cty.StringVal(id), "paths": list})
}

func resourcesType() cty.Type {
	types := map[string]cty.Type{}
	var names []string
	for _, n := range []string{"memory", "memory-swap", "cpuset-cpus", "cpuset-mems"} {
		types[n], names = cty.String, append(names, n)
	}
	for _, n := range []string{"cpu-shares", "cpu-period", "cpu-quota"} {
		types[n], names = cty.Number, append(names, n)
	}
	return cty.ObjectWithOptionalAttrs(types, names)
}

// stringList reads a list of strings, none of which may be null.
func stringList(v cty.Value) ([]string, error) {
	if v.IsNull() {
		return nil, nil
	}
	out := []string{}
	for _, el := range v.AsValueSlice() {
		if el.IsNull() {
			return nil, errors.New("an element is null")
		}
		out = append(out, el.AsString())
	}
	return out, nil
}

// set gives the target an attribute, whose value has been converted.
func (t *Target) set(name string, v cty.Value) error {
	if v.IsNull() {
		return nil
	}
	switch name {
	case "pull":
		t.Pull = boolPtr(v)
	case "no-cache":
		t.NoCache = boolPtr(v)
	case "description":
		t.Description = v.AsString()
	case "args":
		t.Args = pointerMap(v)
	case "labels":
		t.Labels = pointerMap(v)
	case "extra-hosts":
		t.ExtraHosts = pointerMap(v)
	case "contexts":
		t.Contexts = map[string]string{}
		for k, el := range v.AsValueMap() {
			if el.IsNull() {
				return fmt.Errorf("%q is null", k)
			}
			t.Contexts[k] = el.AsString()
		}
	case "resources":
		return t.setResources(v)
	default:
		return t.setList(name, v)
	}
	return nil
}

func (t *Target) setList(name string, v cty.Value) (err error) {
	texts := map[string]**string{
		"call": &t.Call, "context": &t.Context, "dockerfile": &t.Dockerfile, "dockerfile-inline": &t.DockerfileInline,
		"network": &t.Network, "shm-size": &t.ShmSize, "target": &t.Target,
	}
	words := map[string]*[]string{
		"annotations": &t.Annotations, "entitlements": &t.Entitlements, "inherits": &t.Inherits,
		"no-cache-filter": &t.NoCacheFilter, "platforms": &t.Platforms, "tags": &t.Tags, "ulimits": &t.Ulimits,
	}
	entries := map[string]*[]Entry{
		"attest": &t.Attest, "cache-from": &t.CacheFrom, "cache-to": &t.CacheTo, "output": &t.Outputs, "policy": &t.Policy,
	}
	switch {
	case texts[name] != nil:
		s := v.AsString()
		*texts[name] = &s
	case words[name] != nil:
		*words[name], err = stringList(v)
	case entries[name] != nil:
		*entries[name], err = entryList(name, v)
	case name == "secret":
		t.Secrets = []Secret{}
		for _, el := range v.AsValueSlice() {
			m := el.AsValueMap()
			t.Secrets = append(t.Secrets, Secret{ID: m["id"].AsString(), File: m["src"].AsString(), Env: m["env"].AsString()})
		}
	case name == "ssh":
		t.SSH = []SSH{}
		for _, el := range v.AsValueSlice() {
			s := SSH{ID: el.GetAttr("id").AsString()}
			if paths := el.GetAttr("paths"); paths.LengthInt() > 0 {
				s.Paths, err = stringList(paths)
			}
			t.SSH = append(t.SSH, s)
		}
	}
	return err
}

func entryList(name string, v cty.Value) ([]Entry, error) {
	out := []Entry{}
	for _, el := range v.AsValueSlice() {
		attrs, err := stringMap(el)
		if err != nil {
			return nil, err
		}
		var e Entry
		switch name {
		case "output":
			err = outputFields(&e, attrs)
		case "attest":
			err = attestFields(&e, attrs)
		case "policy":
			err = policyFields(&e, attrs)
		default:
			err = typedFields(&e, attrs)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

func (t *Target) setResources(v cty.Value) error {
	r := &Resources{}
	for k, el := range v.AsValueMap() {
		if el.IsNull() {
			continue
		}
		text := ""
		if el.Type() == cty.Number {
			n, acc := el.AsBigFloat().Int64()
			if acc != 0 {
				return fmt.Errorf("%s is no whole number", k)
			}
			text = strconv.FormatInt(n, 10)
		} else {
			text = el.AsString()
		}
		if err := r.set(k, text); err != nil {
			return err
		}
	}
	t.Resources = r
	return nil
}

func boolPtr(v cty.Value) *bool {
	b := v.True()
	return &b
}

// pointerMap reads a map of strings, where null is kept as nil.
func pointerMap(v cty.Value) map[string]*string {
	out := map[string]*string{}
	for k, el := range v.AsValueMap() {
		out[k] = nil
		if !el.IsNull() {
			s := el.AsString()
			out[k] = &s
		}
	}
	return out
}
