// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"builder/internal/testutil"

	"github.com/opencontainers/go-digest"
)

// webServer serves bytes by path and counts.
type webServer struct {
	*httptest.Server
	mu     sync.Mutex
	files  map[string][]byte
	counts map[string]int // by method
}

func newWebServer(t *testing.T) *webServer {
	t.Helper()
	s := &webServer{files: map[string][]byte{}, counts: map[string]int{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.counts[r.Method]++
		data, ok := s.files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		etag := fmt.Sprintf("%q", digest.FromBytes(data).Encoded())
		w.Header().Set("ETag", etag)
		w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Write(data)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *webServer) put(path, data string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = []byte(data)
}

// count returns the number of requests since the last call.
func (s *webServer) count() (gets, heads int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gets, heads = s.counts["GET"], s.counts["HEAD"]
	clear(s.counts)
	return gets, heads
}

// tarOf makes an archive of files, pairs of names and contents, all 7:8.
func tarOf(t *testing.T, files ...string) string {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := 0; i < len(files); i += 2 {
		h := &tar.Header{Name: files[i], Mode: 0o640, Size: int64(len(files[i+1])), Uid: 7, Gid: 8, Typeflag: tar.TypeReg}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(files[i+1]))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

// oldTar makes an archive one of the format before POSIX: no magic, another
// checksum.
func oldTar(archive string) string {
	data := []byte(archive)
	for at := 0; data[at] != 0; {
		h := data[at : at+512]
		clear(h[257:])
		copy(h[148:156], "        ")
		sum := 0
		for _, b := range h {
			sum += int(b)
		}
		copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
		size, _ := strconv.ParseInt(strings.Trim(string(h[124:136]), " \x00"), 8, 64)
		at += 512 + int(size+511)/512*512
	}
	return string(data)
}

func gzipOf(t *testing.T, s string) string {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write([]byte(s))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

// listing is what "find" shows of a directory of an image, without times.
func (w *workbench) listing(image, dir string) string {
	w.t.Helper()
	script := fmt.Sprintf("cd %s && find . -exec stat -c '%%n %%a %%u:%%g' {} + | sort", dir)
	return strings.TrimSpace(w.ok("run", "--rm", image, "sh", "-c", script))
}

func (w *workbench) wantListing(image, dir string, want ...string) {
	w.t.Helper()
	if got := w.listing(image, dir); got != strings.Join(want, "\n") {
		w.t.Errorf("%s of %s:\n%s\nwant\n%s", dir, image, got, strings.Join(want, "\n"))
	}
}

func TestAddFile(t *testing.T) {
	w, web := newBench(t), newWebServer(t)
	web.put("/dir/file", "content")
	web.put("/pinned", "content")
	web.put("/", "top")
	web.put("/a*b c", "odd")
	archive := gzipOf(t, tarOf(t, "in", "inner"))
	web.put("/x.tar.gz", archive)
	w.write("local", "l")
	sum := digest.FromString("content")
	w.write("Dockerfile", strings.NewReplacer("URL", web.URL, "SUM", sum.String()).Replace(`FROM test/base
ADD URL/dir/file /plain
ADD URL/dir/file?query#fragment /dir/
ADD URL /dir/
ADD URL/a*b%20c /dir/
ADD --chmod=4750 --chown=user:staff URL/dir/file /dir/owned
ADD --checksum=SUM URL/pinned /dir/checked
ADD URL/x.tar.gz /dir/
ADD --unpack URL/x.tar.gz /dir/unpacked/
ADD --link URL/dir/file /linked/
ADD local URL/dir/file local <<EOF /mixed/
here
EOF
`))
	s := w.stats("-t", "app", ".")
	if s["steps"] != 10 || s["cached"] != 0 {
		t.Errorf("%d steps, %d cached", s["steps"], s["cached"])
	}
	w.wantListing("app", "/dir", ". 755 0:0", "./__unnamed__ 600 0:0", "./a*b c 600 0:0", "./checked 600 0:0", "./file 600 0:0",
		"./owned 4750 1000:50", "./unpacked 755 0:0", "./unpacked/in 640 7:8", "./x.tar.gz 600 0:0")
	w.wantListing("app", "/mixed", ". 755 0:0", "./EOF 644 0:0", "./file 600 0:0", "./local 644 0:0")
	w.wantListing("app", "/linked", ". 755 0:0", "./file 600 0:0")
	if got := w.ok("run", "--rm", "app", "sh", "-c", "stat -c %Y /plain; cat /plain /dir/unpacked/in"); got != "1136214245\ncontentinner" {
		t.Errorf("time and contents %q", got)
	}
	if history := w.ok("history", "--no-trunc", "app"); !strings.Contains(history, "ADD --chown=user:staff --chmod=4750 "+web.URL+"/dir/file /dir/owned # buildkit") {
		t.Errorf("history:\n%s", history)
	}
	// Each URL is fetched once.
	if gets, heads := web.count(); gets != 6 || heads != 0 {
		t.Errorf("%d GET and %d HEAD, want 6 and none", gets, heads)
	}
	s = w.stats("-t", "app", ".")
	if gets, heads := web.count(); s["cached"] != 10 || gets != 0 || heads != 5 {
		t.Errorf("again: %d steps cached, %d GET and %d HEAD, want 10, none and 5", s["cached"], gets, heads)
	}
	web.put("/dir/file", "other")
	s = w.stats("-t", "app", ".")
	if s["cached"] == 10 {
		t.Error("a file that was replaced did not count")
	}
	if got := w.ok("run", "--rm", "app", "cat", "/plain", "/dir/checked"); got != "othercontent" {
		t.Errorf("contents %q", got)
	}
}

// TestAddChecksum: with a checksum a build needs no network.
func TestAddChecksum(t *testing.T) {
	w, web := newBench(t), newWebServer(t)
	web.put("/f", "content")
	sum := digest.FromString("content").String()
	w.write("Dockerfile", "FROM test/base\nARG SUM\nADD --checksum=$SUM "+web.URL+"/f /\n")
	w.ok("build", "-t", "app", ".", "--build-arg", "SUM="+sum)
	web.count()
	if s := w.stats(".", "--build-arg", "SUM="+sum); s["cached"] != 1 {
		t.Error("the step was not cached")
	}
	if gets, heads := web.count(); gets+heads != 0 {
		t.Errorf("%d requests", gets+heads)
	}
	other := digest.FromString("other").String()
	w.fails(1, []string{"Dockerfile:3", "digest mismatch", sum, other, "hint:"}, "build", ".", "--build-arg", "SUM="+other)
	web.put("/f", "other")
	w.ok("build", "-t", "app", ".", "--build-arg", "SUM="+other)
	if got := w.ok("run", "--rm", "app", "cat", "/f"); got != "other" {
		t.Errorf("content %q", got)
	}
	// The file of the first digest is still here.
	web.count()
	w.ok("build", "-t", "app", "--no-cache", ".", "--build-arg", "SUM="+sum)
	if gets, heads := web.count(); gets+heads != 0 {
		t.Errorf("%d requests", gets+heads)
	}
	if got := w.ok("run", "--rm", "app", "cat", "/f"); got != "content" {
		t.Errorf("content %q", got)
	}
}

func TestAddWrong(t *testing.T) {
	w, web := newBench(t), newWebServer(t)
	web.put("/f", "content")
	sha512 := "sha512:" + strings.Repeat("ab", 64)
	for instruction, words := range map[string][]string{
		"COPY " + web.URL + "/f /":                                          {"can't be a URL for COPY", "use ADD"},
		"COPY https://127.0.0.1:1/x.git /":                                  {"can't be a git ref for COPY"},
		"COPY git@127.0.0.1:x /":                                            {"can't be a git ref for COPY"},
		"ADD " + web.URL + "/missing /":                                     {web.URL + "/missing", "404 Not Found"},
		"ADD --checksum=sha256:12 " + web.URL + "/f /":                      {"--checksum=sha256:12", "invalid checksum digest"},
		"ADD --checksum=" + sha512 + " " + web.URL + "/f /":                 {"sha512 is not supported, want sha256"},
		"ADD --checksum=sha256:" + strings.Repeat("ab", 32) + " f /":        {"checksum requires HTTP(S) or Git sources"},
		"ADD --checksum=sha256:" + strings.Repeat("ab", 32) + " f f /":      {"checksum can't be specified for multiple sources"},
		"ADD " + web.URL + "/%0A /":                                         {"no name for a file"},
		"ADD " + web.URL + "/a/.. /":                                        {"no name for a file"},
		"ADD http://127.0.0.1:x/ /":                                         {"invalid port"},
		"ADD http://127.0.0.1:1/x.git?depth=1 /":                            {`unexpected query "depth"`},
		"ADD --keep-git-dir=true http://127.0.0.1:1/x.git?keep-git-dir=0 /": {"inconsistent keep-git-dir configuration"},
		"ADD --checksum=ab http://127.0.0.1:1/x.git?checksum=cd /":          {"checksum mismatch"},
		"ADD --checksum=main http://127.0.0.1:1/x.git /":                    {`invalid checksum "main"`},
		"ADD http://127.0.0.1:1/x.git#--upload-pack=x /":                    {"invalid ref"},
		"ADD github.com/moby/buildkit /":                                    {`"/github.com/moby/buildkit": not found`},
	} {
		w.write("Dockerfile", "FROM test/base\n"+instruction+"\n")
		w.fails(1, append(words, "Dockerfile:2"), "build", ".")
	}
}

func TestAddGit(t *testing.T) {
	w, git := newBench(t), testutil.NewGitServer(t)
	repo := git.Repository(t, "a")
	first := repo.Commit("file", "one", "sub/x", "x1", "sub/y.log", "y")
	repo.Git("tag", "v1")
	repo.Commit("file", "two")
	dockerfile := strings.NewReplacer("URL", git.RepositoryURL("a"), "FIRST", first).Replace(`FROM test/base
ADD URL /main
ADD URL#v1 /v1/
ADD URL#FIRST:sub /sub
ADD --checksum=SHORT URL?tag=v1&subdir=sub /query/
ADD --exclude=*.log --chown=1:2 --chmod=u=rwX,go= URL#v1:sub /some/
ADD --keep-git-dir=true URL /kept
ADD --link URL?submodules=false&mtime=commit#v1 /linked
`)
	w.write("Dockerfile", strings.ReplaceAll(dockerfile, "SHORT", first[:9]))
	s := w.stats("-t", "app", ".")
	if s["steps"] != 7 {
		t.Errorf("%d steps", s["steps"])
	}
	w.wantListing("app", "/main", ". 755 0:0", "./file 644 0:0", "./sub 755 0:0", "./sub/x 644 0:0", "./sub/y.log 644 0:0")
	w.wantListing("app", "/sub", ". 755 0:0", "./x 644 0:0", "./y.log 644 0:0")
	w.wantListing("app", "/query", ". 755 0:0", "./x 644 0:0", "./y.log 644 0:0")
	w.wantListing("app", "/some", ". 755 1:2", "./x 600 1:2")
	got := w.ok("run", "--rm", "app", "sh", "-c", "cat /main/file /v1/file /linked/file /kept/file; ls -d /*/.git; stat -c %Y /linked/file")
	if got != "twooneonetwo/kept/.git\n1700000000\n" {
		t.Errorf("contents %q", got)
	}
	// A commit that changes nothing of what is added is a hit where it is
	// not named itself.
	repo.Commit("other", "x")
	repo.Git("tag", "-f", "v1")
	w.write("Dockerfile", "FROM test/base\nADD "+git.RepositoryURL("a")+"#main:sub /sub\n")
	w.stats(".")
	repo.Commit("other", "y")
	packs := git.Packs.Load()
	if s := w.stats("."); s["cached"] != 1 {
		t.Error("a commit elsewhere counted")
	}
	if git.Packs.Load() == packs {
		t.Error("the commit was not fetched")
	}
	requests := git.Requests.Load()
	w.write("Dockerfile", "FROM test/base\nADD "+git.RepositoryURL("a")+"#"+first+":sub /sub\n")
	if s := w.stats("."); s["cached"] != 1 || git.Requests.Load() != requests {
		t.Errorf("%d steps cached after %d requests, want one and none: the commit is known", s["cached"], git.Requests.Load()-requests)
	}
}

// TestContextKinds builds the same from every kind of context.
func TestContextKinds(t *testing.T) {
	w, git, web := newBench(t), testutil.NewGitServer(t), newWebServer(t)
	const text = "FROM test/base\nCOPY . /c\n"
	files := []string{
		"Dockerfile", text, "other/my.Dockerfile", text, "other/my.Dockerfile.dockerignore", "other\ndata\n",
		"data", "d", "junk", "j", ".dockerignore", "junk\n*ockerfile\nother\n.dockerignore\n",
	}
	// Ignore files count in directories only.
	const all = "./.dockerignore ./Dockerfile ./data ./junk ./other/my.Dockerfile ./other/my.Dockerfile.dockerignore "
	for i := 0; i < len(files); i += 2 {
		w.write("local/"+files[i], files[i+1])
	}
	w.write("outside.Dockerfile", text)
	repo := git.Repository(t, "r")
	repo.Commit(files...)
	var below []string
	for i, f := range files {
		if i%2 == 0 {
			f = "sub/dir/" + f
		}
		below = append(below, f)
	}
	repo.Git("checkout", "-q", "-b", "below")
	repo.Commit(below...)
	archive := tarOf(t, files...)
	web.put("/c.tar", archive)
	web.put("/c.tar.gz", gzipOf(t, archive))
	web.put("/my.Dockerfile", text)
	gitURL := git.RepositoryURL("r")
	build := func(stdin string, args ...string) (string, string) {
		t.Helper()
		cmd := w.command(append([]string{"build", "-t", "app"}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		r := w.finish(cmd)
		if r.code != 0 {
			t.Errorf("%q: exit code %d\n%s", args, r.code, r.stderr)
			return "", ""
		}
		return w.ok("run", "--rm", "app", "sh", "-c", "cd /c && find . -type f | sort | tr '\\n' ' '"), r.stderr
	}
	for _, c := range []struct {
		stdin string
		args  []string
		want  string
	}{
		{"", []string{"local"}, "./data "},
		{"", []string{gitURL + "#main"}, all},
		{"", []string{gitURL + "#below:sub/dir"}, all},
		{archive, []string{"-"}, all},
		{gzipOf(t, archive), []string{"-"}, all},
		{oldTar(archive), []string{"-"}, all},
		{"", []string{web.URL + "/c.tar"}, all},
		{"", []string{web.URL + "/c.tar.gz"}, all},
		{text, []string{"-f", "-", "local"}, "./data "},
		{text, []string{"-f", "-", gitURL + "#main"}, all},
		{text, []string{"-f", "-", web.URL + "/c.tar"}, all},
		{"", []string{"-f", web.URL + "/my.Dockerfile", "local"}, "./data "},
		{"", []string{"-f", web.URL + "/my.Dockerfile", gitURL + "#main"}, all},
		{archive, []string{"-f", web.URL + "/my.Dockerfile", "-"}, all},
		{archive, []string{"-f", "other/my.Dockerfile", "-"}, all},
		{"", []string{"-f", filepath.Join(w.dir, "outside.Dockerfile"), gitURL + "#main"}, all},
		{"", []string{"-f", "outside.Dockerfile", "local"}, "./data "},
		{"", []string{"-f", "local/other/my.Dockerfile", "local"}, "./.dockerignore ./Dockerfile ./junk "},
		{"", []string{"-f", "other/my.Dockerfile", gitURL + "#main"}, all},
		{"", []string{"-f", "other/my.Dockerfile", gitURL + "#below:sub/dir"}, all},
		{"", []string{"-f", "other/my.Dockerfile", web.URL + "/c.tar"}, all},
	} {
		if got, log := build(c.stdin, c.args...); got != c.want {
			t.Errorf("%q: the context held %q, want %q\n%s", c.args, got, c.want, log)
		}
	}
	if _, log := build("", gitURL+"#main"); !strings.Contains(log, "[internal] load git source "+gitURL+"#main") {
		t.Errorf("no vertex for the context:\n%s", log)
	}
	// An unchanged repository costs a question, and no file is read.
	settle(t, w)
	w.stats(gitURL + "#main")
	if s := w.stats(gitURL + "#main"); s["cached"] != 1 || s["filesHashed"] != 0 {
		t.Errorf("again: %v", s)
	}
	// A Dockerfile alone: from HTTP it is in the context, as in BuildKit.
	web.put("/alone", "FROM test/base\nCOPY context /c/\n")
	if got, _ := build("", web.URL+"/alone"); got != "./context " {
		t.Errorf("the context held %q", got)
	}
	build("FROM test/base\nCOPY <<EOF /c/\nx\nEOF\n", "-")
	build("", "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", gitURL+"#main")
	if got := w.ok("run", "--rm", "app", "sh", "-c", "ls -d /c/.git; stat -c %u:%g /c/data"); got != "/c/.git\n0:0\n" {
		t.Errorf("kept: %q", got)
	}
	build(archive, "-")
	if got := w.ok("run", "--rm", "app", "stat", "-c", "%u:%g", "/c/data"); got != "7:8\n" {
		t.Errorf("owner of an archive's file: %q", got)
	}
}

func TestContextWrong(t *testing.T) {
	w, git, web := newBench(t), testutil.NewGitServer(t), newWebServer(t)
	git.Repository(t, "r").Commit("file", "x")
	web.put("/Dockerfile", "FROM test/base\n")
	web.put("/big", strings.Repeat("#\n", maxDockerfile/2+1))
	bad := gzipOf(t, tarOf(t, "Dockerfile", "FROM test/base\n"))
	web.put("/broken.tar.gz", bad[:len(bad)-20])
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("[hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := git.Repository(t, "link")
	if err := os.Symlink(secret, filepath.Join(link.Dir, "Dockerfile")); err != nil {
		t.Fatal(err)
	}
	link.Commit()
	ignored := git.Repository(t, "ignored")
	if err := os.Symlink(secret, filepath.Join(ignored.Dir, ".dockerignore")); err != nil {
		t.Fatal(err)
	}
	ignored.Commit("Dockerfile", "FROM test/base\nCOPY . /c\n")
	for _, c := range []struct {
		code  int
		args  []string
		words []string
	}{
		{1, []string{git.RepositoryURL("r")}, []string{"Dockerfile is not in " + git.RepositoryURL("r"), "hint:"}},
		{1, []string{git.RepositoryURL("none")}, []string{git.RepositoryURL("none"), "not found"}},
		{1, []string{git.RepositoryURL("r") + "#nope"}, []string{`no branch or tag "nope"`}},
		{1, []string{git.RepositoryURL("r") + "#:nope"}, []string{`no directory "nope"`}},
		{1, []string{git.RepositoryURL("r") + "?depth=1"}, []string{`unexpected query "depth"`}},
		{1, []string{web.URL + "/none.tar"}, []string{"404 Not Found"}},
		{1, []string{web.URL + "/broken.tar.gz"}, []string{"unpack build context from " + web.URL + "/broken.tar.gz"}},
		{1, []string{web.URL + "/big"}, []string{"too many for a Dockerfile"}},
		{2, []string{"-f", "x", web.URL + "/Dockerfile"}, []string{"is a Dockerfile and no archive"}},
		{1, []string{"-f", web.URL + "/none", "."}, []string{web.URL + "/none", "404 Not Found"}},
		{2, []string{"--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=maybe", "."}, []string{"BUILDKIT_CONTEXT_KEEP_GIT_DIR"}},
		{1, []string{"file:///tmp/x.git"}, []string{`"file:///tmp/x.git"`, "no such file"}},
		{1, []string{git.RepositoryURL("link")}, []string{"Dockerfile"}},
	} {
		r := w.fails(c.code, c.words, append([]string{"build"}, c.args...)...)
		if strings.Contains(r.stderr, "hunter2") {
			t.Errorf("%q reads a file of this machine:\n%s", c.args, r.stderr)
		}
	}
	if r := w.run("build", git.RepositoryURL("ignored")); strings.Contains(r.stderr, "hunter2") {
		t.Errorf("an ignore file of this machine was read:\n%s", r.stderr)
	}
}

func TestNamedRemoteContexts(t *testing.T) {
	w, git, web := newBench(t), testutil.NewGitServer(t), newWebServer(t)
	git.Repository(t, "r").Commit("file", "from git", "sub/x", "x")
	web.put("/f", "from web")
	w.write("Dockerfile", `FROM test/base
COPY --from=repo file /g
COPY --from=sub . /sub
COPY --from=web context /w
RUN --mount=type=bind,from=repo,target=/m cat /m/file > /m.txt
`)
	w.ok("build", "-t", "app", ".", "--build-context", "repo="+git.RepositoryURL("r"),
		"--build-context", "sub="+git.RepositoryURL("r")+"#:sub", "--build-context", "web="+web.URL+"/f")
	if got := w.ok("run", "--rm", "app", "cat", "/g", "/m.txt", "/sub/x", "/w"); got != "from gitfrom gitxfrom web" {
		t.Errorf("contents %q", got)
	}
	w.fails(2, []string{"--build-context", `unexpected query "depth"`}, "build", ".", "--build-context", "x="+git.RepositoryURL("r")+"?depth=1")
	w.fails(1, []string{"named context repo", "404"}, "build", ".", "--build-context", "repo="+web.URL+"/none", "--build-context", "sub=.", "--build-context", "web=.")
}

// TestRemoteSecrets: credentials fetch, and are nowhere afterwards.
func TestRemoteSecrets(t *testing.T) {
	w, git := newBench(t), testutil.NewGitServer(t)
	git.Password = "s3cretToken77"
	git.Repository(t, "r").Commit("Dockerfile", "FROM test/base\nADD URL#main /r\n", "file", "x")
	repo := testutil.OpenWorktree(t, filepath.Join(git.Dir, "r.git"))
	web := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+git.Password {
			http.Error(rw, "no", http.StatusUnauthorized)
			return
		}
		fmt.Fprint(rw, "from web")
	}))
	defer web.Close()
	url := git.RepositoryURL("r")
	repo.Commit("Dockerfile", "FROM test/base\nADD "+url+"#main /r\nADD "+web.URL+"/f /f\n")
	w.write("token", git.Password+"\n")
	for _, words := range [][]string{{"--secret", "id=GIT_AUTH_TOKEN,src=token"}, {"--secret", "id=HTTP_AUTH_TOKEN_127.0.0.1,src=token"}, nil} {
		w.fails(1, []string{"hint: "}, append([]string{"build", url + "#main"}, words...)...)
	}
	r := w.run("build", "-t", "app", "--secret", "id=GIT_AUTH_TOKEN,src=token", "--secret", "id=HTTP_AUTH_TOKEN_127.0.0.1,src=token", url+"#main")
	if r.code != 0 || strings.Contains(r.stderr, git.Password) {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
	if got := w.ok("run", "--rm", "app", "cat", "/r/file", "/f"); got != "xfrom web" {
		t.Errorf("contents %q", got)
	}
	err := filepath.WalkDir(w.root, func(name string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(name)
		for _, text := range []string{git.Password, base64.StdEncoding.EncodeToString([]byte("x-access-token:" + git.Password))} {
			if bytes.Contains(data, []byte(text)) {
				t.Errorf("%s has the secret", name)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestRemoteSSH fetches by SSH with the keys that a build is given.
func TestRemoteSSH(t *testing.T) {
	server := testutil.NewSSHServer(t)
	w, git := newBench(t), testutil.NewGitServer(t)
	repo := git.Repository(t, "r")
	url := fmt.Sprintf("ssh://%s@127.0.0.1:%s%s/r.git", server.User, server.Port, git.Dir)
	repo.Commit("Dockerfile", "FROM test/base\nADD "+url+" /r/\n", "file", "x")
	t.Setenv("SSH_AUTH_SOCK", "")
	w.fails(1, []string{"Permission denied", "hint: give the build an SSH agent"}, "build", url)
	w.ok("build", "-t", "app", "--ssh", "default="+server.File("key"), url)
	if got := w.ok("run", "--rm", "app", "cat", "/r/file"); got != "x" {
		t.Errorf("content %q", got)
	}
	w.fails(1, []string{"Permission denied"}, "build", "--ssh", "default="+server.File("other"), url)
	w.write("Dockerfile", "FROM test/base\nADD "+url+" /r/\n")
	t.Setenv("SSH_AUTH_SOCK", server.Agent(t))
	w.ok("build", "--no-cache", url) // a context by SSH is given the agent that there is
	w.fails(1, []string{"Permission denied"}, "build", ".")
	w.ok("build", "--ssh", "default", ".")
}

// TestRemoteProxy: fetching goes through the proxy that the environment names.
func TestRemoteProxy(t *testing.T) {
	w, git := newBench(t), testutil.NewGitServer(t)
	git.Repository(t, "r").Commit("file", "from git")
	var hosts sync.Map
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		hosts.Store(r.URL.Host, true)
		if r.URL.Host == "git.example.invalid" {
			git.Config.Handler.ServeHTTP(rw, r)
			return
		}
		fmt.Fprint(rw, "from web")
	}))
	defer proxy.Close()
	t.Setenv("http_proxy", proxy.URL)
	w.write("Dockerfile", "FROM test/base\nADD http://web.example.invalid/f /f\nADD http://git.example.invalid/r.git /r\n")
	w.ok("build", "-t", "app", ".")
	if got := w.ok("run", "--rm", "app", "cat", "/f", "/r/file"); got != "from webfrom git" {
		t.Errorf("contents %q", got)
	}
	for _, host := range []string{"web.example.invalid", "git.example.invalid"} {
		if _, ok := hosts.Load(host); !ok {
			t.Errorf("the proxy was not asked for %s", host)
		}
	}
}
