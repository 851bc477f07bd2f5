// SPDX-License-Identifier: Apache-2.0

package bake

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// yamlFile reads the nodes of a YAML file. Aliases and merge keys are
// followed, but never more than a file of honest size would.
type yamlFile struct {
	File
	lookup func(string) (string, bool)
	budget *int
}

const maxNodes = 200_000 // visited nodes of a compose file, aliases followed

// documents gives the roots of a file's documents.
func (f *yamlFile) documents() ([]*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(f.Data))
	var out []*yaml.Node
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		switch {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, f.syntax(err)
		case n.Kind == yaml.DocumentNode && len(n.Content) == 1:
			out = append(out, n.Content[0])
		}
	}
}

// syntax gives an error of the YAML library its place, which is in its text.
func (f *yamlFile) syntax(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if m := regexp.MustCompile(`^line (\d+): `).FindStringSubmatch(text); m != nil {
		if line, convErr := strconv.Atoi(m[1]); convErr == nil {
			line = f.line(line)
			return &Error{File: f.File, Start: line, End: line, Err: fmt.Errorf("parse YAML: %s", text[len(m[0]):])}
		}
	}
	return &Error{File: f.File, Err: fmt.Errorf("parse YAML: %s", text)}
}

func (f *yamlFile) at(n *yaml.Node, err error) error {
	var placed *Error
	if err == nil || errors.As(err, &placed) {
		return err
	}
	line := f.line(n.Line)
	return &Error{File: f.File, Start: line, End: line, Err: err}
}

// line is one of the library's, for which carriage returns end lines too, as
// far as there are such lines.
func (f *yamlFile) line(n int) int { return min(n, 1+bytes.Count(f.Data, []byte("\n"))) }

func (f *yamlFile) errorf(n *yaml.Node, format string, args ...any) error {
	return f.at(n, fmt.Errorf(format, args...))
}

func (f *yamlFile) place(n *yaml.Node) Place { return Place{File: f.File, Line: f.line(n.Line)} }

// Tags by which a file takes back, or replaces, what earlier files say.
const (
	tagReset    = "!reset"
	tagOverride = "!override"
)

// follow gives what an alias stands for. Tags that are about earlier files are
// an error: those who know what to do about them look before.
func (f *yamlFile) follow(n *yaml.Node) (*yaml.Node, error) {
	n, err := f.alias(n)
	if err == nil && (n.Tag == tagReset || n.Tag == tagOverride) {
		return nil, f.errorf(n, "the tag %s is not supported here, only for fields of a service and of its build", n.Tag)
	}
	return n, err
}

func (f *yamlFile) alias(n *yaml.Node) (*yaml.Node, error) {
	if *f.budget--; *f.budget < 0 {
		return nil, f.errorf(n, "aliases make the file too large")
	}
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	return n, nil
}

// fields gives the fields of a mapping that say something, and the names of
// those before which what earlier files say is dropped.
func (f *yamlFile) fields(n *yaml.Node, what string) (out []pair, dropped []string, err error) {
	all, err := f.mapping(n, what)
	for _, p := range all {
		switch p.value.Tag {
		case tagReset:
			dropped = append(dropped, p.key)
			continue
		case tagOverride:
			dropped = append(dropped, p.key)
			plain := *p.value
			plain.Tag = ""
			p.value = &plain
		}
		out = append(out, p)
	}
	return out, dropped, err
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// pair is an entry of a mapping.
type pair struct {
	key   string
	node  *yaml.Node // of the key
	value *yaml.Node
}

// mapping gives a mapping's entries, those of merge keys after its own. Null
// is an empty mapping.
func (f *yamlFile) mapping(n *yaml.Node, what string) ([]pair, error) {
	return f.merged(n, what, 0)
}

func (f *yamlFile) merged(n *yaml.Node, what string, depth int) ([]pair, error) {
	n, err := f.follow(n)
	if err != nil {
		return nil, err
	}
	switch {
	case isNull(n):
		return nil, nil
	case n.Kind != yaml.MappingNode:
		return nil, f.errorf(n, "%s: want a mapping", what)
	case depth > 20:
		return nil, f.errorf(n, "%s: merge keys are nested too deep", what)
	}
	var out, inherited []pair
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.AliasNode && k.Alias != nil {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			return nil, f.errorf(k, "%s: a key must be a word", what)
		}
		value, err := f.alias(v)
		if err != nil {
			return nil, err
		}
		if k.Value != "<<" || k.ShortTag() != "!!merge" {
			out = append(out, pair{k.Value, k, value})
			continue
		}
		sources := []*yaml.Node{value}
		if value.Kind == yaml.SequenceNode {
			sources = value.Content
		}
		for _, s := range sources {
			more, err := f.merged(s, what, depth+1)
			if err != nil {
				return nil, err
			}
			inherited = append(inherited, more...)
		}
	}
	for _, p := range inherited {
		if !slices.ContainsFunc(out, func(o pair) bool { return o.key == p.key }) {
			out = append(out, p)
		}
	}
	return out, nil
}

// sequence gives the elements of a list. Null is an empty list.
func (f *yamlFile) sequence(n *yaml.Node, what string) ([]*yaml.Node, error) {
	n, err := f.follow(n)
	if err != nil {
		return nil, err
	}
	if isNull(n) {
		return nil, nil
	}
	if n.Kind != yaml.SequenceNode {
		return nil, f.errorf(n, "%s: want a list", what)
	}
	var out []*yaml.Node
	for _, el := range n.Content {
		if el, err = f.follow(el); err != nil {
			return nil, err
		}
		out = append(out, el)
	}
	return out, nil
}

// word gives a scalar as text with its variables filled in; nil if it is null.
// Numbers and truth values are written in their usual way.
func (f *yamlFile) word(n *yaml.Node, what string) (*string, error) {
	n, err := f.follow(n)
	if err != nil {
		return nil, err
	}
	if n.Kind != yaml.ScalarNode {
		return nil, f.errorf(n, "%s: want a single value", what)
	}
	text := n.Value
	switch n.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool", "!!int", "!!float":
		var v any
		if err := n.Decode(&v); err != nil {
			return nil, f.errorf(n, "%s: %w", what, err)
		}
		text = fmt.Sprint(v)
	case "!!str":
		if text, err = interpolate(text, f.lookup); err != nil {
			return nil, f.errorf(n, "%s: %w", what, err)
		}
	}
	return &text, nil
}

// words gives the texts of a list, or of a single value if that is allowed:
// then it is split at spaces.
func (f *yamlFile) words(n *yaml.Node, what string, single bool) ([]string, error) {
	n, err := f.follow(n)
	if err != nil {
		return nil, err
	}
	if single && n.Kind == yaml.ScalarNode {
		w, err := f.word(n, what)
		if err != nil || w == nil {
			return nil, err
		}
		return strings.Fields(*w), nil
	}
	list, err := f.sequence(n, what)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, el := range list {
		w, err := f.word(el, what)
		if err != nil {
			return nil, err
		}
		if w == nil {
			return nil, f.errorf(el, "%s: an element is null", what)
		}
		out = append(out, *w)
	}
	return out, nil
}

// values gives a mapping of words, or a list of KEY=VALUE; what has no value
// is nil.
func (f *yamlFile) values(n *yaml.Node, what string) (map[string]*string, error) {
	n, err := f.follow(n)
	if err != nil {
		return nil, err
	}
	out := map[string]*string{}
	if n.Kind == yaml.SequenceNode {
		words, err := f.words(n, what, false)
		for _, w := range words {
			name, value, ok := strings.Cut(w, "=")
			out[name] = nil
			if ok {
				out[name] = &value
			}
		}
		return out, err
	}
	pairs, err := f.mapping(n, what)
	if err != nil {
		return nil, err
	}
	for _, p := range pairs {
		if out[p.key], err = f.word(p.value, what+"."+p.key); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// truth reads true or false.
func (f *yamlFile) truth(n *yaml.Node, what string) (*bool, error) {
	w, err := f.word(n, what)
	if err != nil || w == nil {
		return nil, err
	}
	b, err := strconv.ParseBool(*w)
	if err != nil {
		return nil, f.errorf(n, "%s: %q is neither true nor false", what, *w)
	}
	return &b, nil
}
