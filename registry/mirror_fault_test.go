// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"builder/image"
)

// redirectLoop sends the client to where it is.
func redirectLoop(w http.ResponseWriter, r *http.Request, _ answer) {
	http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
}

// busy asks for patience.
func busy(after string) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ answer) {
		w.Header().Set("Retry-After", after)
		w.WriteHeader(http.StatusTooManyRequests)
	}
}

// challenge wants a token again and again.
func challenge(w http.ResponseWriter, r *http.Request, _ answer) {
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x",scope="repository:a:pull"`, r.Host))
	w.WriteHeader(http.StatusUnauthorized)
}

// compressed sends the body compressed once more, as Content-Encoding says.
func compressed(w http.ResponseWriter, _ *http.Request, a answer) {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	z.Write(a.body)
	z.Close()
	a.header.Set("Content-Encoding", "gzip")
	a.header.Set("Content-Length", fmt.Sprint(buf.Len()))
	a.body = buf.Bytes()
	a.write(w)
}

// upTo is a fault after n bytes of the whole, whatever range of it is asked for.
func upTo(n int64, f func(int) fault) fault {
	return func(w http.ResponseWriter, r *http.Request, a answer) {
		var from int64
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		f(int(max(0, n-from)))(w, r, a)
	}
}

// TestMirrorFaults pulls from two mirrors, of which the first is broken in one
// way or another, always: the image comes from the second, and nothing wrong
// is stored. The same from the broken one alone is an error that tells what is
// wrong, after a bounded number of requests.
func TestMirrorFaults(t *testing.T) {
	srv := startServer(t, "")
	desc, m := srv.push(t, "library/a", "1", spec{seed: 1, layers: 2, size: 200 << 10})
	layer, manifest, config := "/blobs/"+m.Layers[1].Digest.String(), "/manifests/", "/blobs/"+m.Config.Digest.String()
	for _, c := range []struct {
		name string
		at   string
		f    fault
		text string // of the error from this one alone
	}{
		{"layer cut short", layer, upTo(50<<10, breakOff), "broke off"},
		{"layer reset", layer, upTo(50<<10, reset), "broke off"},
		{"layer stops", layer, upTo(50<<10, hang), "broke off at 51200 of"},
		{"layer silent", layer, hang(-1), "has stopped sending"},
		{"layer other bytes", layer, flip, "wrong bytes"},
		{"layer too long", layer, chunked(func(b []byte) []byte { return append(b, "more"...) }), "more than the"},
		{"layer length wrong", layer, announce(5), "bytes announced"},
		{"layer compressed again", layer, compressed, "bytes announced"},
		{"layer 403", layer, code(403, ""), "denied"},
		{"layer 404", layer, code(404, ""), "not found"},
		{"layer 429 seconds", layer, busy("0"), "no more requests for now"},
		{"layer 429 date", layer, busy("Wed, 21 Oct 2015 07:28:00 GMT"), "no more requests for now"},
		{"layer 500", layer, code(500, ""), "500 Internal Server Error"},
		{"layer 503", layer, code(503, ""), "503 Service Unavailable"},
		{"layer redirect loop", layer, redirectLoop, "redirect"},
		{"config other bytes", config, flip, "wrong bytes"},
		{"config 404", config, code(404, ""), "not found"},
		{"manifest other bytes", manifest, flip, "wrong bytes"},
		{"manifest 404", manifest, code(404, ""), "not found"},
		{"manifest 500", manifest, code(500, ""), "500 Internal Server Error"},
		{"manifest a page", manifest, code(200, "<html>"), "no manifest"},
		{"manifest silent", manifest, hang(-1), "has stopped sending"},
		{"manifest redirect loop", manifest, redirectLoop, "redirect"},
		{"everything 401", "", challenge, "denied"},
		{"token garbage", "", func(w http.ResponseWriter, r *http.Request, a answer) {
			if r.URL.Path == "/token" {
				io.WriteString(w, "nonsense")
				return
			}
			challenge(w, r, a)
		}, ""},
		{"token 500", "", func(w http.ResponseWriter, r *http.Request, a answer) {
			if r.URL.Path == "/token" {
				w.WriteHeader(500)
				return
			}
			challenge(w, r, a)
		}, "authenticate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := startProxy(t, srv, httptest.NewServer, func(w http.ResponseWriter, r *http.Request, _ int, a answer) bool {
				if !strings.Contains(r.URL.Path, c.at) {
					return false
				}
				c.f(w, r, a)
				return true
			})
			opts := testOptions()
			opts.Stall = 200 * time.Millisecond
			if !strings.Contains(c.name, "silent") && !strings.Contains(c.name, "stops") {
				opts.Stall = 30 * time.Second
			}
			opts.Attempts = 3
			opts.AuthFiles = []string{}
			opts.Mirrors = []string{p.host(), srv.host}
			s := openStore(t)
			got, err := New(opts).Pull(t.Context(), s, mustRef(t, "a@"+desc.Digest.String()), image.Platform{}, nil, "")
			checkStore(t, s)
			if err != nil {
				t.Fatalf("with a good mirror after it: %v", err)
			}
			checkImage(t, s, got, image.HostPlatform())
			if n := len(p.requests); n == 0 || n > 60 {
				t.Errorf("the broken mirror got %d requests", n)
			}

			before := len(p.requests)
			opts.Mirrors = nil
			s = openStore(t)
			_, err = New(opts).Pull(t.Context(), s, mustRef(t, p.host()+"/library/a@"+desc.Digest.String()), image.Platform{}, nil, "")
			checkStore(t, s)
			if err == nil || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), p.host()) {
				t.Errorf("alone: %v, want %q", err, c.text)
			}
			if n := len(p.requests) - before; n > 60 {
				t.Errorf("alone it got %d requests", n)
			}
			if s.Has(desc) || s.Has(m.Layers[1]) {
				t.Error("what was not fetched is in the store")
			}
		})
	}
}

// TestSlowMirror has a mirror that sends a byte now and then: it is given up,
// and not asked again. The same from the registry itself is waited for.
func TestSlowMirror(t *testing.T) {
	srv := startServer(t, "")
	desc, m := srv.push(t, "library/a", "1", spec{seed: 1, layers: 1, size: 300})
	layer := "/blobs/" + m.Layers[0].Digest.String()
	p := startProxy(t, srv, httptest.NewServer, func(w http.ResponseWriter, r *http.Request, _ int, a answer) bool {
		if !strings.HasSuffix(r.URL.Path, layer) {
			return false
		}
		a.header.Set("Content-Length", fmt.Sprint(len(a.body)))
		for k, v := range a.header {
			w.Header()[k] = v
		}
		w.WriteHeader(a.status)
		for i := range a.body {
			w.Write(a.body[i : i+1])
			w.(http.Flusher).Flush()
			select {
			case <-time.After(5 * time.Millisecond):
			case <-r.Context().Done():
				return true
			}
		}
		return true
	})
	opts := testOptions()
	opts.Stall = 300 * time.Millisecond
	opts.Mirrors = []string{p.host(), srv.host}
	client := New(opts)
	for range 2 {
		s := openStore(t)
		got, err := client.Pull(t.Context(), s, mustRef(t, "a@"+desc.Digest.String()), image.Platform{}, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, s, got, image.HostPlatform())
	}
	if n := p.count(layer); n != 1 {
		t.Errorf("the slow mirror was asked %d times for the layer", n)
	}
	opts.Mirrors = nil
	if err := pullErr(t, opts, p.host()+"/library/a@"+desc.Digest.String()); err != nil {
		t.Errorf("a slow registry: %v", err)
	}
}

// cutter forwards connections to a registry, and cuts the first of them after
// some bytes of the client's.
type cutter struct {
	net.Listener
	sent atomic.Int64 // by the clients
	cuts int          // connections to cut
	at   int64

	mu sync.Mutex
}

func startCutter(t *testing.T, upstream string, cuts int, at int64) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l, cuts: cuts, at: at}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go c.forward(conn, upstream)
		}
	}()
	return c
}

func (c *cutter) forward(conn net.Conn, upstream string) {
	defer conn.Close()
	up, err := net.Dial("tcp", upstream)
	if err != nil {
		return
	}
	defer up.Close()
	go io.Copy(conn, up)
	buf := make([]byte, 4096)
	for sent := int64(0); ; {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		sent += int64(n)
		c.sent.Add(int64(n))
		if sent > c.at && c.cut() {
			return
		}
		if _, err := up.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (c *cutter) cut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cuts == 0 {
		return false
	}
	c.cuts--
	return true
}

// TestPushCut pushes layers over connections that are cut: the layer that was
// under way begins anew, and those that the registry has are not sent again.
// (It can't go on in the middle: Debian's registry gives an upload up whose
// last piece came in part, "upload resumed at wrong offset".)
func TestPushCut(t *testing.T) {
	srv := startServer(t, "")
	const size, layers = 1 << 20, 4
	c := startCutter(t, srv.host, uploads-1, 2<<20+size/2)
	s := openStore(t)
	desc := makeImage(t, s, spec{seed: 9, layers: layers, size: size}, "")
	opts := testOptions()
	opts.Parallel = 1
	if err := New(opts).Push(t.Context(), s, mustRef(t, c.Addr().String()+"/cut:1"), desc, nil, ""); err != nil {
		t.Fatal(err)
	}
	if sent := c.sent.Load(); c.cuts == uploads-1 || sent > (layers+uploads)*size+100<<10 {
		t.Errorf("%d bytes were sent of %d layers of %d, and %d connections not cut", sent, layers, size, c.cuts)
	}
	back := openStore(t)
	got, err := New(testOptions()).Pull(t.Context(), back, mustRef(t, srv.host+"/cut:1"), image.Platform{}, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, back, got, image.HostPlatform())
}
