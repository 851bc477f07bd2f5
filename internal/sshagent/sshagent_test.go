// SPDX-License-Identifier: Apache-2.0

package sshagent

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// key writes a new private key to a file.
func key(t *testing.T, passphrase string) (name string, public ssh.PublicKey) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(priv, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(priv, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	if public, err = ssh.NewPublicKey(pub); err != nil {
		t.Fatal(err)
	}
	name = filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return name, public
}

// serve answers at a socket until the test ends.
func serve(t *testing.T, handle func(net.Conn)) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { handle(conn); conn.Close() })
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return socket
}

// client talks to an Agent.
func client(t *testing.T, a *Agent) agent.ExtendedAgent {
	t.Helper()
	conn, err := net.Dial("unix", serve(t, a.Serve))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return agent.NewClient(conn)
}

// TestReadOnly holds that a client gets signatures and changes nothing, of
// keys in files and of another agent.
func TestReadOnly(t *testing.T) {
	name, public := key(t, "")
	files, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	// The real agent behind the socket would let everything be done.
	behind := agent.NewKeyring()
	otherName, other := key(t, "")
	data, _ := os.ReadFile(otherName)
	priv, err := ssh.ParseRawPrivateKey(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := behind.Add(agent.AddedKey{PrivateKey: priv}); err != nil {
		t.Fatal(err)
	}
	socket, err := Open(serve(t, func(c net.Conn) { agent.ServeAgent(behind, c) }))
	if err != nil {
		t.Fatal(err)
	}
	for kind, tt := range map[string]struct {
		agent *Agent
		key   ssh.PublicKey
	}{"files": {files, public}, "socket": {socket, other}} {
		c := client(t, tt.agent)
		keys, err := c.List()
		if err != nil || len(keys) != 1 || string(keys[0].Blob) != string(tt.key.Marshal()) {
			t.Fatalf("%s: keys %v, %v", kind, keys, err)
		}
		sig, err := c.Sign(tt.key, []byte("data"))
		if err != nil || tt.key.Verify([]byte("data"), sig) != nil {
			t.Errorf("%s: sign: %v", kind, err)
		}
		_, extension := c.Extension("session-bind@openssh.com", nil)
		for what, err := range map[string]error{
			"add": c.Add(agent.AddedKey{PrivateKey: priv}), "remove": c.Remove(tt.key), "remove all": c.RemoveAll(),
			"lock": c.Lock([]byte("x")), "unlock": c.Unlock([]byte("x")), "extension": extension,
		} {
			if err == nil {
				t.Errorf("%s: %s is let through", kind, what)
			}
		}
		if keys, err := c.List(); err != nil || len(keys) != 1 {
			t.Errorf("%s: afterwards %v, %v", kind, keys, err)
		}
	}
}

// TestAgentGone holds that a client of an agent that has ended is let go.
func TestAgentGone(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "gone")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	a, err := Open(socket)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if keys, err := client(t, a).List(); err == nil {
		t.Errorf("keys %v", keys)
	}
}

func TestOpenErrors(t *testing.T) {
	name, _ := key(t, "")
	locked, _ := key(t, "passphrase")
	socket := serve(t, func(net.Conn) {})
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for word, paths := range map[string][]string{
		"has a passphrase": {name, locked}, "no private key": {text}, "can't be combined": {name, socket}, "only a single socket": {socket, name},
		"no such file": {name + "x"}, "neither a socket nor a key file": {filepath.Dir(name)}, "neither a socket nor": nil,
	} {
		if _, err := Open(paths...); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q: %v, want %q", paths, err, word)
		}
	}
}
