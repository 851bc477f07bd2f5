// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/image"
)

// proxy stands before a registry and spoils its answers.
type proxy struct {
	*httptest.Server
	upstream string
	// spoil answers the n-th request (from 1) for a path in place of the
	// registry, whose answer it is given. It reports whether it has.
	spoil func(w http.ResponseWriter, r *http.Request, n int, a answer) bool

	mu       sync.Mutex
	requests []*http.Request
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) write(w http.ResponseWriter) {
	for k, v := range a.header {
		w.Header()[k] = v
	}
	w.WriteHeader(a.status)
	w.Write(a.body)
}

func startProxy(t *testing.T, srv *server, start func(http.Handler) *httptest.Server, spoil func(http.ResponseWriter, *http.Request, int, answer) bool) *proxy {
	t.Helper()
	p := &proxy{upstream: srv.host, spoil: spoil}
	p.Server = start(http.HandlerFunc(p.handle))
	p.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(func() { p.CloseClientConnections(); p.Close() })
	return p
}

func (p *proxy) host() string { return p.Listener.Addr().String() }

func (p *proxy) count(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, r := range p.requests {
		if strings.HasSuffix(r.URL.Path, path) {
			n++
		}
	}
	return n
}

func (p *proxy) handle(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v2/" && r.Header.Get("User-Agent") == "Go-http-client/1.1" {
		w.WriteHeader(http.StatusOK) // the question for http
		return
	}
	p.mu.Lock()
	p.requests = append(p.requests, r)
	p.mu.Unlock()
	sent, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	req, err := http.NewRequest(r.Method, "http://"+p.upstream+r.URL.RequestURI(), bytes.NewReader(sent))
	if err != nil {
		panic(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(sent))
	req.Header, req.Host = r.Header.Clone(), r.Host // which the registry sends uploads to
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	a := answer{resp.StatusCode, resp.Header, body}
	if p.spoil == nil || !p.spoil(w, r, p.count(r.URL.Path), a) {
		a.write(w)
	}
}

type fault func(w http.ResponseWriter, r *http.Request, a answer)

// breakOff sends a part of the body that was announced whole and ends the
// connection.
func breakOff(part int) fault {
	return func(w http.ResponseWriter, r *http.Request, a answer) {
		if part < len(a.body) {
			a.body = a.body[:part]
		}
		a.write(w)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

// reset is breakOff with a connection reset.
func reset(part int) fault {
	return func(w http.ResponseWriter, r *http.Request, a answer) {
		a.body = a.body[:min(part, len(a.body))]
		a.write(w)
		w.(http.Flusher).Flush()
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		time.Sleep(20 * time.Millisecond) // let the client read what was sent
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
}

// hang sends a part of the body and then nothing, until the client goes away.
func hang(part int) fault {
	return func(w http.ResponseWriter, r *http.Request, a answer) {
		if part >= 0 {
			a.body = a.body[:min(part, len(a.body))]
			a.write(w)
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	}
}

func flip(w http.ResponseWriter, r *http.Request, a answer) {
	a.body[len(a.body)/2] ^= 1
	a.write(w)
}

func code(status int, body string) fault {
	return func(w http.ResponseWriter, r *http.Request, a answer) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// chunked sends another body, of unknown length.
func chunked(body func([]byte) []byte) fault {
	return func(w http.ResponseWriter, r *http.Request, a answer) {
		a.header.Del("Content-Length")
		w.Header().Set("Docker-Content-Digest", a.header.Get("Docker-Content-Digest"))
		w.Header().Set("Content-Type", a.header.Get("Content-Type"))
		w.WriteHeader(a.status)
		w.(http.Flusher).Flush()
		w.Write(body(a.body))
	}
}

func announce(extra int) fault {
	return func(w http.ResponseWriter, r *http.Request, a answer) {
		a.header.Set("Content-Length", strconv.Itoa(len(a.body)+extra))
		a.write(w)
	}
}

// ignoreRange answers a request for a range with the whole.
func ignoreRange(layer []byte) fault {
	return func(w http.ResponseWriter, r *http.Request, a answer) {
		w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
		w.Write(layer)
	}
}

// wrongRange answers a request for a range with another one.
func wrongRange(w http.ResponseWriter, r *http.Request, a answer) {
	a.body = bytes.Repeat([]byte("x"), len(a.body))
	a.write(w)
}

// TestFaults pulls an image of one layer through a proxy that spoils answers
// for the layer, the config or the manifest: first, or always.
func TestFaults(t *testing.T) {
	srv := startServer(t, "")
	desc, m := srv.push(t, "a", "1", spec{seed: 1, layers: 1, size: 600 << 10})
	layer, _ := randomLayer(t, 1000, 600<<10)
	good := func(b []byte) []byte { return b }
	longer := func(b []byte) []byte { return append(b, "and more"...) }
	shorter := func(b []byte) []byte { return b[:len(b)/3] }
	paths := map[string]string{
		"layer":    "/blobs/" + m.Layers[0].Digest.String(),
		"config":   "/blobs/" + m.Config.Digest.String(),
		"manifest": "/manifests/" + desc.Digest.String(),
	}
	for _, tt := range []struct {
		what   string
		name   string
		faults []fault // of the first requests
		always bool    // the last of them holds for all that follow
		want   error
		text   string
		ranged bool // a request for the rest was made
		most   int  // requests allowed
	}{
		{what: "layer", name: "broken off", faults: []fault{breakOff(100 << 10)}, ranged: true, most: 2},
		{what: "layer", name: "broken off twice", faults: []fault{breakOff(100 << 10), breakOff(200 << 10)}, ranged: true, most: 3},
		{what: "layer", name: "broken off at once, always", faults: []fault{breakOff(0)}, always: true, want: ErrServer, text: "broke off after 0 of", most: 30},
		{what: "layer", name: "reset", faults: []fault{reset(100 << 10)}, ranged: true, most: 3},
		{what: "layer", name: "resume not supported", faults: []fault{breakOff(100 << 10), ignoreRange(layer)}, ranged: true, most: 4},
		{what: "layer", name: "wrong range", faults: []fault{breakOff(100 << 10), wrongRange}, ranged: true, most: 3},
		{what: "layer", name: "byte flipped", faults: []fault{flip}, most: 2},
		{what: "layer", name: "byte flipped, always", faults: []fault{flip}, always: true, want: ErrWrongBytes, text: m.Layers[0].Digest.String(), most: downloads},
		{what: "layer", name: "500", faults: []fault{code(500, ""), code(500, "")}, most: 3},
		{what: "layer", name: "502, 504", faults: []fault{code(502, ""), code(504, "")}, most: 3},
		{what: "layer", name: "503", faults: []fault{code(503, ""), code(503, "")}, most: 3},
		{what: "layer", name: "500, always", faults: []fault{code(500, "x")}, always: true, want: ErrServer, text: "answered 500 Internal Server Error", most: 30},
		{what: "layer", name: "404", faults: []fault{code(404, `{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}`)}, always: true, want: ErrNotFound, text: "(blob unknown to registry)", most: 1},
		{what: "layer", name: "403", faults: []fault{code(403, `{"errors":[{"code":"DENIED"}]}`)}, always: true, want: ErrDenied, text: "(denied)", most: 1},
		{what: "layer", name: "hangs", faults: []fault{hang(-1)}, most: 6},
		{what: "layer", name: "hangs in the middle", faults: []fault{hang(100 << 10)}, ranged: true, most: 6},
		{what: "layer", name: "hangs, always", faults: []fault{hang(-1)}, always: true, want: ErrUnreachable, text: "has stopped sending", most: 30},
		{what: "layer", name: "more announced", faults: []fault{announce(10)}, most: 2},
		{what: "layer", name: "more announced, always", faults: []fault{announce(10)}, always: true, want: ErrWrongBytes, text: "bytes announced, want", most: 30},
		{what: "layer", name: "less announced, always", faults: []fault{announce(-10)}, always: true, want: ErrWrongBytes, text: "bytes announced, want", most: 30},
		{what: "layer", name: "length unknown", faults: []fault{chunked(good)}, most: 1},
		{what: "layer", name: "length unknown, longer, always", faults: []fault{chunked(longer)}, always: true, want: ErrWrongBytes, most: 3},
		{what: "layer", name: "length unknown, shorter", faults: []fault{chunked(shorter)}, ranged: true, most: 2},

		{what: "config", name: "byte flipped, always", faults: []fault{flip}, always: true, want: ErrWrongBytes, text: "config " + m.Config.Digest.String(), most: downloads},
		{what: "config", name: "404", faults: []fault{code(404, "")}, always: true, want: ErrNotFound, most: 1},

		{what: "manifest", name: "byte flipped, always", faults: []fault{flip}, always: true, want: ErrWrongBytes, most: 1},
		{what: "manifest", name: "500", faults: []fault{code(500, "")}, most: 2},
		{what: "manifest", name: "404", faults: []fault{code(404, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)}, always: true, want: ErrNotFound, text: "not found at 127.0.0.1", most: 1},
		{what: "manifest", name: "a page", faults: []fault{code(200, "<html>hello</html>")}, always: true, want: ErrServer, text: "answered with no manifest", most: 1},
		{what: "manifest", name: "endless", faults: []fault{chunked(func([]byte) []byte { return make([]byte, image.MaxManifestSize+1) })}, always: true, want: image.ErrInvalid, text: "manifest of more than", most: 1},
		{what: "manifest", name: "broken off", faults: []fault{breakOff(100)}, ranged: true, most: 3},
	} {
		t.Run(tt.what+" "+tt.name, func(t *testing.T) {
			ranged := false
			p := startProxy(t, srv, httptest.NewServer, func(w http.ResponseWriter, r *http.Request, n int, a answer) bool {
				if !strings.HasSuffix(r.URL.Path, paths[tt.what]) {
					return false
				}
				ranged = ranged || r.Header.Get("Range") != ""
				if n > len(tt.faults) {
					if !tt.always {
						return false
					}
					n = len(tt.faults)
				}
				tt.faults[n-1](w, r, a)
				return true
			})
			s := openStore(t)
			opts := testOptions()
			opts.Stall = time.Minute
			if strings.HasPrefix(tt.name, "hangs") {
				opts.Stall = 300 * time.Millisecond
			}
			got, err := New(opts).Pull(t.Context(), s, mustRef(t, p.host()+"/a@"+desc.Digest.String()), image.Platform{}, nil, "")
			checkStore(t, s)
			if tt.want == nil && tt.text == "" {
				if err != nil {
					t.Fatal(err)
				}
				checkImage(t, s, got, image.HostPlatform())
			} else {
				if err == nil || (tt.want != nil && !errors.Is(err, tt.want)) || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("err = %v, want %v with %q", err, tt.want, tt.text)
				}
				if s.Has(desc) || s.Has(m.Layers[0]) {
					t.Errorf("an image that could not be pulled is in the store: %v", blobsIn(t, s))
				}
			}
			t.Logf("err = %v", err)
			if n := p.count(paths[tt.what]); n > tt.most {
				t.Errorf("%d requests, at most %d allowed", n, tt.most)
			}
			if ranged != tt.ranged {
				t.Errorf("asked for the rest: %t, want %t", ranged, tt.ranged)
			}
		})
	}
}

// A cancelled pull ends while the server is silent, whichever request is under
// way.
func TestCancel(t *testing.T) {
	srv := startServer(t, "")
	_, m := srv.push(t, "a", "1", spec{seed: 1, layers: 3, size: 100 << 10})
	for _, path := range []string{"/token", "/manifests/1", "/blobs/" + m.Config.Digest.String(), "/blobs/" + m.Layers[1].Digest.String()} {
		t.Run(path[:6], func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			p := startProxy(t, srv, httptest.NewServer, func(w http.ResponseWriter, r *http.Request, n int, a answer) bool {
				if strings.HasSuffix(r.URL.Path, path) {
					cancel()
					<-r.Context().Done()
					return true
				}
				if path == "/token" {
					w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=x", "http://"+r.Host+"/token"))
					w.WriteHeader(401)
					return true
				}
				return false
			})
			s := openStore(t)
			opts := testOptions()
			opts.Stall = time.Hour
			_, err := New(opts).Pull(ctx, s, mustRef(t, p.host()+"/a:1"), image.Platform{}, nil, "")
			if !errors.Is(err, context.Canceled) {
				t.Errorf("err = %v", err)
			}
			checkStore(t, s)
		})
	}
}

// What a manifest says is checked before anything that it names is fetched.
func TestHostileManifests(t *testing.T) {
	srv := startServer(t, "")
	_, good := srv.push(t, "a", "1", spec{seed: 1, layers: 1, size: 1000})
	for _, tt := range []struct {
		name   string
		change func(*ocispec.Manifest)
		want   string
	}{
		{"config missing layers", func(m *ocispec.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) }, "config names 1 layers, the manifest 2"},
		{"foreign layer", func(m *ocispec.Manifest) {
			m.Layers[0].MediaType = image.MediaTypeDockerForeignLayer
			m.Layers[0].URLs = []string{"http://127.0.0.1:1/x"}
		}, "kept outside of the registry"},
		{"addresses", func(m *ocispec.Manifest) { m.Layers[0].URLs = []string{"http://127.0.0.1:1/x"} }, "kept outside of the registry"},
		{"artifact", func(m *ocispec.Manifest) {
			m.Layers[0].MediaType = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
		}, "may be an artifact"},
		{"huge config", func(m *ocispec.Manifest) { m.Config.Size = image.MaxConfigSize + 1 }, "at most"},
		{"negative size", func(m *ocispec.Manifest) { m.Layers[0].Size = -1 }, "negative"},
		{"lying size", func(m *ocispec.Manifest) { m.Layers[0].Size = 17 }, "bytes announced, want 17"},
		{"lying size 0", func(m *ocispec.Manifest) { m.Layers[0].Size = 0 }, "more than the 0 bytes"},
		{"path as digest", func(m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../../../etc/passwd" }, "digest"},
		{"sha512", func(m *ocispec.Manifest) { m.Layers[0].Digest = digest.SHA512.FromString("x") }, "only sha256"},
		{"schema 1", func(m *ocispec.Manifest) { m.SchemaVersion = 1 }, "schema"},
		{"too many layers", func(m *ocispec.Manifest) {
			for len(m.Layers) <= image.MaxLayers {
				m.Layers = append(m.Layers, m.Layers[0])
			}
		}, "at most"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := good
			m.Layers = append([]ocispec.Descriptor(nil), good.Layers...)
			tt.change(&m)
			data := mustJSON(t, m)
			p := startProxy(t, srv, httptest.NewServer, func(w http.ResponseWriter, r *http.Request, n int, a answer) bool {
				if !strings.Contains(r.URL.Path, "/manifests/") {
					return false
				}
				w.Header().Set("Content-Type", m.MediaType)
				w.Write(data)
				return true
			})
			s := openStore(t)
			_, err := testClient().Pull(t.Context(), s, mustRef(t, p.host()+"/a:1"), image.Platform{}, nil, "")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v, want %q", err, tt.want)
			}
			checkStore(t, s)
			if n := p.count("/blobs/" + good.Layers[0].Digest.String()); n > 0 && !strings.HasPrefix(tt.name, "lying") {
				t.Errorf("the layer was asked for")
			}
		})
	}
}

func TestLimitRetryAfter(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "0": "0", "7": "7", "86400": "60", "-5": "60", "soon": "60", "99999999999999999999": "60",
		"Wed, 21 Oct 2015 07:28:00 GMT":                              "0",
		time.Now().Add(48 * time.Hour).UTC().Format(http.TimeFormat): "60",
	} {
		h := http.Header{}
		if in != "" {
			h.Set("Retry-After", in)
		}
		limitRetryAfter(h)
		if got := h.Get("Retry-After"); got != want {
			t.Errorf("Retry-After %q: %q, want %q", in, got, want)
		}
	}
}
