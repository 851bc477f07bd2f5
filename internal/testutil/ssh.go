// SPDX-License-Identifier: Apache-2.0

package testutil

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// SSHServer is a real sshd on the loopback interface that lets in whoever has
// the key.
type SSHServer struct {
	User, Port string
	dir        string
}

// NewSSHServer starts a server. The files host, other and key are private keys
// beside it: its own, another, and the one that it lets in.
func NewSSHServer(t testing.TB) *SSHServer {
	t.Helper()
	Require(t, "git", "sshd", "ssh", "ssh-agent", "ssh-add", "ssh-keygen")
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s := &SSHServer{dir: t.TempDir(), User: u.Username}
	for _, name := range []string{"host", "other", "key"} {
		s.must(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.File(name))
	}
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // sshd insists on it
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, s.Port, _ = net.SplitHostPort(l.Addr().String())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	config := strings.Join([]string{
		"ListenAddress 127.0.0.1", "Port " + s.Port, "HostKey " + s.File("host"), "AuthorizedKeysFile " + s.File("key.pub"),
		"PidFile none", "StrictModes no", "UsePAM no", "PasswordAuthentication no", "PermitRootLogin prohibit-password", "",
	}, "\n")
	if err := os.WriteFile(s.File("config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("sshd")
	if err != nil {
		t.Fatal(err)
	}
	s.start(t, program, "-D", "-e", "-f", s.File("config"))
	s.await(t, func() error {
		c, err := net.Dial("tcp", "127.0.0.1:"+s.Port)
		if err != nil {
			return err
		}
		return c.Close()
	})
	return s
}

// File is the path of a file beside the server.
func (s *SSHServer) File(name string) string { return filepath.Join(s.dir, name) }

func (s *SSHServer) must(t testing.TB, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+s.File("agent"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// start starts a process that ends with the test.
func (s *SSHServer) start(t testing.TB, name string, args ...string) {
	t.Helper()
	log, err := os.Create(s.File(filepath.Base(name) + ".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
		if data, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("%s: %s", name, data)
		}
	})
}

func (s *SSHServer) await(t testing.TB, ready func() error) {
	t.Helper()
	var err error
	for range 500 {
		if err = ready(); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal(err)
}

// Agent starts an SSH agent that has the key and returns its socket.
func (s *SSHServer) Agent(t testing.TB) string {
	t.Helper()
	s.start(t, "ssh-agent", "-D", "-a", s.File("agent"))
	s.await(t, func() error { _, err := os.Stat(s.File("agent")); return err })
	s.must(t, "ssh-add", "-q", s.File("key"))
	return s.File("agent")
}

// KnownHosts writes a file in which the server has a key.
func (s *SSHServer) KnownHosts(t testing.TB, key string) []string {
	t.Helper()
	data, err := os.ReadFile(s.File(key + ".pub"))
	if err != nil {
		t.Fatal(err)
	}
	name := s.File("known hosts of " + key)
	if err := os.WriteFile(name, fmt.Appendf(nil, "[127.0.0.1]:%s %s", s.Port, data), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{name}
}
