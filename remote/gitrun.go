// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"builder/internal/sys"
)

// gitCommand is how git is run for one remote: with nothing of this machine's
// or this user's configuration, no hooks, no questions asked, and only the
// transports that a build may use. Credentials are in its environment alone.
type gitCommand struct {
	program string
	cwd     string // where it runs if not in a work tree: in no repository
	env     []string
	config  []string // key, value, key, value
	hide    []string // what must not be in an error
	tell    teller
}

// networkProtocols are what a repository and its submodules may be fetched by:
// never files of this machine, never a command (ext).
const networkProtocols = "https:http:ssh:git"

// lowSpeed is after how many seconds a server that sends nothing is given up.
const lowSpeed = "60"

// gitCommand prepares to run git for a remote, which has no credentials in it
// any more.
func (c *Client) gitCommand(remote string, tell teller) (*gitCommand, string, error) {
	program, err := exec.LookPath("git")
	if err != nil {
		return nil, "", &hintError{errors.New("fetch a Git repository: the program git is not installed"), "install git, for example with: apt-get install git"}
	}
	g := &gitCommand{program: program, cwd: c.store.Path("tmp"), tell: tell}
	g.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/dev/null", "LC_ALL=C", "GIT_CEILING_DIRECTORIES=" + c.store.Path(),
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_ATTR_NOSYSTEM=1",
		"GIT_TERMINAL_PROMPT=0", "SSH_ASKPASS_REQUIRE=never", "GIT_LFS_SKIP_SMUDGE=1",
	}
	for _, name := range []string{
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
		"GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "TMPDIR",
	} {
		if v, ok := os.LookupEnv(name); ok {
			g.env = append(g.env, name+"="+v)
		}
	}
	g.set("core.hooksPath", "/dev/null")
	g.set("core.fsmonitor", "false")
	g.set("credential.helper", "")
	g.set("gc.auto", "0")
	g.set("maintenance.auto", "false")
	g.set("advice.detachedHead", "false")
	g.set("init.defaultBranch", "master")
	g.set("http.lowSpeedLimit", "1")
	g.set("http.lowSpeedTime", lowSpeed)
	if remote, err = c.setHTTPAuth(g, remote); err != nil {
		return nil, "", err
	}
	return g, remote, c.setSSH(g, remote)
}

func (g *gitCommand) set(key, value string) { g.config = append(g.config, key, value) }

// Secrets for repositories over HTTP(S), by themselves or with "." and a host.
const (
	gitHeaderSecret = "GIT_AUTH_HEADER" // what follows "Authorization: "
	gitTokenSecret  = "GIT_AUTH_TOKEN"  // the password of the user x-access-token
)

// setHTTPAuth gives git the credentials for an HTTP(S) remote, which a secret
// holds or the URL itself, and returns the URL without any.
func (c *Client) setHTTPAuth(g *gitCommand, remote string) (string, error) {
	u, err := url.Parse(remote)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return remote, nil
	}
	var header string
	if password, ok := u.User.Password(); ok {
		header = "Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password))
		g.hide = append(g.hide, password)
		u.User = nil
	}
	for _, id := range []string{gitHeaderSecret + "." + u.Host, gitTokenSecret + "." + u.Host, gitHeaderSecret, gitTokenSecret} {
		v, ok, err := c.secret(id)
		if err != nil {
			return "", fmt.Errorf("secret %s: %w", id, err)
		}
		if !ok {
			continue
		}
		if header = strings.TrimSpace(v); strings.HasPrefix(id, gitTokenSecret) {
			g.hide = append(g.hide, header)
			header = "basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+header))
		}
		if strings.ContainsAny(header, "\r\n\x00") {
			return "", fmt.Errorf("secret %s: it has several lines, which a header can't have", id)
		}
		break
	}
	if header != "" {
		_, credentials, _ := strings.Cut(header, " ")
		g.hide = append(g.hide, header, credentials)
		g.set("http."+tokenScope(u.String())+".extraHeader", "Authorization: "+header)
		// git would take the header along to wherever it is sent.
		g.set("http.followRedirects", "false")
	}
	return u.String(), nil
}

// tokenScope is for which URLs a remote's credentials count: for itself, and
// for all of github.com if it is there, so that submodules have them.
func tokenScope(remote string) string {
	for _, all := range []string{"https://github.com/", "https://www.github.com/"} {
		if strings.HasPrefix(remote, all) {
			return all
		}
	}
	return remote
}

// setSSH tells git how to run ssh: without this user's configuration and keys,
// with the agent that was given to the build.
func (c *Client) setSSH(g *gitCommand, remote string) error {
	files := "/dev/null" // where ssh would write down the keys of new hosts
	for _, f := range c.opts.KnownHosts {
		files += ` "` + f + `"`
	}
	args := []string{
		"ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "IdentityFile=none", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=30",
		"-o", "ServerAliveInterval=15", "-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile=" + files,
	}
	for i, a := range args {
		args[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	g.env = append(g.env, "GIT_SSH_COMMAND="+strings.Join(args, " "))
	if !isSSH(remote) || c.opts.AgentSocket == nil {
		return nil
	}
	socket, err := c.opts.AgentSocket("default")
	if err != nil {
		return fmt.Errorf("fetch %s: %w", remote, err)
	}
	if socket != "" {
		g.env = append(g.env, "SSH_AUTH_SOCK="+socket)
	}
	return nil
}

func isSSH(remote string) bool {
	return strings.HasPrefix(remote, "ssh://") || !strings.Contains(remote, "://")
}

// gitError is a git that failed.
type gitError struct {
	command string
	err     error
	stderr  string
}

func (e *gitError) Error() string {
	if e.stderr == "" {
		return fmt.Sprintf("git %s: %v", e.command, e.err)
	}
	return fmt.Sprintf("git %s: %s", e.command, e.stderr)
}

func (e *gitError) Unwrap() error { return e.err }

// Hint guesses from git's words what is to be done.
func (e *gitError) Hint() string {
	switch {
	case strings.Contains(e.stderr, "could not read Username"), strings.Contains(e.stderr, "returned error: 401"),
		strings.Contains(e.stderr, "returned error: 403"), strings.Contains(e.stderr, "Authentication failed"):
		return "if the repository needs credentials, give them as the secret " + gitTokenSecret + " or " + gitHeaderSecret
	case strings.Contains(e.stderr, "returned error: 30"):
		return "the server sends elsewhere, and credentials are not taken there: name the repository by its new URL"
	case strings.Contains(e.stderr, "Permission denied (publickey"):
		return "give the build an SSH agent that has the key: --ssh default"
	case strings.Contains(e.stderr, "Host key verification failed"):
		return "the host's key is not the one that is known; if it was changed, remove the old one with: ssh-keygen -R HOST"
	}
	return ""
}

// gitArgs are where git works.
type gitArgs struct {
	dir      string // of the repository
	workTree string
	index    string
	local    bool // talks to no server, but to a repository on this machine
}

// maxOutput bounds what git may say, in bytes.
const maxOutput = 64 << 20

// run runs git to its end and returns what it says. If ctx ends, git and
// whatever it started are killed.
func (g *gitCommand) run(ctx context.Context, at gitArgs, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, g.program)
	cmd.Dir = g.cwd
	if at.dir != "" {
		cmd.Args = append(cmd.Args, "--git-dir", at.dir)
	}
	if at.workTree != "" {
		cmd.Args = append(cmd.Args, "--work-tree", at.workTree)
		cmd.Dir = at.workTree
	}
	cmd.Args = append(cmd.Args, args...)
	cmd.Env = g.environment(at)
	out, errOut := &boundedBuffer{max: maxOutput}, &boundedBuffer{max: maxOutput}
	cmd.Stdout, cmd.Stderr = out, errOut
	// A group of its own, so that no helper of git's outlives it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	err := sys.WithUmask(0o022, cmd.Run)
	if ctx.Err() != nil {
		if cmd.Process != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // those that didn't end
		}
		return "", context.Cause(ctx)
	}
	said := g.redact(strings.TrimSpace(errOut.String()))
	if err != nil {
		return "", &gitError{command: commandWord(args), err: err, stderr: tail(said)}
	}
	for line := range strings.Lines(said) {
		g.tell.log(strings.TrimSpace(line))
	}
	return out.String(), nil
}

func (g *gitCommand) environment(at gitArgs) []string {
	env := append([]string(nil), g.env...)
	protocols := networkProtocols
	if at.local {
		protocols = "file"
	}
	env = append(env, "GIT_ALLOW_PROTOCOL="+protocols)
	if at.index != "" {
		env = append(env, "GIT_INDEX_FILE="+at.index)
	}
	for i := 0; i < len(g.config); i += 2 {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i/2, g.config[i]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i/2, g.config[i+1]))
	}
	return append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(g.config)/2))
}

func (g *gitCommand) redact(s string) string {
	for _, secret := range g.hide {
		if secret != "" {
			s = strings.ReplaceAll(s, secret, "***")
		}
	}
	return s
}

// commandWord is git's command in its arguments.
func commandWord(args []string) string {
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			return a
		}
	}
	return ""
}

// tail is the last lines of what git said.
func tail(s string) string {
	const most = 2000
	if len(s) <= most {
		return s
	}
	_, s, _ = strings.Cut(s[len(s)-most:], "\n")
	return "…\n" + s
}

// boundedBuffer fails when it is full, which ends the process that writes.
type boundedBuffer struct {
	bytes.Buffer
	max int
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.max {
		return 0, fmt.Errorf("more than %d bytes of output", b.max)
	}
	return b.Buffer.Write(p)
}
