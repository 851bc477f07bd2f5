// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"bytes"
	"errors"
	"fmt"

	"builder/bake"
	"builder/build"
	"builder/dockerfile"
	"builder/progress"
)

// showSource shows what an error is about: of a Dockerfile the lines, of a step what
// its process wrote last.
func (e *env) showSource(err error) {
	var step *build.StepError
	if errors.As(err, &step) && len(step.Output) > 0 {
		fmt.Fprintf(e.stderr, "------\n > %s:\n%s", step.Step, step.Output)
		if !bytes.HasSuffix(step.Output, []byte("\n")) {
			fmt.Fprintln(e.stderr)
		}
		fmt.Fprintln(e.stderr, "------")
	}
	var placed *dockerfile.Error
	var baked *bake.Error
	switch {
	case errors.As(err, &placed) && placed.Start > 0:
		fmt.Fprint(e.stderr, progress.Excerpt(placed.Name, placed.Source, placed.Start, placed.End))
	case errors.As(err, &baked) && baked.Start > 0:
		fmt.Fprint(e.stderr, progress.Excerpt(baked.File.Name, baked.File.Data, baked.Start, baked.End))
	}
}
