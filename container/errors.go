// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"syscall"
)

// Exit codes of a container whose command did not run, as docker and the
// shells have them.
const (
	codeSetup         = 125 // the container could not be made
	codeNotExecutable = 126 // the command exists and can't be executed
	codeNotFound      = 127 // the command does not exist
	codeSignal        = 128 // plus the number of the signal that ended it
	codeUnknown       = 255 // nobody knows how it ended
)

// ErrUnsupported says that this kernel or these privileges don't allow
// containers at all; the message names what is missing.
var ErrUnsupported = errors.New("containers are not available here")

// ExitError says how a container's process ended, where that was not with
// code 0.
type ExitError struct {
	// Code is the exit code, or 128 plus the signal that ended the process.
	Code   int
	Signal syscall.Signal // 0 if it exited by itself
	// OOM says that the kernel killed a process of the container for want of
	// memory. It is known on cgroup v2 only.
	OOM bool
	// Unknown says that nobody knows how the process ended: who had started
	// it was killed before. Code is then 255.
	Unknown bool
}

func (e *ExitError) Error() string {
	text := fmt.Sprintf("exit code %d", e.Code)
	if e.Unknown {
		text = "ended with a code that nobody knows"
	}
	if e.Signal != 0 {
		text = fmt.Sprintf("killed by signal %d (%s)", int(e.Signal), e.Signal)
	}
	if e.OOM {
		text += ", out of memory"
	}
	return text
}

// StartError says why the command of a container did not start.
type StartError struct {
	// Step is what was being done, such as "mount /proc". It is empty where
	// Err says it all, as for a command that isn't there.
	Step string
	Err  error
	// Code is the exit code for it: 127 if the command was not found, 126 if
	// it can't be executed, 125 for everything else.
	Code int
}

func (e *StartError) Error() string {
	if e.Step == "" {
		return e.Err.Error()
	}
	return e.Step + ": " + e.Err.Error()
}

func (e *StartError) Unwrap() error { return e.Err }

// setupError wraps a failure while the container was being put together.
func setupError(step string, err error) error {
	return &StartError{Step: step, Err: err, Code: codeSetup}
}
