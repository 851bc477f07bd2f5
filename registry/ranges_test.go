// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"builder/image"
)

// TestRanges fetches a layer by ranges from servers that serve them well, badly
// or not at all: what is stored is right in any case, and a range that breaks
// off is not fetched from its beginning.
func TestRanges(t *testing.T) {
	srv := startServer(t, "")
	const size = 1 << 20
	desc, m := srv.push(t, "a", "1", spec{seed: 3, layers: 1, size: size})
	layer := "/blobs/" + m.Layers[0].Digest.String()
	const parts = 5
	part := (m.Layers[0].Size + parts - 1) / parts
	for _, c := range []struct {
		name string
		// part is which range it is, from 0, and -1 for the whole; nth how
		// often it was asked for, from 1.
		spoil       func(w http.ResponseWriter, part, nth int, a answer, r *http.Request) bool
		ranged      bool // by ranges to the end
		least, most int  // requests for the layer
	}{
		{name: "good", ranged: true, least: 5, most: 5},
		{name: "one breaks off", ranged: true, least: 6, most: 6, spoil: func(w http.ResponseWriter, part, nth int, a answer, r *http.Request) bool {
			if part == 3 && nth == 1 {
				breakOff(100<<10)(w, r, a)
			}
			return false
		}},
		{name: "500 now and then", ranged: true, least: 7, most: 7, spoil: func(w http.ResponseWriter, part, nth int, a answer, r *http.Request) bool {
			if (part == 0 || part == 4) && nth == 1 {
				code(500, "")(w, r, a)
				return true
			}
			return false
		}},
		{name: "ranges ignored", least: 2, most: 2, spoil: func(w http.ResponseWriter, part, nth int, a answer, r *http.Request) bool {
			if part < 0 {
				return false
			}
			w.Write(a.body)
			return true
		}},
		{name: "another range", least: 2, most: 2, spoil: func(w http.ResponseWriter, part, nth int, a answer, r *http.Request) bool {
			if part < 0 {
				return false
			}
			a.header.Set("Content-Range", "bytes 5-6/7")
			a.write(w)
			return true
		}},
		{name: "wrong bytes in one", least: 6, most: 6, spoil: func(w http.ResponseWriter, part, nth int, a answer, r *http.Request) bool {
			if part != 2 {
				return false
			}
			flip(w, r, a)
			return true
		}},
		{name: "refused", least: 2, most: 3, spoil: func(w http.ResponseWriter, part, nth int, a answer, r *http.Request) bool {
			if part < 0 {
				return false
			}
			code(416, "")(w, r, a)
			return true
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ranged, asked := 0, map[int]int{}
			var mu sync.Mutex
			p := startProxy(t, srv, httptest.NewServer, func(w http.ResponseWriter, r *http.Request, n int, a answer) bool {
				if !strings.HasSuffix(r.URL.Path, layer) {
					return false
				}
				at := -1
				var from int64
				if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil {
					at = int(from / part)
				}
				mu.Lock()
				if at >= 0 {
					ranged++
				}
				asked[at]++
				nth := asked[at]
				mu.Unlock()
				return c.spoil != nil && c.spoil(w, at, nth, a, r)
			})
			opts := testOptions()
			opts.Ranged = part * rangeStreams
			s := openStore(t)
			got, err := New(opts).Pull(t.Context(), s, mustRef(t, p.host()+"/a@"+desc.Digest.String()), image.Platform{}, nil, "")
			checkStore(t, s)
			if err != nil {
				t.Fatal(err)
			}
			checkImage(t, s, got, image.HostPlatform())
			n := p.count(layer)
			if n < c.least || n > c.most {
				t.Errorf("%d requests, want %d to %d", n, c.least, c.most)
			}
			if (ranged == n) != c.ranged {
				t.Errorf("%d of %d requests were for ranges", ranged, n)
			}
		})
	}
}

// TestRangesAuthorized fetches by ranges from a registry that wants a token,
// and is sent to another host: which doesn't get the token.
func TestRangesAuthorized(t *testing.T) {
	srv := startServer(t, "")
	desc, m := srv.push(t, "a", "1", spec{seed: 3, layers: 1, size: 1 << 20})
	leaked := false
	cdn := startProxy(t, srv, httptest.NewServer, func(_ http.ResponseWriter, r *http.Request, _ int, _ answer) bool {
		leaked = leaked || r.Header.Get("Authorization") != ""
		return false
	})
	auth := tokens(t, "", 200)
	p := startProxy(t, srv, httptest.NewServer, func(w http.ResponseWriter, r *http.Request, n int, a answer) bool {
		if auth(w, r, n, a) {
			return true
		}
		if strings.HasSuffix(r.URL.Path, m.Layers[0].Digest.String()) {
			http.Redirect(w, r, "http://"+strings.Replace(cdn.host(), "127.0.0.1", "localhost", 1)+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	opts := testOptions()
	opts.Ranged = 400 << 10
	s := openStore(t)
	if _, err := New(opts).Pull(t.Context(), s, mustRef(t, p.host()+"/a@"+desc.Digest.String()), image.Platform{}, nil, ""); err != nil {
		t.Fatal(err)
	}
	if n := len(cdn.requests); n < 4 {
		t.Errorf("%d requests redirected", n)
	}
	if leaked {
		t.Error("the other host got the token")
	}
}
