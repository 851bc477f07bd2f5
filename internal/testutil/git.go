// SPDX-License-Identifier: Apache-2.0

package testutil

import (
	"errors"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// GitServer serves the repositories in a directory over HTTP, as git itself
// does.
type GitServer struct {
	*httptest.Server
	Dir      string // holds the repositories
	Requests atomic.Int64
	Packs    atomic.Int64 // of these, what was sent to git-upload-pack
	Password string       // of x-access-token, if it wants one
	Header   atomic.Value // Authorization of the last request
}

// NewGitServer starts a server on the loopback interface.
func NewGitServer(t testing.TB) *GitServer {
	t.Helper()
	Require(t, "git")
	execPath, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	s := &GitServer{Dir: t.TempDir()}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(execPath)), "git-http-backend"),
		Env: []string{
			"GIT_PROJECT_ROOT=" + s.Dir, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=x", "GIT_CONFIG_COUNT=1",
			"GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		},
		InheritEnv: []string{"PATH"},
		Stderr:     io.Discard,
	}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Requests.Add(1)
		s.Header.Store(r.Header.Get("Authorization"))
		if strings.HasSuffix(r.URL.Path, "git-upload-pack") && strings.Contains(r.Header.Get("Content-Type"), "upload-pack") && r.ContentLength > 0 {
			s.Packs.Add(1)
		}
		if _, password, _ := r.BasicAuth(); s.Password != "" && password != s.Password {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// RepositoryURL is the URL of a repository.
func (s *GitServer) RepositoryURL(name string) string { return s.URL + "/" + name + ".git" }

// Worktree is a repository that tests commit to.
type Worktree struct {
	t   testing.TB
	Dir string // its top
}

// OpenWorktree is the repository in a directory.
func OpenWorktree(t testing.TB, dir string) *Worktree { return &Worktree{t, dir} }

// Repository makes a repository that the server serves, with the arguments of
// git init.
func (s *GitServer) Repository(t testing.TB, name string, args ...string) *Worktree {
	t.Helper()
	w := &Worktree{t, filepath.Join(s.Dir, name+".git")}
	if err := os.MkdirAll(w.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.Git(append([]string{"init", "-q", "-b", "main"}, args...)...)
	return w
}

// Git runs git in the repository and returns what it prints.
func (w *Worktree) Git(args ...string) string {
	w.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = w.Dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
		"GIT_AUTHOR_DATE=1700000000 +0000", "GIT_COMMITTER_DATE=1700000000 +0000", "GIT_ALLOW_PROTOCOL=file:http")
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// Commit writes files, pairs of names and contents, and commits
// all. It returns the commit's ID.
func (w *Worktree) Commit(files ...string) string {
	w.t.Helper()
	for i := 0; i < len(files); i += 2 {
		name := filepath.Join(w.Dir, files[i])
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(files[i+1]), 0o644)); err != nil {
			w.t.Fatal(err)
		}
	}
	w.Git("add", "-A")
	w.Git("commit", "-q", "--allow-empty", "-m", "a commit")
	return w.Git("rev-parse", "HEAD")
}
