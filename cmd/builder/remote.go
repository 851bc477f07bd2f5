// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"builder/remote"
)

// keepGitArg is the build argument that keeps .git in a context that is a Git
// reference.
const keepGitArg = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"

// contextOpener is what opens the contexts of a build, and fetches for it.
func (b *buildSession) contextOpener(req *buildRequest) (*contextOpener, error) {
	o := &contextOpener{
		e: b.e, store: b.env.Store, cache: b.env.Cache, sink: b.env.Sink,
		remote:     remote.New(b.env.Store, b.e.remoteOptions()),
		commitTime: req.opts.Args["SOURCE_DATE_EPOCH"] != "",
		ignoreFile: req.flags.ignoreFile,
		args:       req.opts.Args,
	}
	if v := req.opts.Args[keepGitArg]; v != "" {
		var err error
		if o.keepGitDir, err = strconv.ParseBool(v); err != nil {
			return nil, &usageError{msg: fmt.Sprintf("build: --build-arg %s=%q: want true or false", keepGitArg, v)}
		}
	}
	return o, nil
}

// remoteOptions are how this machine fetches.
func (e *env) remoteOptions() remote.Options {
	opts := remote.Options{UserAgent: "builder/" + version().Version}
	if u, err := user.Current(); err == nil {
		name := filepath.Join(u.HomeDir, ".ssh", "known_hosts")
		if _, err := os.Stat(name); err == nil {
			opts.KnownHosts = []string{name}
		}
	}
	return opts
}
