// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"builder/layer"
)

// The binary holds two programs of the same sources. The front one, with the build tag
// front, lacks what most commands don't need and what takes long to begin with: it
// has no registry client, no build and no network stack. It is what is started; what it
// can't do it leaves to the whole program, which takes its place in the process. The
// file internal/join makes of both begins with the whole one if its first variable is
// this one.
const wholeVariable = "WHOLE_BUILDER=1"

// errWhole is what a command of the front program returns that the whole one is to run
// from its beginning. Nothing has been changed or shown by then.
var errWhole = errors.New("this part of builder can't do it alone")

// wantsWhole says whether a command ended because it is for the whole program: also for a
// layer of which nothing told beforehand that it has a compression of its own.
func wantsWhole(err error) bool { return errors.Is(err, errWhole) || errors.Is(err, layer.ErrNotHere) }

// needsWhole is a command of the whole program's.
func needsWhole(context.Context, *env, []string) error { return errWhole }

// startedWhole takes the variable away, for those that this process starts, and says
// whether it was there.
func startedWhole() bool {
	name, value := wholeVariable[:len(wholeVariable)-2], wholeVariable[len(wholeVariable)-1:]
	had := os.Getenv(name) == value
	_ = os.Unsetenv(name)
	return had
}

// becomeWhole executes the whole program in the place of this one.
func becomeWhole() error {
	err := syscall.Exec("/proc/self/exe", os.Args, append([]string{wholeVariable}, os.Environ()...))
	return fmt.Errorf("execute /proc/self/exe: %w", err)
}
