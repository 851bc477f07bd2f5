// SPDX-License-Identifier: Apache-2.0

// Package bake reads build definitions: docker-bake.hcl, its JSON form and
// compose files. It takes the bytes of files and gives the targets that they
// define, with variables, functions, matrices and inheritance resolved. It
// touches neither the file system nor the environment but by the functions in
// Options.
//
// The language is that of docker buildx bake; where this package is stricter,
// what buildx ignores is an error here: an unknown attribute, an unknown
// block, a field of a compose file's build section that has no meaning.
package bake

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
)

// File is a definition file: its bytes, and the name that messages call it by.
// The name's ending tells what it is: .hcl, .json, .yml, .yaml; of any other
// name the content decides.
type File struct {
	Name string
	Data []byte
}

// DefaultFiles are the names that are looked for, in this order, where no
// file is named. All that are there are merged.
func DefaultFiles() []string {
	return []string{
		"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml",
		"docker-bake.json", "docker-bake.hcl", "docker-bake.override.json", "docker-bake.override.hcl",
	}
}

// Options are what a definition can see of the world.
type Options struct {
	// Builtins are variables that are always there and can't be overridden,
	// such as BAKE_CMD_CONTEXT.
	Builtins map[string]string

	// Vars override variables before the environment does.
	Vars map[string]string

	// Env is the environment; nil for none.
	Env func(name string) (string, bool)

	// ReadFile reads what a compose file refers to: .env, env_file, and the
	// files of extends. Nil for a definition that may refer to none.
	ReadFile func(name string) ([]byte, error)

	// Home is what homedir() gives, and Now what timestamp() formats.
	Home string
	Now  func() time.Time
}

func (o *Options) lookup(name string) (string, bool) {
	if v, ok := o.Vars[name]; ok {
		return v, true
	}
	if o.Env == nil {
		return "", false
	}
	return o.Env(name)
}

func (o *Options) readFile(name string) ([]byte, error) {
	if o.ReadFile == nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("no files may be read")}
	}
	return o.ReadFile(name)
}

// Config is what files define, not yet resolved: targets still name what they
// inherit.
type Config struct {
	Groups    []*Group
	Targets   []*Target
	Variables []Variable

	env func(string) (string, bool)
}

// Group is a name for several targets and groups.
type Group struct {
	Name        string   `json:"-"`
	Description string   `json:"description,omitempty"`
	Targets     []string `json:"targets"`
}

// Variable is a variable of the files and the value that it has.
type Variable struct {
	Name        string  `json:"name"`
	Description string  `json:"description,omitempty"`
	Type        string  `json:"type,omitempty"`
	Value       *string `json:"value,omitempty"` // nil if it is null
}

// maxFile bounds a definition file, and maxNesting its brackets: the parsers
// recurse.
const (
	maxFile    = 1 << 20
	maxNesting = 5000
)

// Parse reads files and merges them in their order, compose files first.
// Errors that have a place are *Error.
func Parse(files []File, opts Options) (*Config, error) {
	c := &Config{env: opts.Env}
	if c.env == nil {
		c.env = func(string) (string, bool) { return "", false }
	}
	p := parser{opts: &opts, files: files}
	var compose []File
	var bodies []*hcl.File
	for _, f := range files {
		if err := bounded(f); err != nil {
			return nil, err
		}
		switch kindOf(f) {
		case kindCompose:
			compose = append(compose, f)
		case kindJSON:
			body, err := p.parseJSON(f)
			if err != nil {
				return nil, err
			}
			bodies = append(bodies, body)
		case kindHCL:
			body, err := p.parseHCL(f)
			if err != nil {
				return nil, err
			}
			bodies = append(bodies, body)
		}
	}
	if len(compose) > 0 {
		if err := c.addCompose(compose, &opts); err != nil {
			return nil, err
		}
	}
	if err := p.evaluate(bodies, c); err != nil {
		return nil, err
	}
	return c, nil
}

func bounded(f File) error {
	if len(f.Data) > maxFile {
		return fmt.Errorf("%s: %d bytes are more than a build definition may have (%d)", f.Name, len(f.Data), maxFile)
	}
	depth := 0
	for i, b := range f.Data {
		switch b {
		case '(', '[', '{':
			depth++
		case ')', ']', '}':
			depth = max(0, depth-1)
		}
		if depth > maxNesting {
			return &Error{File: f, Start: 1 + strings.Count(string(f.Data[:i]), "\n"), Err: errors.New("brackets are nested too deep")}
		}
	}
	return nil
}

type kind int

const (
	kindHCL kind = iota
	kindJSON
	kindCompose
)

// kindOf tells by the name what a file is. Of a name that doesn't tell, such
// as that of standard input, the content decides: an object in braces is JSON,
// a line that is `services:` makes a compose file.
func kindOf(f File) kind {
	name := strings.ToLower(f.Name)
	switch {
	case strings.HasSuffix(name, ".yml"), strings.HasSuffix(name, ".yaml"):
		return kindCompose
	case strings.HasSuffix(name, ".json"):
		return kindJSON
	case strings.HasSuffix(name, ".hcl"):
		return kindHCL
	}
	if text := strings.TrimSpace(string(f.Data)); strings.HasPrefix(text, "{") {
		return kindJSON
	}
	for line := range strings.Lines(string(f.Data)) {
		if word, _, _ := strings.Cut(line, "#"); strings.HasPrefix(line, "services:") && strings.TrimSpace(word) == "services:" {
			return kindCompose
		}
	}
	return kindHCL
}

// Error is a fault in a definition and its place.
type Error struct {
	File       File
	Start, End int // line numbers from 1; 0 if the fault has no place
	Err        error
}

// Error is FILE:LINE: what is wrong.
func (e *Error) Error() string {
	if e.Start == 0 {
		return fmt.Sprintf("%s: %v", e.File.Name, e.Err)
	}
	return fmt.Sprintf("%s:%d: %v", e.File.Name, e.Start, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// group and target find what has a name; nil if nothing has.
func (c *Config) group(name string) *Group {
	if i := slices.IndexFunc(c.Groups, func(g *Group) bool { return g.Name == name }); i >= 0 {
		return c.Groups[i]
	}
	return nil
}

func (c *Config) target(name string) *Target {
	if i := slices.IndexFunc(c.Targets, func(t *Target) bool { return t.Name == name }); i >= 0 {
		return c.Targets[i]
	}
	return nil
}

// unique drops repetitions and keeps the order.
func unique(words []string) []string {
	if len(words) == 0 {
		return words // nil stays nil
	}
	seen := make(map[string]bool, len(words))
	var out []string
	for _, w := range words {
		if !seen[w] {
			seen[w] = true
			out = append(out, w)
		}
	}
	return out
}
