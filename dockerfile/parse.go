// SPDX-License-Identifier: Apache-2.0

// Package dockerfile turns the bytes of a Dockerfile into stages of typed
// instructions that know where they stand. It is pure: it reads no files and
// asks no registry. The grammar is BuildKit's own parser's, so what a
// Dockerfile means here is what it means there.
package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// File is a parsed Dockerfile.
type File struct {
	Name     string // as shown in messages
	Source   []byte
	Stages   []instructions.Stage
	MetaArgs []instructions.ArgCommand // ARGs before the first FROM
	Escape   rune
	Checks   *Checks
	Note     string // what the user should know of the syntax directive, or ""

	args map[string]string
}

// Copy parses the file once more: who plans a build changes the instructions
// in place.
func (f *File) Copy() (*File, error) { return ParseArgs(f.Name, f.Source, f.args) }

// Error is a fault at a place in a Dockerfile.
type Error struct {
	Name       string
	Source     []byte
	Start, End int // line numbers from 1; 0 if the fault has no place
	Err        error
}

// Error is NAME:LINE: what is wrong.
func (e *Error) Error() string {
	if e.Start == 0 {
		return fmt.Sprintf("%s: %v", e.Name, e.Err)
	}
	return fmt.Sprintf("%s:%d: %v", e.Name, e.Start, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// At gives err the place of an instruction in f. An error that has a place
// already keeps it.
func (f *File) At(location []parser.Range, err error) error {
	var placed *Error
	if err == nil || errors.As(err, &placed) {
		return err
	}
	e := &Error{Name: f.Name, Source: f.Source, Err: err}
	e.Start, e.End = Lines(location)
	return e
}

// Lines returns the first and the last line of a location, zeros if it is
// empty.
func Lines(location []parser.Range) (start, end int) {
	for _, r := range location {
		if start == 0 || r.Start.Line < start {
			start = r.Start.Line
		}
		end = max(end, r.End.Line, r.Start.Line)
	}
	return start, end
}

// Parse is [ParseArgs] without build arguments.
func Parse(name string, source []byte) (*File, error) { return ParseArgs(name, source, nil) }

// ParseArgs parses a Dockerfile. name is how messages call it. Of the build
// arguments two are about how it is read: BUILDKIT_SYNTAX and
// BUILDKIT_DOCKERFILE_CHECK. The error is an [*Error]; the file that is
// returned with it has no stages, but, unless they can't be known, the checks
// that ran before the error.
func ParseArgs(name string, source []byte, args map[string]string) (*File, error) {
	f := &File{Name: name, Source: source, args: maps.Clone(args)}
	if len(bytes.TrimSpace(source)) == 0 {
		return f, f.At(nil, errors.New("the Dockerfile is empty"))
	}
	var err error
	if f.Note, err = f.syntax(args); err != nil {
		return f, err
	}
	if f.Checks, err = f.newChecks(args); err != nil {
		return f, err
	}
	ast, err := parser.Parse(bytes.NewReader(source))
	if err != nil {
		return f, f.parseError(err)
	}
	f.Escape = ast.EscapeToken
	f.Checks.parsed(ast.Warnings)
	stages, metaArgs, err := instructions.Parse(ast.AST, f.Checks.lint)
	if err != nil {
		return f, f.parseError(err)
	}
	if len(stages) == 0 {
		return f, f.At(nil, errors.New("it has no FROM instruction, so there is nothing to build"))
	}
	f.Stages, f.MetaArgs = stages, metaArgs
	f.Checks.stages(f.Stages)
	return f, nil
}

// parseError takes the place out of an error of the parser.
func (f *File) parseError(err error) error {
	e := &Error{Name: f.Name, Source: f.Source, Err: err}
	var located *parser.LocationError
	if errors.As(err, &located) {
		for _, l := range located.Locations {
			if start, end := Lines(l); start > 0 && e.Start == 0 {
				e.Start, e.End = start, end
			}
		}
		e.Err = located.Unwrap()
	}
	// The parser repeats the place in its own words.
	msg := e.Err.Error()
	if rest, ok := strings.CutPrefix(msg, fmt.Sprintf("dockerfile parse error on line %d: ", e.Start)); ok {
		e.Err = &reworded{msg: rest, err: e.Err}
	}
	return e
}

// reworded shows another text for an error.
type reworded struct {
	msg string
	err error
}

func (r *reworded) Error() string { return r.msg }
func (r *reworded) Unwrap() error { return r.err }

// ParseTrigger parses one ONBUILD instruction's argument.
func ParseTrigger(trigger string) (instructions.Command, error) {
	ast, err := parser.Parse(strings.NewReader(trigger))
	if err != nil {
		return nil, fmt.Errorf("ONBUILD trigger %q: %w", trigger, err)
	}
	if len(ast.AST.Children) != 1 {
		return nil, fmt.Errorf("ONBUILD trigger %q must be one instruction", trigger)
	}
	// Without checks: a comment in the trigger may turn to them all the same.
	v, err := instructions.ParseInstructionWithLinter(ast.AST.Children[0], linter.New(&linter.Config{}))
	if err != nil {
		return nil, fmt.Errorf("ONBUILD trigger %q: %w", trigger, err)
	}
	cmd, ok := v.(instructions.Command)
	if !ok {
		return nil, fmt.Errorf("ONBUILD trigger %q is no instruction of a stage", trigger)
	}
	return cmd, nil
}
