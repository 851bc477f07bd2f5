// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/image"
	"builder/internal/testutil"
	"builder/progress"
	"builder/store"
)

// makeImage puts a random image into a store, and names it if it gets a name.
func makeImage(t *testing.T, s *store.Store, sp spec, name string) ocispec.Descriptor {
	t.Helper()
	manifestType, configType, layerType := sp.types()
	if sp.platform.OS == "" {
		sp.platform = image.HostPlatform()
	}
	conf := image.Config{}
	conf.Platform = sp.platform
	conf.RootFS.Type = "layers"
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: manifestType}
	for i := range sp.layers {
		blob, diffID := randomLayer(t, sp.seed*1000+uint64(i), sp.size)
		m.Layers = append(m.Layers, putBlob(t, s, layerType, blob))
		conf.RootFS.DiffIDs = append(conf.RootFS.DiffIDs, diffID)
	}
	m.Config = putBlob(t, s, configType, mustJSON(t, conf))
	desc := putBlob(t, s, manifestType, mustJSON(t, m))
	desc.Platform = &sp.platform
	if name != "" {
		if err := s.Tag(desc, name); err != nil {
			t.Fatal(err)
		}
	}
	return desc
}

func putBlob(t *testing.T, s *store.Store, mediaType string, data []byte) ocispec.Descriptor {
	t.Helper()
	desc, err := s.PutBlob(mediaType, data)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func makeIndex(t *testing.T, s *store.Store, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return putBlob(t, s, ocispec.MediaTypeImageIndex, mustJSON(t, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests,
	}))
}

func push1(t *testing.T, c *Client, s *store.Store, ref image.Ref, desc ocispec.Descriptor) {
	t.Helper()
	if err := c.Push(t.Context(), s, ref, desc, nil, ""); err != nil {
		t.Fatal(err)
	}
}

// tagsOf are the tags of a repository, none if it isn't there.
func tagsOf(t *testing.T, srv *server, repo string) []string {
	t.Helper()
	resp, err := http.Get("http://" + srv.host + "/v2/" + repo + "/tags/list")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list struct{ Tags []string }
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	return list.Tags
}

func TestPush(t *testing.T) {
	srv := startServer(t, "")
	s, c := openStore(t), testClient()
	arm := image.Platform{OS: "linux", Architecture: "arm64"}
	one := makeImage(t, s, spec{seed: 1, layers: 3, size: 100 << 10}, "")
	index := makeIndex(t, s, one, makeImage(t, s, spec{seed: 2, layers: 2, size: 10, platform: arm}, ""))
	for _, tt := range []struct {
		name     string
		desc     ocispec.Descriptor
		tags     int
		platform image.Platform
	}{
		{"team/one:1", one, 1, image.HostPlatform()},
		{"docker:latest", makeImage(t, s, spec{seed: 3, layers: 2, size: 10, docker: true}, ""), 1, image.HostPlatform()},
		{"empty:latest", makeImage(t, s, spec{seed: 4}, ""), 1, image.HostPlatform()},
		{"index:1", index, 1, image.HostPlatform()},
		{"index-arm:1", index, 1, arm},
		{"digest@" + index.Digest.String(), index, 0, arm},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ref := srv.ref(t, tt.name)
			push1(t, c, s, ref, tt.desc)
			if tags := tagsOf(t, srv, ref.Repository); len(tags) != tt.tags {
				t.Errorf("tags %v, want %d", tags, tt.tags)
			}
			ref.Digest = tt.desc.Digest // what is there is what was sent
			back := openStore(t)
			desc, err := c.Pull(t.Context(), back, ref, tt.platform, nil, "")
			if err != nil {
				t.Fatal(err)
			}
			checkImage(t, back, desc, tt.platform)
		})
	}
	testutil.Require(t, "skopeo")
	out := filepath.Join(t.TempDir(), "out")
	got, err := exec.Command("skopeo", "--insecure-policy", "copy", "-q", "--all", "--src-tls-verify=false", "docker://"+srv.host+"/index:1", "dir:"+out).CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo copy: %v\n%s", err, got)
	}
	if data, err := os.ReadFile(filepath.Join(out, "manifest.json")); err != nil || digest.FromBytes(data) != index.Digest {
		t.Errorf("skopeo read another index (%v)", err)
	}
}

// sent counts the requests of a kind that a proxy saw.
func (p *proxy) sent(method, part string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, r := range p.requests {
		if r.Method == method && strings.Contains(r.URL.String(), part) {
			n++
		}
	}
	return n
}

// TestPushSendsNothingTwice: what the repository has stays there, and what
// another one has is mounted.
func TestPushSendsNothingTwice(t *testing.T) {
	srv := startServer(t, "")
	p := startProxy(t, srv, httptest.NewServer, nil)
	s, c := openStore(t), testClient()
	base := mustRef(t, p.host()+"/team/base:1")
	desc := makeImage(t, s, spec{seed: 1, layers: 2, size: 1000}, base.String())
	push1(t, c, s, base, desc)
	const upload = "/blobs/uploads/"
	if n := p.sent("PUT", upload); n != 3 {
		t.Errorf("%d blobs sent, want 3", n)
	}
	push1(t, c, s, mustRef(t, p.host()+"/team/base:2"), desc)
	if n := p.sent("PUT", upload); n != 3 {
		t.Errorf("%d blobs sent by a second push", n-3)
	}
	// The layers of another image come from the first one's repository.
	var mu sync.Mutex
	var amounts []string
	sink := sinkFunc(func(e progress.Event) {
		if e.Status != nil && e.Status.Done {
			mu.Lock()
			defer mu.Unlock()
			amounts = append(amounts, e.Status.Action)
		}
	})
	child := makeImage(t, s, spec{seed: 1, layers: 3, size: 1000}, "")
	if err := c.Push(t.Context(), s, mustRef(t, p.host()+"/app"), child, &sink, "v"); err != nil {
		t.Fatal(err)
	}
	if n := p.sent("PUT", upload); n != 5 {
		t.Errorf("%d blobs of the child sent, want its config and one layer", n-3)
	}
	if n := p.sent("POST", "from=team%2Fbase"); n != 2 {
		t.Errorf("%d blobs asked to be mounted, want 2", n)
	}
	if n := strings.Count(strings.Join(amounts, "\n"), "mounted from team/base"); n != 2 || len(amounts) != 4 {
		t.Errorf("told: %q", amounts)
	}
	// An image of that name that was never pushed is a wrong hint only.
	makeImage(t, s, spec{seed: 7, layers: 1, size: 1000}, p.host()+"/never/pushed:1")
	other := makeImage(t, s, spec{seed: 7, layers: 1, size: 1000}, "")
	push1(t, c, s, mustRef(t, p.host()+"/app2"), other)
}

type sinkFunc func(progress.Event)

func (f *sinkFunc) Event(e progress.Event) { (*f)(e) }

func pushErr(t *testing.T, opts Options, name string) error {
	t.Helper()
	s := openStore(t)
	return New(opts).Push(t.Context(), s, mustRef(t, name), makeImage(t, s, spec{seed: 9, layers: 2, size: 100}, ""), nil, "")
}

func TestPushAuth(t *testing.T) {
	srv := startWithPassword(t)
	login(t, auths("other.example", "secret"))
	checkErr(t, pushErr(t, testOptions(), srv.host+"/p:1"), ErrDenied, "push "+srv.host+"/p:1: blob sha256:", "builder login")
	login(t, auths(srv.host, "wrong"))
	checkErr(t, pushErr(t, testOptions(), srv.host+"/p:1"), ErrDenied, "access denied by "+srv.host, "builder login")
	login(t, auths(srv.host, "secret"))
	if err := pushErr(t, testOptions(), srv.host+"/p:1"); err != nil {
		t.Error(err)
	}
	bin := t.TempDir()
	script := "#!/bin/sh\nread host\n[ \"$1 $host\" = \"get " + srv.host + "\" ] || exit 1\necho '{\"Username\":\"user\",\"Secret\":\"secret\"}'\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	login(t, map[string]any{"credHelpers": map[string]string{srv.host: "test"}})
	if err := pushErr(t, testOptions(), srv.host+"/q:1"); err != nil {
		t.Error(err)
	}
}

func TestPushToken(t *testing.T) {
	srv := startServer(t, "")
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	var scopes atomic.Int32
	p := startProxy(t, srv, httptest.NewServer, func(w http.ResponseWriter, r *http.Request, n int, a answer) bool {
		if r.URL.Path == "/token" {
			if strings.Contains(r.URL.Query().Get("scope"), "push") {
				scopes.Add(1)
				io.WriteString(w, `{"token":"push"}`)
			} else {
				io.WriteString(w, `{"token":"pull"}`)
			}
			return true
		}
		have := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if reading := r.Method == "HEAD" || r.Method == "GET"; have == "push" || reading && have == "pull" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="svc",scope="repository:a:pull,push"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	if err := pushErr(t, testOptions(), p.host()+"/a:1"); err != nil {
		t.Error(err)
	}
	if scopes.Load() == 0 {
		t.Error("no token for pushing was asked for")
	}
}

func TestPushFails(t *testing.T) {
	srv := startServer(t, "")
	answerWith := func(status int, body string, when func(*http.Request) bool) string {
		return startProxy(t, srv, httptest.NewServer, func(w http.ResponseWriter, r *http.Request, n int, a answer) bool {
			if !when(r) {
				return false
			}
			code(status, body)(w, r, a)
			return true
		}).host()
	}
	writes := func(r *http.Request) bool { return r.Method == "PUT" || r.Method == "PATCH" || r.Method == "POST" }
	manifests := func(r *http.Request) bool { return r.Method == "PUT" && strings.Contains(r.URL.Path, "/manifests/") }
	body := func(code, message string) string {
		return `{"errors":[{"code":"` + code + `","message":"` + message + `"}]}`
	}
	checkErr(t, pushErr(t, testOptions(), "127.0.0.1:1/a"), ErrUnreachable, "connect to 127.0.0.1:1", "")
	host := answerWith(403, body("DENIED", "read only"), writes)
	checkErr(t, pushErr(t, testOptions(), host+"/a"), ErrDenied, "access denied by "+host+" (read only)", "builder login")
	host = answerWith(404, body("NAME_UNKNOWN", "no such project"), writes)
	checkErr(t, pushErr(t, testOptions(), host+"/a"), ErrNotFound, "not found at "+host+" (no such project)", "")
	host = answerWith(503, "", writes)
	checkErr(t, pushErr(t, testOptions(), host+"/a"), ErrServer, "503 Service Unavailable", "")
	host = answerWith(400, body("MANIFEST_INVALID", "bad manifest"), manifests)
	checkErr(t, pushErr(t, testOptions(), host+"/a"), ErrServer, "manifest sha256:", "")

	s, c := openStore(t), testClient()
	desc := makeImage(t, s, spec{seed: 1, layers: 1, size: 1000}, "")
	img, err := s.Image(desc, image.HostPlatform())
	if err != nil {
		t.Fatal(err)
	}
	path := s.Path("blobs", "sha256", img.Manifest.Layers[0].Digest.Encoded())
	if err := os.WriteFile(path, make([]byte, img.Manifest.Layers[0].Size), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Push(t.Context(), s, srv.ref(t, "x"), desc, nil, ""); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("damaged blob: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := c.Push(t.Context(), s, srv.ref(t, "x"), desc, nil, ""); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("missing blob: %v", err)
	}
	if err := c.Push(t.Context(), s, srv.ref(t, "x"), makeIndex(t, s), nil, ""); !errors.Is(err, image.ErrInvalid) {
		t.Errorf("empty index: %v", err)
	}
	if tags := tagsOf(t, srv, "x"); len(tags) != 0 {
		t.Errorf("a failed push left the tags %v", tags)
	}
}

// TestPushFaults pushes through a proxy that spoils the first answers of
// everything that is sent.
func TestPushFaults(t *testing.T) {
	srv := startServer(t, "")
	for name, f := range map[string]fault{
		"500": code(500, ""), "503": code(503, ""), "429": code(429, ""), "reset": reset(0), "breaks off": breakOff(0),
	} {
		t.Run(name, func(t *testing.T) {
			var spoiled atomic.Int32
			p := startProxy(t, srv, httptest.NewServer, func(w http.ResponseWriter, r *http.Request, n int, a answer) bool {
				if r.Method == "HEAD" || r.Method == "GET" || n > 1 {
					return false
				}
				spoiled.Add(1)
				f(w, r, a)
				return true
			})
			s, c := openStore(t), testClient()
			desc := makeImage(t, s, spec{seed: 5, layers: 2, size: 100 << 10}, "")
			ref := mustRef(t, p.host()+"/"+strings.ReplaceAll(name, " ", "")+":1")
			push1(t, c, s, ref, desc)
			if spoiled.Load() == 0 {
				t.Error("nothing was spoiled")
			}
			back := openStore(t)
			got, err := c.Pull(t.Context(), back, ref, image.Platform{}, nil, "")
			if err != nil {
				t.Fatal(err)
			}
			checkImage(t, back, got, image.HostPlatform())
		})
	}
}

// TestPushSlow: a server that takes the bytes slowly has not stalled.
func TestPushSlow(t *testing.T) {
	srv := startServer(t, "")
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		up := &proxy{upstream: srv.host}
		if r.Method == "PUT" && r.ContentLength > 1<<20 {
			r.Body = struct {
				io.Reader
				io.Closer
			}{slowReader{r.Body}, r.Body}
		}
		up.handle(w, r)
	}))
	t.Cleanup(slow.Close)
	opts := testOptions()
	opts.Stall = 400 * time.Millisecond
	s := openStore(t)
	desc := makeImage(t, s, spec{seed: 6, layers: 1, size: 24 << 20}, "")
	if err := New(opts).Push(t.Context(), s, mustRef(t, slow.Listener.Addr().String()+"/a:1"), desc, nil, ""); err != nil {
		t.Error(err)
	}
}

type slowReader struct{ r io.Reader }

func (s slowReader) Read(p []byte) (int, error) {
	n, err := io.ReadFull(s.r, p[:min(len(p), 1<<20)])
	if err == io.ErrUnexpectedEOF {
		err = nil
	}
	time.Sleep(time.Duration(n) * 30 * time.Millisecond >> 20)
	return n, err
}

func TestPushCancel(t *testing.T) {
	srv := startServer(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	p := startProxy(t, srv, httptest.NewServer, func(w http.ResponseWriter, r *http.Request, n int, a answer) bool {
		if r.Method != "PUT" {
			return false
		}
		cancel()
		hang(-1)(w, r, a)
		return true
	})
	s := openStore(t)
	err := testClient().Push(ctx, s, mustRef(t, p.host()+"/a:1"), makeImage(t, s, spec{seed: 8, layers: 1, size: 10}, ""), nil, "")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled push: %v", err)
	}
}

// TestPushResumed pushes a layer over a connection that breaks whenever more than
// a few megabytes go in one request, and then now and then: the layer goes in
// pieces, of which one that arrived is not sent again.
func TestPushResumed(t *testing.T) {
	srv := startServer(t, "")
	const most = pieceSize + 1<<20
	var mu sync.Mutex
	pieces := map[string]int{}
	whole := 0
	p := startProxy(t, srv, httptest.NewServer, nil)
	p.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		first := false
		if at := r.Header.Get("Content-Range"); at != "" {
			pieces[at]++
			first = pieces[at] == 1 && len(pieces)%3 == 2
		}
		if r.ContentLength > most {
			whole++
		}
		mu.Unlock()
		if r.ContentLength > most || first { // before the registry sees any of it
			io.CopyN(io.Discard, r.Body, most/2)
			panic(http.ErrAbortHandler)
		}
		p.handle(w, r)
	})
	s, c := openStore(t), testClient()
	const size = 40 << 20
	desc := makeImage(t, s, spec{seed: 5, layers: 1, size: size}, "")
	ref := mustRef(t, p.host()+"/resumed:1")
	push1(t, c, s, ref, desc)
	again := 0
	for at, n := range pieces {
		again += n - 1
		var from, to int
		if _, err := fmt.Sscanf(at, "%d-%d", &from, &to); err == nil && to-from+1 == pieceSize && n > 2 {
			t.Errorf("piece %s was sent %d times", at, n)
		}
	}
	// The library itself tries pieces after the whole, and gives up with the first
	// that breaks; then 6 pieces of 8 MB, as what is random doesn't compress.
	if whole == 0 || len(pieces) < 6 || again == 0 || again > 10 {
		t.Errorf("%d times as a whole, %d pieces, %d sent again: %v", whole, len(pieces), again, pieces)
	}
	back := openStore(t)
	got, err := c.Pull(t.Context(), back, ref, image.Platform{}, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, back, got, image.HostPlatform())
}
