// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"builder/internal/testutil"
)

// sshServer is a real sshd on the loopback interface that lets in whoever has
// the key.
type sshServer struct {
	dir, user, port string
}

func newSSHServer(t *testing.T) *sshServer {
	t.Helper()
	testutil.Require(t, "git", "sshd", "ssh", "ssh-agent", "ssh-add", "ssh-keygen")
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s := &sshServer{dir: t.TempDir(), user: u.Username}
	for _, name := range []string{"host", "other", "key"} {
		s.must(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.file(name))
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
	_, s.port, _ = net.SplitHostPort(l.Addr().String())
	l.Close()
	config := strings.Join([]string{
		"ListenAddress 127.0.0.1", "Port " + s.port, "HostKey " + s.file("host"), "AuthorizedKeysFile " + s.file("key.pub"),
		"PidFile none", "StrictModes no", "UsePAM no", "PasswordAuthentication no", "PermitRootLogin prohibit-password", "",
	}, "\n")
	if err := os.WriteFile(s.file("config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("sshd")
	if err != nil {
		t.Fatal(err)
	}
	s.start(t, program, "-D", "-e", "-f", s.file("config"))
	s.await(t, func() error {
		c, err := net.Dial("tcp", "127.0.0.1:"+s.port)
		if err == nil {
			c.Close()
		}
		return err
	})
	return s
}

func (s *sshServer) file(name string) string { return filepath.Join(s.dir, name) }

func (s *sshServer) must(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+s.file("agent"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// start starts a process that ends with the test.
func (s *sshServer) start(t *testing.T, name string, args ...string) {
	t.Helper()
	log, err := os.Create(s.file(filepath.Base(name) + ".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		log.Close()
		if data, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("%s: %s", name, data)
		}
	})
}

func (s *sshServer) await(t *testing.T, ready func() error) {
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

// agent starts an SSH agent that has the key and returns its socket.
func (s *sshServer) agent(t *testing.T) string {
	t.Helper()
	s.start(t, "ssh-agent", "-D", "-a", s.file("agent"))
	s.await(t, func() error { _, err := os.Stat(s.file("agent")); return err })
	s.must(t, "ssh-add", "-q", s.file("key"))
	return s.file("agent")
}

// knownHosts writes a file in which the server has a key.
func (s *sshServer) knownHosts(t *testing.T, key string) []string {
	t.Helper()
	data, err := os.ReadFile(s.file(key + ".pub"))
	if err != nil {
		t.Fatal(err)
	}
	name := s.file("known hosts of " + key)
	if err := os.WriteFile(name, fmt.Appendf(nil, "[127.0.0.1]:%s %s", s.port, data), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{name}
}

func TestGitSSH(t *testing.T) {
	server := newSSHServer(t)
	git := testutil.NewGitServer(t)
	git.Repository(t, "a").Commit("file", "one")
	socket := server.agent(t)
	url := fmt.Sprintf("ssh://%s@127.0.0.1:%s%s/a.git", server.user, server.port, git.Dir)
	asked := ""
	with := func(socket string, hosts []string) Options {
		return Options{KnownHosts: hosts, AgentSocket: func(id string) (string, error) {
			asked = id
			if socket == "" {
				return "", errors.New("no agent was given")
			}
			return socket, nil
		}}
	}
	for name, hosts := range map[string][]string{"known": server.knownHosts(t, "host"), "unknown": nil} {
		checkFile(t, mustFetch(t, newStore(t), with(socket, hosts), url), "file", "one")
		if asked != "default" {
			t.Errorf("%s: the agent %q was asked for", name, asked)
		}
	}
	for name, c := range map[string]struct {
		opts Options
		want string
	}{
		"other key": {with(socket, server.knownHosts(t, "other")), "ssh-keygen -R"},
		"no agent":  {with("", nil), ""},
		"none":      {Options{}, "--ssh default"},
	} {
		_, err := fetch(t, newStore(t), c.opts, url)
		var hint interface{ Hint() string }
		if err == nil || c.want != "" && (!errors.As(err, &hint) || !strings.Contains(hint.Hint(), c.want)) {
			t.Errorf("%s: %v, want the hint %q", name, err, c.want)
		}
	}
}
