// SPDX-License-Identifier: Apache-2.0

//go:build !front

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"builder/build"
	"builder/dockerfile"
	"builder/internal/sshagent"
	"builder/remote"
)

// keepGitArg is the build argument that keeps .git in a context that is a Git
// reference.
const keepGitArg = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"

// contextOpener is what opens the contexts of a build, and fetches for it. The
// caller closes it.
func (b *buildSession) contextOpener(req *buildRequest) (*contextOpener, error) {
	o := &contextOpener{
		e: b.e, store: b.env.Store, cache: b.env.Cache, trees: b.trees, sink: b.env.Sink,
		agents:     &agentSockets{agents: req.opts.SSH},
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
	if len(req.opts.SSH) == 0 && isGitSSH(req.path) {
		// As buildx does.
		if socket, ok := lookupEnv(b.e, "SSH_AUTH_SOCK"); ok && socket != "" {
			agent, err := sshagent.Open(socket)
			if err != nil {
				return nil, fmt.Errorf("SSH_AUTH_SOCK: %w", err)
			}
			o.agents.agents = map[string]build.Agent{"default": agent}
		}
	}
	opts := b.e.remoteOptions()
	opts.Secret = func(id string) ([]byte, bool, error) {
		v, ok := req.opts.Secrets[id]
		return v, ok, nil
	}
	opts.AgentSocket = o.agents.socket
	o.remote = remote.New(b.env.Store, opts)
	return o, nil
}

// isGitSSH reports whether a context is a Git repository behind SSH.
func isGitSSH(path string) bool {
	ref, err := dockerfile.ParseGitRef(path)
	return err == nil && ref != nil && !isDir(path) && (strings.HasPrefix(ref.Remote, "ssh://") || !strings.Contains(ref.Remote, "://"))
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

// agentSockets are the sockets at which the SSH agents of a build answer git.
type agentSockets struct {
	agents map[string]build.Agent

	mu     sync.Mutex
	opened map[string]net.Listener
	dirs   []string
}

// socket returns the path of an agent's socket, "" if there is no such agent.
// It is in the directory for temporary files: the path of one may not be long.
func (a *agentSockets) socket(id string) (string, error) {
	agent, ok := a.agents[id]
	if !ok {
		return "", nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if l, ok := a.opened[id]; ok {
		return l.Addr().String(), nil
	}
	dir, err := os.MkdirTemp("", "builder-agent-")
	if err != nil {
		return "", err
	}
	a.dirs = append(a.dirs, dir)
	l, err := net.Listen("unix", filepath.Join(dir, "agent"))
	if err != nil {
		return "", fmt.Errorf("open a socket for the SSH agent %q: %w", id, err)
	}
	if a.opened == nil {
		a.opened = map[string]net.Listener{}
	}
	a.opened[id] = l
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				agent.Serve(conn)
				_ = conn.Close() // the client has hung up, or is hung up on
			}()
		}
	}()
	return l.Addr().String(), nil
}

func (a *agentSockets) close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var err error
	for _, l := range a.opened {
		err = errors.Join(err, l.Close())
	}
	for _, dir := range a.dirs {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}
