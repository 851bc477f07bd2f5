// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"strings"

	"builder/internal/sys"
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
// from its beginning. Nothing has been changed, shown, or read from a pipe by then.
var errWhole = errors.New("this part of builder can't do it alone")

// wantsWhole says whether a command ended because it is for the whole program, as also a
// layer in a compression of its own is.
func wantsWhole(err error) bool { return errors.Is(err, errWhole) || errors.Is(err, layer.ErrNotHere) }

// startedWhole takes the variable away, for those that this process starts, and says
// whether it was the first, by which the whole program is begun.
func startedWhole() bool {
	env := os.Environ()
	_ = os.Unsetenv(wholeVariable)
	return len(env) > 0 && strings.HasPrefix(env[0], wholeVariable+"=")
}

// becomeWhole executes the whole program in the place of this one.
func becomeWhole() error {
	return sys.ExecuteAnew(append([]string{wholeVariable + "=1"}, os.Environ()...))
}
