// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"builder/store"

	"github.com/opencontainers/go-digest"
)

// fileServer serves one file and counts.
type fileServer struct {
	*httptest.Server
	mu      sync.Mutex
	body    string
	etag    string
	counts  map[string]int // by method, "304" for those answered so
	headers []http.Header
	fault   func(n int, w http.ResponseWriter, r *http.Request) bool // true if it answered
}

func newFileServer(t *testing.T, body, etag string) *fileServer {
	t.Helper()
	s := &fileServer{body: body, etag: etag, counts: map[string]int{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *fileServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[r.Method]++
	s.headers = append(s.headers, r.Header.Clone())
	if s.fault != nil && s.fault(s.counts[r.Method], w, r) {
		return
	}
	w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
	if s.etag != "" {
		w.Header().Set("ETag", s.etag)
		if r.Header.Get("If-None-Match") == strongTag(s.etag) {
			s.counts["304"]++
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	fmt.Fprint(w, s.body)
}

func (s *fileServer) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[what]
}

func (s *fileServer) set(body, etag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.body, s.etag = body, etag
}

// download resolves and fetches a file with a client of its own, as a build does.
func download(t *testing.T, s *store.Store, opts Options, url string, checksum digest.Digest) (string, error) {
	t.Helper()
	opts.Backoff = time.Millisecond
	c := New(s, opts)
	d, err := c.ResolveFile(t.Context(), url, checksum, nil)
	if err != nil {
		return "", err
	}
	temp, err := s.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(temp, "x")
	if err := c.FetchFile(t.Context(), url, checksum, name, nil); err != nil {
		return "", err
	}
	data, err := os.ReadFile(name)
	if err != nil || digest.FromBytes(data) != d {
		t.Errorf("the file's digest is not %s: %v", d, err)
	}
	fi, err := os.Stat(name)
	if err != nil || fi.Mode() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	return string(data), nil
}

func wantDownload(t *testing.T, s *store.Store, url string, checksum digest.Digest, want string) {
	t.Helper()
	got, err := download(t, s, Options{}, url, checksum)
	if err != nil || got != want {
		t.Errorf("%s: %q, %v; want %q", url, got, err, want)
	}
}

func TestFileRevalidation(t *testing.T) {
	for _, etag := range []string{`"one"`, `W/"one"`} {
		server, s := newFileServer(t, "first", etag), newStore(t)
		for range 3 {
			wantDownload(t, s, server.URL+"/f", "", "first")
		}
		if g, h := server.count("GET"), server.count("HEAD"); g != 1 || h != 2 {
			t.Errorf("%s: %d GET and %d HEAD, want 1 and 2", etag, g, h)
		}
		server.set("second", `"two"`)
		for range 2 {
			wantDownload(t, s, server.URL+"/f", "", "second")
		}
		if g := server.count("GET"); g != 2 {
			t.Errorf("%s: %d GET, want 2", etag, g)
		}
		files, err := filepath.Glob(s.Path("cache", "http", "*", "*"))
		if err != nil || len(files) != 2 {
			t.Errorf("kept: %q, want the last file and its record", files)
		}
	}
	server, s := newFileServer(t, "x", ""), newStore(t)
	for range 2 {
		wantDownload(t, s, server.URL+"/f", "", "x")
	}
	if g, h := server.count("GET"), server.count("HEAD"); g != 2 || h != 0 {
		t.Errorf("without an ETag %d GET and %d HEAD, want 2 and 0", g, h)
	}
}

// TestFileRevalidationOdd: servers that know ETags by halves.
func TestFileRevalidationOdd(t *testing.T) {
	for name, fault := range map[string]func(int, http.ResponseWriter, *http.Request) bool{
		"no HEAD": func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodHead {
				w.WriteHeader(http.StatusMethodNotAllowed)
			}
			return r.Method == http.MethodHead
		},
		"304 without ETag": func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n > 1 || r.Method == http.MethodHead {
				w.WriteHeader(http.StatusNotModified)
				return true
			}
			return false
		},
		"ignores If-None-Match": func(_ int, _ http.ResponseWriter, r *http.Request) bool {
			r.Header.Del("If-None-Match")
			return false
		},
	} {
		server, s := newFileServer(t, "x", `"one"`), newStore(t)
		server.fault = fault
		for range 2 {
			wantDownload(t, s, server.URL+"/f", "", "x")
		}
		if g := server.count("GET"); g != 1 && server.count("304") == 0 {
			t.Errorf("%s: fetched %d times", name, g)
		}
	}
}

func TestFileTimes(t *testing.T) {
	server, s := newFileServer(t, "x", ""), newStore(t)
	bare := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "x") }))
	defer bare.Close()
	for url, want := range map[string]int64{server.URL: 1136214245, bare.URL: 0} {
		temp, err := s.TempDir()
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(temp, "x")
		if err := New(s, Options{}).FetchFile(t.Context(), url, "", name, nil); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(name); err != nil || fi.ModTime().Unix() != want {
			t.Errorf("time %v, %v; want %d", fi.ModTime(), err, want)
		}
	}
}

func TestFileChecksum(t *testing.T) {
	server, s := newFileServer(t, "content", ""), newStore(t)
	url, sum := server.URL+"/f", digest.FromString("content")
	if _, err := New(s, Options{}).ResolveFile(t.Context(), url, sum, nil); err != nil || server.count("GET") != 0 {
		t.Errorf("%v after %d requests: resolving a checksum needs none", err, server.count("GET"))
	}
	for range 2 {
		wantDownload(t, s, url, sum, "content")
	}
	if g, h := server.count("GET"), server.count("HEAD"); g != 1 || h != 0 {
		t.Errorf("%d GET and %d HEAD, want one", g, h)
	}
	// What was pinned stays, whatever the server has now.
	server.set("changed", "")
	wantDownload(t, s, url, "", "changed")
	wantDownload(t, s, url, sum, "content")
	wantDownload(t, s, url, digest.FromString("changed"), "changed")
	if g := server.count("GET"); g != 2 {
		t.Errorf("%d GET, want another one", g)
	}
	server.set("content", "")
	wrong := digest.FromString("other")
	_, err := download(t, s, Options{}, url+"2", wrong)
	var mismatch *ChecksumError
	if !errors.As(err, &mismatch) || mismatch.Got != sum || mismatch.Want != wrong {
		t.Errorf("%v, want both digests", err)
	}
	if hits := search(t, s.Path("cache", "http", nameOf(url+"2"))); len(hits) != 0 {
		t.Errorf("%q was kept", hits)
	}
	if g := server.count("GET"); g != 3 {
		t.Errorf("a wrong digest is no reason to try again: %d GET", g)
	}
}

// TestFileOneState: within a build a URL has one content.
func TestFileOneState(t *testing.T) {
	server, s := newFileServer(t, "before", `"1"`), newStore(t)
	c := New(s, Options{})
	d, err := c.ResolveFile(t.Context(), server.URL, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	server.set("after", `"2"`)
	wantDownload(t, s, server.URL, "", "after") // another build meanwhile
	temp, err := s.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.FetchFile(t.Context(), server.URL, "", filepath.Join(temp, "x"), nil); err != nil {
		t.Fatal(err)
	}
	checkFile(t, temp, "x", "before")
	if d != digest.FromString("before") {
		t.Error(d)
	}
}

func TestFileFaults(t *testing.T) {
	status := func(code, times int) func(int, http.ResponseWriter, *http.Request) bool {
		return func(n int, w http.ResponseWriter, _ *http.Request) bool {
			if n <= times {
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(code)
			}
			return n <= times
		}
	}
	breakOff := func(n int, w http.ResponseWriter, _ *http.Request) bool {
		if n == 1 {
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("part"))
		}
		return n == 1
	}
	chunked := func(n int, w http.ResponseWriter, _ *http.Request) bool {
		if n > 1 {
			return false
		}
		w.Write([]byte("part"))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	for name, c := range map[string]struct {
		fault func(int, http.ResponseWriter, *http.Request) bool
		want  string // of the error
		gets  int
	}{
		"404":            {status(404, 100), "404 Not Found", 1},
		"401":            {status(401, 100), "401", 1},
		"500":            {status(500, 100), "500", 4},
		"503, then well": {status(503, 2), "", 3},
		"429, then well": {status(429, 1), "", 2},
		"304 unasked":    {status(304, 100), "304", 1},
		"short":          {breakOff, "", 2},
		"short chunks":   {chunked, "", 2},
		"redirects in circles": {func(_ int, w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
			return true
		}, "more than 10 redirects", 10},
		"redirect to a file": {func(_ int, w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(302)
			return true
		}, "unsupported protocol", 1},
	} {
		t.Run(name, func(t *testing.T) {
			server, s := newFileServer(t, "whole", ""), newStore(t)
			server.Config.ErrorLog = nil
			server.fault = c.fault
			got, err := download(t, s, Options{}, server.URL+"/f", "")
			if c.want == "" && (err != nil || got != "whole") || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%q, %v; want %q", got, err, c.want)
			}
			if n := server.count("GET"); n != c.gets {
				t.Errorf("%d requests, want %d", n, c.gets)
			}
		})
	}
	_, err := download(t, newStore(t), Options{MaxSize: 3}, newFileServer(t, "long", "").URL, "")
	if err == nil || !strings.Contains(err.Error(), "more than the limit of 3") {
		t.Errorf("too large: %v", err)
	}
	endless := newFileServer(t, "", "")
	endless.fault = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		for r.Context().Err() == nil {
			w.Write(make([]byte, 1<<10))
		}
		return true
	}
	if _, err := download(t, newStore(t), Options{MaxSize: 1 << 16}, endless.URL, ""); err == nil || !strings.Contains(err.Error(), "more than 65536 bytes") {
		t.Errorf("endless: %v", err)
	}
}

// TestFileStall: a server that says nothing any more is given up, and asked
// again.
func TestFileStall(t *testing.T) {
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) > 1 {
			fmt.Fprint(w, "whole")
			return
		}
		w.Write([]byte("part"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	got, err := download(t, newStore(t), Options{Stall: 300 * time.Millisecond}, server.URL, "")
	if err != nil || got != "whole" || n.Load() < 2 {
		t.Errorf("%q, %v after %d requests", got, err, n.Load())
	}
}

func TestFileCancel(t *testing.T) {
	asked := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := New(newStore(t), Options{}).ResolveFile(ctx, server.URL, "", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want it cancelled", err)
	}
}

// TestFileEncoding: what is compressed for the transport is not so in the file.
func TestFileEncoding(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		fmt.Fprint(z, "plain")
	}))
	defer server.Close()
	wantDownload(t, newStore(t), server.URL, "", "plain")
}

// TestFileAuth: credentials go to their host and not beyond a redirect.
func TestFileAuth(t *testing.T) {
	other := newFileServer(t, "there", "")
	server := newFileServer(t, "here", `"1"`)
	server.fault = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case "/same":
			http.Redirect(w, r, "/f", http.StatusFound)
		case "/other":
			http.Redirect(w, r, other.URL, http.StatusFound) // the same host, another port
		default:
			return false
		}
		return true
	}
	host := "127.0.0.1"
	for name, c := range map[string]struct{ id, value, want string }{
		"header": {headerSecret + host, "Basic abcdefgh\n", "Basic abcdefgh"},
		"token":  {tokenSecret + host, "abcdefgh", "Bearer abcdefgh"},
	} {
		s := newStore(t)
		opts := Options{Secret: secrets(c.id, c.value)}
		for _, path := range []string{"/f", "/f", "/same"} {
			if got, err := download(t, s, opts, server.URL+path, ""); err != nil || got != "here" {
				t.Errorf("%s %s: %q, %v", name, path, got, err)
			}
		}
		for _, h := range server.headers {
			if got := h.Get("Authorization"); got != c.want {
				t.Errorf("%s: the server was sent %q, want %q", name, got, c.want)
			}
		}
		if got, err := download(t, s, opts, server.URL+"/other", ""); err != nil || got != "there" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		for _, h := range other.headers {
			if got := h.Get("Authorization"); got != "" {
				t.Errorf("%s: another server was sent %q", name, got)
			}
		}
		if hits := search(t, s.Path(), "abcdefgh"); len(hits) > 0 {
			t.Errorf("%s: the secret is in %q", name, hits)
		}
		server.headers, other.headers = nil, nil
	}
	_, err := download(t, newStore(t), Options{Secret: secrets(headerSecret+host, "a\nb")}, server.URL, "")
	if err == nil || !strings.Contains(err.Error(), "several lines") {
		t.Errorf("%v", err)
	}
	if _, err := download(t, newStore(t), Options{}, strings.Replace(server.URL, "://", "://me:password@", 1)+"/\x7f", ""); err == nil || strings.Contains(err.Error(), "password") {
		t.Errorf("%v", err)
	}
	if _, err := download(t, newStore(t), Options{}, "http://me:password@127.0.0.1:1/", ""); err == nil || strings.Contains(err.Error(), "password") {
		t.Errorf("%v", err)
	}
}
