// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"builder/container"
	"builder/internal/sys"
	"builder/network"
	"builder/userns"
)

// plain are the commands that do without a user namespace, as they only read
// or write files of the user's own.
var plain = []string{
	"version", "doctor", "login", "logout", "context", "images", "history", "tree", "tag", "untag", "manifest", "save", "push", "pull",
	"info", "ps", "logs", "port", "generate",
}

// membersDir is the directory, below the state directory, of userns.Options.
const membersDir = "run/userns"

// entersNamespace says whether a command goes on in a user namespace: of an
// ordinary user, or of a container's root that may not mount.
func entersNamespace(name string, args []string) bool {
	help := func(a string) bool { return a == "--help" || a == "-h" }
	return !slices.Contains(plain, name) && !slices.ContainsFunc(args, help) && !container.MayMount()
}

// enterNamespace executes this program anew in a user namespace and ends as
// that does. The state directory stays the user's.
func (e *env) enterNamespace(_ context.Context) error {
	dir, err := filepath.Abs(e.stateDir())
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, membersDir)); err != nil {
		// The first command makes the directory what it is.
		if _, err := e.store(); err != nil {
			return err
		}
		e.close()
		e.opened = nil
	}
	environ := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "BUILDER_ROOT=") })
	code, err := userns.Enter(userns.Options{
		Env: append(environ, "BUILDER_ROOT="+dir), Members: filepath.Join(dir, membersDir), Warn: e.warn,
	})
	if err != nil {
		return err
	}
	if code != 0 {
		return &exitError{code}
	}
	return nil
}

// rootless says whether this is the process of an ordinary user.
func rootless() bool { return os.Geteuid() != 0 || sys.InUserNamespace() }

// defaultNetwork is the network of a container for which none is asked.
func (e *env) defaultNetwork() string {
	if !rootless() {
		return network.Default
	}
	e.warn("without root a container has the machine's network, with all that listens there: --network host says so, and --network none has nothing")
	return "host"
}
