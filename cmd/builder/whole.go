// SPDX-License-Identifier: Apache-2.0

package main

import (
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
// file that internal/join makes of both begins with the whole one if the first variable of
// its environment is this one.
const wholeVariable = "WHOLE_BUILDER"

// errWhole is what a command of the front program returns that the whole one is to run
// from its beginning. Nothing has been changed or shown by then.
var errWhole = errors.New("this part of builder can't do it alone")

// wantsWhole says whether a command ended because it is for the whole program: also for a
// layer of which nothing told beforehand that it has a compression of its own.
func wantsWhole(err error) bool { return errors.Is(err, errWhole) || errors.Is(err, layer.ErrNotHere) }

// startedWhole takes the variable away, for those that this process starts, and says
// whether it was there.
func startedWhole() bool {
	_, had := os.LookupEnv(wholeVariable)
	_ = os.Unsetenv(wholeVariable)
	return had
}

// becomeWhole executes the whole program in the place of this one.
func becomeWhole() error {
	err := syscall.Exec("/proc/self/exe", os.Args, append([]string{wholeVariable + "=1"}, os.Environ()...))
	return fmt.Errorf("execute /proc/self/exe: %w", err)
}
