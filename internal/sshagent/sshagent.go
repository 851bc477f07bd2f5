// SPDX-License-Identifier: Apache-2.0

// Package sshagent gives builds the use of SSH keys: of an agent that runs
// already, behind its socket, or of keys in files, from an agent in memory. A
// client can list keys and have something signed; it can't add, remove or lock.
package sshagent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// Agent is a source of keys. Its methods may be called from many goroutines.
type Agent struct {
	socket string // of an agent, "" for keys
	keys   agent.ExtendedAgent
}

// maxKey bounds what is read as a key file.
const maxKey = 100 << 10

// Open opens an agent for paths: the socket of one that runs, or files with
// private keys in the PEM or OpenSSH form. A key with a passphrase is refused.
func Open(paths ...string) (*Agent, error) {
	a := &Agent{}
	keys := agent.NewKeyring()
	count := 0
	for _, p := range paths {
		fi, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		if a.socket != "" {
			return nil, fmt.Errorf("%s: only a single socket is allowed, and nothing beside it", p)
		}
		if fi.Mode()&os.ModeSocket != 0 {
			a.socket = p
			continue
		}
		if !fi.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is neither a socket nor a key file", p)
		}
		if err := addKey(keys, p); err != nil {
			return nil, err
		}
		count++
	}
	switch {
	case a.socket != "" && count > 0:
		return nil, fmt.Errorf("%s: a socket can't be combined with key files", a.socket)
	case a.socket == "" && count == 0:
		return nil, errors.New("neither a socket nor a key file")
	}
	a.keys = keys.(agent.ExtendedAgent) //nolint:forcetypeassert // NewKeyring says so
	return a, nil
}

func addKey(keys agent.Agent, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return err
	}
	key, err := ssh.ParseRawPrivateKey(data)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return fmt.Errorf("%s: the key has a passphrase: load it into an agent with ssh-add and give the agent's socket", name)
	}
	if err != nil {
		return fmt.Errorf("%s is no private key: %w", name, err)
	}
	if err := keys.Add(agent.AddedKey{PrivateKey: key, Comment: name}); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// dialTimeout is how long another agent may take to accept a client.
const dialTimeout = 2 * time.Second

// Serve answers a client until it hangs up or the connection is closed.
func (a *Agent) Serve(conn net.Conn) {
	keys := a.keys
	if a.socket != "" {
		behind, err := net.DialTimeout("unix", a.socket, dialTimeout)
		if err != nil {
			return // the client sees its connection closed, as that of an agent that has ended
		}
		defer func() { _ = behind.Close() }() // nothing was written that could be lost
		keys = agent.NewClient(behind)
	}
	_ = agent.ServeAgent(readOnly{keys}, conn) // an error is the client's, who sees it
}

// readOnly refuses what changes an agent.
type readOnly struct{ agent.ExtendedAgent }

var errReadOnly = errors.New("a build can't change the agent")

func (readOnly) Add(agent.AddedKey) error   { return errReadOnly }
func (readOnly) Remove(ssh.PublicKey) error { return errReadOnly }
func (readOnly) RemoveAll() error           { return errReadOnly }
func (readOnly) Lock([]byte) error          { return errReadOnly }
func (readOnly) Unlock([]byte) error        { return errReadOnly }
func (readOnly) Extension(string, []byte) ([]byte, error) {
	return nil, agent.ErrExtensionUnsupported
}
