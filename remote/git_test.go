// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"builder/dockerfile"
	"builder/internal/testutil"
	"builder/store"
)

func newStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func parseRef(t *testing.T, s string) dockerfile.GitRef {
	t.Helper()
	ref, err := dockerfile.ParseGitRef(s)
	if err != nil || ref == nil {
		t.Fatalf("parse %q: %v, %v", s, ref, err)
	}
	return *ref
}

// fetch fetches a reference with a client of its own, as a build does.
func fetch(t *testing.T, s *store.Store, opts Options, url string) (string, error) {
	t.Helper()
	dir, err := s.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(dir, "tree")
	return dir, New(s, opts).FetchGit(t.Context(), parseRef(t, url), dir, nil)
}

func mustFetch(t *testing.T, s *store.Store, opts Options, url string) string {
	t.Helper()
	dir, err := fetch(t, s, opts, url)
	if err != nil {
		t.Fatalf("fetch %s: %v", url, err)
	}
	return dir
}

func checkFile(t *testing.T, dir, name, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil || string(got) != want {
		t.Errorf("%s: %q, %v; want %q", name, got, err, want)
	}
}

func checkAbsent(t *testing.T, dir, name string) {
	t.Helper()
	if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there: %v", name, err)
	}
}

func TestGitRefs(t *testing.T) {
	server, s := testutil.NewGitServer(t), newStore(t)
	w := server.Repository(t, "a")
	first := w.Commit("file", "one", "sub/deep/x", "x1")
	w.Git("tag", "light")
	w.Git("tag", "-a", "-m", "a tag", "v1")
	tag := w.Git("rev-parse", "v1")
	w.Git("checkout", "-q", "-b", "side/way")
	side := w.Commit("file", "side")
	w.Git("tag", "both")
	w.Git("checkout", "-q", "main")
	last := w.Commit("file", "two")
	w.Git("branch", "both")
	url := server.RepositoryURL("a")
	for ref, want := range map[string]struct{ id, file string }{
		"":                                  {last, "two"},
		"#main":                             {last, "two"},
		"#refs/heads/main":                  {last, "two"},
		"#heads/main":                       {last, "two"},
		"#light":                            {first, "one"},
		"#v1":                               {first, "one"},
		"?tag=v1":                           {first, "one"},
		"?tag=v1&checksum=" + tag[:10]:      {first, "one"},
		"?tag=v1&checksum=" + first[:10]:    {first, "one"},
		"#side/way":                         {side, "side"},
		"?branch=side/way":                  {side, "side"},
		"#" + first:                         {first, "one"},
		"#both":                             {last, "two"},
		"?tag=both":                         {side, "side"},
		"?checksum=" + last[:7]:             {last, "two"},
		"?fetch-by-commit&checksum=" + side: {side, "side"},
		"?fetch-by-commit&ref=gone&checksum=" + first: {first, "one"},
	} {
		t.Run(ref, func(t *testing.T) {
			id, err := New(s, Options{}).ResolveGit(t.Context(), parseRef(t, url+ref), nil)
			if err != nil || id != want.id {
				t.Errorf("resolved to %q, %v; want %s", id, err, want.id)
			}
			dir := mustFetch(t, s, Options{}, url+ref)
			checkFile(t, dir, "file", want.file)
			checkAbsent(t, dir, ".git")
		})
	}
	for ref, want := range map[string]string{
		"#nothing":                      `there is no branch or tag "nothing"`,
		"#" + first[:8]:                 "there is no branch or tag",
		"?checksum=abc123":              "to be commit abc123, and it is " + last,
		"?tag=v1&checksum=abc123":       "and it is " + tag + " or " + first,
		"?checksum=main":                "want a commit ID in hexadecimal digits",
		"?fetch-by-commit&checksum=abc": "needs a whole commit ID",
		"?checksum=abc123#" + first:     "to be commit abc123",
		"#" + strings.Repeat("ab", 20):  strings.Repeat("ab", 20),
		"#main:nowhere":                 `it has no directory "nowhere"`,
		"#main:file":                    "not a directory",
		"?fetch-by-commit&checksum=" + strings.Repeat("ab", 20): strings.Repeat("ab", 20),
	} {
		if dir, err := fetch(t, s, Options{}, url+ref); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", ref, err, want)
		} else {
			checkAbsent(t, filepath.Dir(dir), "tree")
		}
	}
	dir := mustFetch(t, s, Options{}, url+"#main:sub/deep")
	checkFile(t, dir, "x", "x1")
	checkAbsent(t, dir, "file")
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("the directory has mode %v, %v", fi.Mode(), err)
	}
}

func TestGitModes(t *testing.T) {
	server, s := testutil.NewGitServer(t), newStore(t)
	w := server.Repository(t, "a")
	w.Commit("dir/plain", "p", "run", "r")
	if err := errors.Join(os.Chmod(filepath.Join(w.Dir, "run"), 0o700), os.Symlink("/etc/passwd", filepath.Join(w.Dir, "link")),
		os.Symlink("dir", filepath.Join(w.Dir, "way"))); err != nil {
		t.Fatal(err)
	}
	w.Commit()
	dir := mustFetch(t, s, Options{}, server.RepositoryURL("a")+"?mtime=commit")
	for name, mode := range map[string]fs.FileMode{
		".": fs.ModeDir | 0o755, "dir": fs.ModeDir | 0o755, "dir/plain": 0o644, "run": 0o755, "link": fs.ModeSymlink | 0o777,
	} {
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || fi.Mode() != mode || fi.ModTime().Unix() != 1700000000 {
			t.Errorf("%s: %v of %v, %v; want %v of the commit's time", name, fi.Mode(), fi.ModTime(), err, mode)
		}
	}
	if _, err := fetch(t, s, Options{}, server.RepositoryURL("a")+"#:way"); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("a subdirectory through a link: %v", err)
	}
}

// TestGitIncremental: what is here is not fetched again, and what is new is.
func TestGitIncremental(t *testing.T) {
	server, s := testutil.NewGitServer(t), newStore(t)
	w := server.Repository(t, "a")
	first := w.Commit("file", "one")
	mustFetch(t, s, Options{}, server.RepositoryURL("a"))
	packs := server.Packs.Load()
	mustFetch(t, s, Options{}, server.RepositoryURL("a")+"#main")
	requests := server.Requests.Load()
	mustFetch(t, s, Options{}, server.RepositoryURL("a")+"#"+first)
	if n := server.Requests.Load() - requests; n != 0 {
		t.Errorf("%d requests for a commit that is here", n)
	}
	if p := server.Packs.Load(); p > packs+1 { // of the second ls-remote
		t.Errorf("%d requests for objects of a commit that is here", p-packs)
	}
	w.Commit("file", "two")
	checkFile(t, mustFetch(t, s, Options{}, server.RepositoryURL("a")), "file", "two")
	w.Git("commit", "-q", "--amend", "-m", "other")
	w.Git("branch", "-m", "main", "main/sub") // a name in the way of the old one
	w.Git("symbolic-ref", "HEAD", "refs/heads/main/sub")
	checkFile(t, mustFetch(t, s, Options{}, server.RepositoryURL("a")), "file", "two")
}

// TestGitOneState: a branch that moves during a build stays what it was.
func TestGitOneState(t *testing.T) {
	server, s := testutil.NewGitServer(t), newStore(t)
	w := server.Repository(t, "a")
	first := w.Commit("file", "one")
	c := New(s, Options{})
	ref := parseRef(t, server.RepositoryURL("a")+"#main")
	if id, err := c.ResolveGit(t.Context(), ref, nil); err != nil || id != first {
		t.Fatal(id, err)
	}
	w.Commit("file", "two")
	w.Git("config", "uploadpack.allowAnySHA1InWant", "false")
	temp, err := s.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(temp, "tree")
	if err := c.FetchGit(t.Context(), ref, dir, nil); err != nil {
		t.Fatal(err)
	}
	checkFile(t, dir, "file", "one")
}

func TestGitSHA256(t *testing.T) {
	server, s := testutil.NewGitServer(t), newStore(t)
	w := server.Repository(t, "a", "--object-format=sha256")
	id := w.Commit("file", "one")
	if len(id) != 64 {
		t.Fatalf("%s is no SHA-256", id)
	}
	checkFile(t, mustFetch(t, s, Options{}, server.RepositoryURL("a")+"?checksum="+id[:12]), "file", "one")
	checkFile(t, mustFetch(t, s, Options{}, server.RepositoryURL("a")+"?keep-git-dir#"+id), "file", "one")
}

// TestGitDumb: a server of files knows neither shallow clones nor IDs.
func TestGitDumb(t *testing.T) {
	server, s := testutil.NewGitServer(t), newStore(t)
	w := server.Repository(t, "a")
	first := w.Commit("file", "one")
	w.Commit("file", "two")
	w.Git("update-server-info")
	files := httptest.NewServer(http.StripPrefix("/a.git", http.FileServer(http.Dir(filepath.Join(w.Dir, ".git")))))
	defer files.Close()
	checkFile(t, mustFetch(t, s, Options{}, files.URL+"/a.git#main"), "file", "two")
	checkFile(t, mustFetch(t, newStore(t), Options{}, files.URL+"/a.git#"+first), "file", "one")
}

func TestGitKeepDir(t *testing.T) {
	server, s := testutil.NewGitServer(t), newStore(t)
	w := server.Repository(t, "a")
	w.Commit("file", "one")
	first := w.Commit("file", "two")
	w.Git("tag", "-a", "-m", "a tag", "v1")
	for ref, named := range map[string]string{
		"?keep-git-dir": "refs/heads/main", "?keep-git-dir&tag=v1": "refs/tags/v1", "?keep-git-dir#" + first: "",
	} {
		dir := mustFetch(t, s, Options{}, server.RepositoryURL("a")+ref)
		clone := testutil.OpenWorktree(t, dir)
		checkFile(t, dir, "file", "two")
		if head, log := clone.Git("rev-parse", "HEAD"), clone.Git("log", "--format=%H"); head != first || log != first {
			t.Errorf("%s: HEAD is %s, the history %q; want %s alone", ref, head, log, first)
		}
		if refs := clone.Git("for-each-ref", "--format=%(refname)"); refs != named {
			t.Errorf("%s: refs %q, want %q", ref, refs, named)
		}
		if status := clone.Git("status", "--porcelain"); status != "" {
			t.Errorf("%s: %s", ref, status)
		}
		if url := clone.Git("remote", "get-url", "origin"); url != server.RepositoryURL("a") {
			t.Errorf("%s: origin is %s", ref, url)
		}
		checkAbsent(t, dir, ".git/FETCH_HEAD")
		checkAbsent(t, dir, ".git/hooks")
		if hits := search(t, dir, s.Path()); len(hits) > 0 {
			t.Errorf("%s: %q tell of the state directory", ref, hits)
		}
	}
	checkAbsent(t, mustFetch(t, s, Options{}, server.RepositoryURL("a")+"?keep-git-dir=false"), ".git")
}

func TestGitSubmodules(t *testing.T) {
	server, s := testutil.NewGitServer(t), newStore(t)
	inner := server.Repository(t, "inner")
	inner.Commit("i", "inner")
	middle := server.Repository(t, "middle")
	middle.Git("submodule", "--quiet", "add", "../inner.git", "in")
	middle.Commit("m", "old")
	middle.Commit("m", "middle")
	outer := server.Repository(t, "outer")
	outer.Git("submodule", "--quiet", "add", server.RepositoryURL("middle"), "mid")
	middle.Commit("m", "newer than what outer has")
	outer.Commit("o", "outer")
	for range 2 { // the second time with what the first kept
		dir := mustFetch(t, s, Options{}, server.RepositoryURL("outer"))
		checkFile(t, dir, "o", "outer")
		checkFile(t, dir, "mid/m", "middle")
		checkFile(t, dir, "mid/in/i", "inner")
		checkAbsent(t, dir, "mid/.git")
		checkAbsent(t, dir, "mid/in/.git")
	}
	checkAbsent(t, mustFetch(t, s, Options{}, server.RepositoryURL("outer")+"?submodules=false"), "mid/m")
	dir := mustFetch(t, s, Options{}, server.RepositoryURL("outer")+"?keep-git-dir")
	checkFile(t, dir, "mid/in/i", "inner")
	if status := testutil.OpenWorktree(t, filepath.Join(dir, "mid")).Git("status", "--porcelain"); status != "" {
		t.Errorf("the submodule's repository: %s", status)
	}
}

// TestGitHostile: a repository reaches nothing of this machine.
func TestGitHostile(t *testing.T) {
	server, s := testutil.NewGitServer(t), newStore(t)
	local := server.Repository(t, "local")
	local.Commit("secret", "of this machine")
	mark := filepath.Join(t.TempDir(), "ran")
	for name, url := range map[string]string{"file": "file://" + local.Dir, "path": local.Dir, "ext": "ext::sh -c 'touch " + mark + "'"} {
		w := server.Repository(t, name)
		w.Commit(".gitmodules", "[submodule \"x\"]\n\tpath = x\n\turl = "+url+"\n\tupdate = !touch "+mark+"\n")
		w.Git("update-index", "--add", "--cacheinfo", "160000,"+local.Git("rev-parse", "HEAD")+",x")
		w.Git("commit", "-q", "-m", "link")
		if dir, err := fetch(t, s, Options{}, server.RepositoryURL(name)); err == nil {
			t.Errorf("%s: a submodule at %s was fetched: %v", name, url, dir)
		}
	}
	w := server.Repository(t, "filter")
	w.Commit(".gitattributes", "* filter=evil\n", ".git-hooks/post-checkout", "#!/bin/sh\ntouch "+mark, "file", "x")
	home := t.TempDir()
	config := fmt.Sprintf("[filter \"evil\"]\n\tsmudge = touch %s\n[core]\n\thooksPath = .git-hooks\n", mark)
	if err := os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", home)
	// Nor does the repository count in which the build is started.
	here := server.Repository(t, "here")
	here.Git("config", "url."+server.URL+"/local.git.insteadOf", server.RepositoryURL("filter"))
	here.Git("config", "credential.helper", "!touch "+mark)
	here.Git("config", "core.gitProxy", "touch "+mark)
	t.Chdir(here.Dir)
	checkFile(t, mustFetch(t, s, Options{}, server.RepositoryURL("filter")+"?keep-git-dir"), "file", "x")
	checkAbsent(t, mark, "")
	for _, url := range []string{"ssh://-oProxyCommand=touch/x", "git://127.0.0.1:1/x"} {
		if _, err := fetch(t, s, Options{}, url); err == nil {
			t.Errorf("%s was fetched", url)
		}
	}
	checkAbsent(t, mark, "")
}

// TestGitDamaged: what is kept of a remote may be damaged, and is then made anew.
func TestGitDamaged(t *testing.T) {
	server, s := testutil.NewGitServer(t), newStore(t)
	w := server.Repository(t, "a")
	w.Commit("file", "one")
	for _, damage := range []func(name string, e fs.DirEntry) error{
		func(name string, _ fs.DirEntry) error {
			return errors.Join(os.Chmod(name, 0o600), os.Truncate(name, 3))
		},
		func(name string, _ fs.DirEntry) error { return os.Remove(name) },
	} {
		mustFetch(t, s, Options{}, server.RepositoryURL("a"))
		err := filepath.WalkDir(s.Path("cache", "git"), func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			return damage(name, e)
		})
		if err != nil {
			t.Fatal(err)
		}
		checkFile(t, mustFetch(t, s, Options{}, server.RepositoryURL("a")), "file", "one")
	}
}

// recordGit puts a git before the real one that writes down how it is called.
func recordGit(t *testing.T) (log string) {
	t.Helper()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	log = filepath.Join(dir, "log")
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >>%s\nexec %s \"$@\"\n", log, git)
	if err := os.WriteFile(filepath.Join(dir, "git"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return log
}

// search returns the files below dir that hold a text.
func search(t *testing.T, dir string, texts ...string) (hits []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(name)
		for _, text := range texts {
			if bytes.Contains(data, []byte(text)) {
				hits = append(hits, name)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return hits
}

func secrets(pairs ...string) func(string) ([]byte, bool, error) {
	return func(id string) ([]byte, bool, error) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == id {
				return []byte(pairs[i+1]), true, nil
			}
		}
		return nil, false, nil
	}
}

// TestGitAuth: credentials get to the server, and nowhere else.
func TestGitAuth(t *testing.T) {
	server := testutil.NewGitServer(t)
	server.Password = "hunter2secret"
	basic := base64.StdEncoding.EncodeToString([]byte("x-access-token:" + server.Password))
	inner := server.Repository(t, "inner")
	inner.Commit("i", "x")
	w := server.Repository(t, "a")
	w.Commit("file", "one")
	host := strings.TrimPrefix(server.URL, "http://")
	withUser := strings.Replace(server.RepositoryURL("a"), "://", "://x-access-token:"+server.Password+"@", 1)
	log := recordGit(t)
	for name, c := range map[string]struct {
		opts Options
		url  string
	}{
		"token":       {Options{Secret: secrets(gitTokenSecret, server.Password+"\n")}, server.RepositoryURL("a")},
		"host token":  {Options{Secret: secrets(gitTokenSecret+"."+host, server.Password, gitTokenSecret, "wrong")}, server.RepositoryURL("a")},
		"header":      {Options{Secret: secrets(gitHeaderSecret, "basic "+basic)}, server.RepositoryURL("a")},
		"host header": {Options{Secret: secrets(gitHeaderSecret+"."+host, "basic "+basic, gitTokenSecret+"."+host, "wrong")}, server.RepositoryURL("a")},
		"url":         {Options{}, withUser},
		"kept":        {Options{Secret: secrets(gitTokenSecret, server.Password)}, server.RepositoryURL("a") + "?keep-git-dir=1"},
	} {
		s := newStore(t)
		dir := mustFetch(t, s, c.opts, c.url)
		checkFile(t, dir, "file", "one")
		if hits := search(t, s.Path(), server.Password, basic); len(hits) > 0 {
			t.Errorf("%s: the secret is in %q", name, hits)
		}
	}
	if hits := search(t, filepath.Dir(log), server.Password, basic); len(hits) > 0 {
		t.Errorf("the secret was an argument of git")
	}
	for _, c := range []struct {
		opts Options
		url  string
	}{
		{Options{}, server.RepositoryURL("a")},
		{Options{Secret: secrets(gitTokenSecret, "wrongsecret")}, server.RepositoryURL("a")},
		{Options{Secret: secrets("GIT_AUTH_TOKEN.other.example.com", server.Password)}, server.RepositoryURL("a")},
		{Options{}, strings.Replace(withUser, server.Password, "wrongsecret", 1)},
		{Options{Secret: secrets(gitTokenSecret, "two\nlines")}, server.RepositoryURL("a")},
	} {
		_, err := fetch(t, newStore(t), c.opts, c.url)
		var hint interface{ Hint() string }
		if err == nil || strings.Contains(err.Error(), "wrongsecret") {
			t.Errorf("%s: %v", c.url, err)
		} else if !errors.As(err, &hint) && !strings.Contains(err.Error(), "several lines") {
			t.Errorf("%s: %v: no hint", c.url, err)
		}
	}
}

// TestGitAuthElsewhere: a server that sends elsewhere gets no credentials sent
// there, nor does a submodule's.
func TestGitAuthElsewhere(t *testing.T) {
	other, server := testutil.NewGitServer(t), testutil.NewGitServer(t)
	other.Repository(t, "b").Commit("file", "b")
	redirect := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.Replace(other.URL+r.URL.String(), "/a.git", "/b.git", 1), http.StatusMovedPermanently)
	}))
	defer redirect.Close()
	_, err := fetch(t, newStore(t), Options{Secret: secrets(gitTokenSecret, "token123")}, redirect.URL+"/a.git")
	var hint interface{ Hint() string }
	if err == nil || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "new URL") {
		t.Errorf("a redirect with credentials: %v", err)
	}
	if n := other.Requests.Load(); n != 0 {
		t.Errorf("%d requests went elsewhere, with %q", n, other.Header.Load())
	}
	checkFile(t, mustFetch(t, newStore(t), Options{}, redirect.URL+"/a.git"), "file", "b")

	server.Password = "token123"
	w := server.Repository(t, "a")
	w.Commit("file", "a")
	w.Git("submodule", "--quiet", "add", other.RepositoryURL("b"), "b")
	w.Commit()
	dir := mustFetch(t, newStore(t), Options{Secret: secrets(gitTokenSecret, "token123")}, server.RepositoryURL("a"))
	checkFile(t, dir, "b/file", "b")
	if h := other.Header.Load(); h != "" {
		t.Errorf("a submodule's server was sent %q", h)
	}
}

func TestGitMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := fetch(t, newStore(t), Options{}, "http://127.0.0.1:1/a.git")
	var hint interface{ Hint() string }
	if err == nil || !strings.Contains(err.Error(), "git is not installed") || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "install git") {
		t.Errorf("%v", err)
	}
}

// TestGitCancel: git and its helpers end with the build.
func TestGitCancel(t *testing.T) {
	testutil.Require(t, "git")
	asked, gone := make(chan struct{}), make(chan struct{})
	hang := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done() // the connection is closed: the helper is gone
		close(gone)
	}))
	defer hang.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := New(newStore(t), Options{}).ResolveGit(ctx, parseRef(t, hang.URL+"/a.git"), nil)
		done <- err
	}()
	<-asked
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want it cancelled", err)
	}
	select {
	case <-gone:
	case <-time.After(20 * time.Second):
		t.Error("the helper goes on")
	}
}

// TestGitProtocol fetches from git's own daemon.
func TestGitProtocol(t *testing.T) {
	server := testutil.NewGitServer(t)
	w := server.Repository(t, "a")
	first := w.Commit("file", "one")
	w.Commit("file", "two")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			daemon := exec.Command("git", "-c", "safe.directory=*", "daemon", "--inetd", "--export-all", "--base-path="+server.Dir)
			daemon.Stdin, daemon.Stdout = conn, conn
			go func() {
				defer conn.Close()
				_ = daemon.Run() // a client that failed tells more
			}()
		}
	}()
	url := "git://" + l.Addr().String() + "/a.git"
	checkFile(t, mustFetch(t, newStore(t), Options{}, url), "file", "two")
	checkFile(t, mustFetch(t, newStore(t), Options{}, url+"#"+first), "file", "one")
}

// TestOpenGit: a tree is made once, and stays as long as somebody uses it.
func TestOpenGit(t *testing.T) {
	server, s := testutil.NewGitServer(t), newStore(t)
	w := server.Repository(t, "a")
	first := w.Commit("file", "one", "sub/x", "x")
	url := server.RepositoryURL("a")
	log := recordGit(t)
	open := func(c *Client, ref string) string {
		t.Helper()
		dir, err := c.OpenGit(t.Context(), parseRef(t, url+ref), nil)
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	checkouts := func() int {
		t.Helper()
		data, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(data), "read-tree")
	}
	a, b := New(s, Options{}), New(s, Options{})
	dir := open(a, "#main")
	if again := open(b, "#main"); again != dir || checkouts() != 1 {
		t.Errorf("%s and %s after %d checkouts", dir, again, checkouts())
	}
	checkFile(t, dir, "file", "one")
	if other := open(a, "#main:sub"); other == dir || checkouts() != 2 {
		t.Errorf("a subdirectory is %s after %d checkouts", other, checkouts())
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	w.Commit("file", "two")
	c := New(s, Options{})
	next := open(c, "#main")
	checkFile(t, next, "file", "two")
	checkFile(t, dir, "file", "one") // a still uses it
	if filepath.Dir(next) != filepath.Dir(dir) {
		t.Errorf("%s is not beside %s", next, dir)
	}
	if err := errors.Join(a.Close(), c.Close()); err != nil {
		t.Fatal(err)
	}
	w.Commit("file", "three")
	d := New(s, Options{})
	defer d.Close()
	checkFile(t, open(d, "#main"), "file", "three")
	checkAbsent(t, dir, "")
	checkAbsent(t, next, "")
	requests := server.Requests.Load()
	open(d, "#"+first)
	if open(d, "#"+first); server.Requests.Load() != requests {
		t.Errorf("%d requests for a commit that is here", server.Requests.Load()-requests)
	}
	// Many at once make one.
	w.Commit("file", "four")
	before := checkouts()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			c := New(s, Options{})
			defer c.Close()
			if dir, err := c.OpenGit(t.Context(), parseRef(t, url), nil); err != nil {
				t.Error(err)
			} else {
				checkFile(t, dir, "file", "four")
			}
		})
	}
	all.Wait()
	if n := checkouts() - before; n != 1 {
		t.Errorf("%d checkouts", n)
	}
}
