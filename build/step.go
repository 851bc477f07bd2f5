// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"builder/cache"
	"builder/container"
	"builder/dockerfile"
	"builder/rootfs"
	"builder/snapshot"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// step is one instruction that makes a layer.
type step struct {
	stage    *stage
	op       op
	onBuild  bool
	code     string // the instruction as written
	shown    string // with its variables expanded
	crossing string // "->arm64", see the function
	name     string // "[build 3/7] RUN make"
	location []parser.Range
}

// op is what a step does. Its key holds everything that the result depends on
// except the parent.
type op interface {
	kind() string
	sources() []*stage // stages that must be done before
	key(ctx context.Context, r *runner, s *step, h *cache.Hash) error
	run(ctx context.Context, r *runner, s *step, active snapshot.Active) error
}

func commandLocation(st *stage, cmd command) []parser.Range {
	if cmd.onBuild || len(cmd.Location()) == 0 {
		return st.def.Location
	}
	return cmd.Location()
}

func linesOf(s *step) (start, end int) { return dockerfile.Lines(s.location) }

// place is where an instruction stands, as Dockerfile:12.
func (r *runner) place(location []parser.Range) string {
	start, _ := dockerfile.Lines(location)
	if start == 0 {
		return r.plan.file.Name
	}
	return fmt.Sprintf("%s:%d", r.plan.file.Name, start)
}

// StepError is a step that failed.
type StepError struct {
	Step   string // as shown
	Output []byte // the last lines that its process wrote
	Err    *dockerfile.Error
}

func (e *StepError) Error() string { return e.Err.Error() }
func (e *StepError) Unwrap() error { return e.Err }

// outputError carries what a failed process wrote last, and what it was.
type outputError struct {
	err     error
	output  []byte
	process *process
}

func (e *outputError) Error() string { return e.err.Error() }
func (e *outputError) Unwrap() error { return e.err }

// stepError puts place and instruction to a step's failure. Cancellation and
// errors that have a place stay as they are.
func (r *runner) stepError(s *step, start, end int, err error) error {
	var placed *dockerfile.Error
	if errors.As(err, &placed) || (errors.Is(err, context.Canceled) && !isExit(err)) {
		return err
	}
	e := &StepError{Step: s.name}
	var out *outputError
	if errors.As(err, &out) {
		e.Output = out.output
		err = out.err
	}
	e.Err = &dockerfile.Error{Name: r.plan.file.Name, Source: r.plan.file.Source, Start: start, End: end,
		Err: fmt.Errorf("%s: %w", oneLine(s.shown), err)}
	return e
}

func isExit(err error) bool {
	var exit *container.ExitError
	return errors.As(err, &exit)
}

// oneLine shortens an instruction to its first line.
func oneLine(s string) string {
	for i, c := range s {
		if c == '\n' || i > 120 {
			return s[:i] + "…"
		}
	}
	return s
}

func discard(a snapshot.Active) error { return rootfs.Discard(a) }

// closers are things to be closed when a build ends.
type closers struct {
	mu   sync.Mutex
	list []io.Closer
}

func (c *closers) add(x io.Closer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, x)
}

func (c *closers) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range c.list {
		x.Close()
	}
	c.list = nil
}
