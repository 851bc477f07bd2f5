// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"builder/container"
	"builder/internal/sys"
	"builder/network"
	"builder/store"
	"builder/supervisor"
	"builder/usernet"
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

// runsCommand are commands whose arguments end with a command of somebody else.
var runsCommand = []string{"run", "create", "exec"}

// withoutMounts are the commands that a container's root can do where it may
// neither mount nor make a namespace: what would be mounted is copied.
var withoutMounts = []string{"build", "bake", "import", "load", "rmi", "prune", "df", "diff", "inspect", "image", "system"}

// goesWithout says whether a command goes on though no namespace could be
// entered, which needs the rights that docker gives to a container's root.
func goesWithout(name string, err error) bool {
	var why *userns.Error
	return errors.As(err, &why) && slices.Contains(withoutMounts, name) && container.MayRunBare()
}

// entersNamespace says whether a command goes on in a user namespace: of an
// ordinary user, or of a container's root that may not mount.
func entersNamespace(name string, args []string) bool {
	help := func(a string) bool { return a == "--help" || a == "-h" }
	if slices.Contains(runsCommand, name) && len(args) > 1 {
		args = args[:1] // what follows may be the command's
	}
	return !slices.Contains(plain, name) && !slices.ContainsFunc(args, help) && !sys.MayMount()
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

// usernetDir is the directory, below the state directory, of usernet.Serve.
const usernetDir = "run/usernet"

// records are the containers of the state directory, whose networks are where
// this process may have some.
func (e *env) records(s *store.Store) supervisor.Records {
	r := supervisor.NewRecords(s)
	if b := e.networkBase(s); b != nil {
		r.Networks().SetBase(b)
	}
	return r
}

// networkBase is where networks are, nil if that is where this process is.
func (e *env) networkBase(s *store.Store) network.Base {
	if network.Mine() {
		return nil
	}
	if e.usernet == nil {
		e.usernet = usernet.NewClient(s.Path(usernetDir), []string{"/proc/self/exe", "--root", s.Path(), "usernet"}, e.warn)
	}
	return e.usernet
}

// defaultNetwork is the network of a container for which none is asked: that of
// BUILDER_NETWORK or, where there can be no other, otherwise, with a warning.
func (e *env) defaultNetwork(s *store.Store, otherwise string) string {
	if name := e.getenv("BUILDER_NETWORK"); name != "" {
		return name
	}
	b := e.networkBase(s)
	if b == nil {
		return network.Default
	}
	if _, err := b.Threads(true); err != nil {
		e.warn(fmt.Sprintf("the network is %s: %v; builder doctor tells more", otherwise, err))
		return otherwise
	}
	return network.Default
}
