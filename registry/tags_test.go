// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"builder/image"
)

func TestTags(t *testing.T) {
	srv := startServer(t, "")
	s, c := openStore(t), testClient()
	desc := makeImage(t, s, spec{seed: 1, layers: 1, size: 10}, "")
	for _, tag := range []string{"b", "a", "1.0"} {
		push1(t, c, s, srv.ref(t, "team/app:"+tag), desc)
	}
	tags, err := c.Tags(t.Context(), srv.ref(t, "team/app:any"))
	if slices.Sort(tags); err != nil || !slices.Equal(tags, []string{"1.0", "a", "b"}) {
		t.Errorf("tags %q, %v", tags, err)
	}
	if _, err := c.Tags(t.Context(), srv.ref(t, "team/none")); !errors.Is(err, ErrNotFound) {
		t.Errorf("of no repository: %v", err)
	}
}

// TestTagsOfBadServers asks servers that answer as they like.
func TestTagsOfBadServers(t *testing.T) {
	many := make([]string, 2500)
	for i := range many {
		many[i] = fmt.Sprintf("t%04d", i)
	}
	list := func(w http.ResponseWriter, tags []string) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"name": "x", "tags": tags})
	}
	for _, tt := range []struct {
		name   string
		answer func(w http.ResponseWriter, r *http.Request)
		tags   int
		err    error
		most   int64 // requests
	}{
		{"pages", func(w http.ResponseWriter, r *http.Request) {
			i := 0
			if last := r.FormValue("last"); last != "" {
				i = slices.Index(many, last) + 1
			}
			list(w, many[i:min(i+1000, len(many))])
		}, 2500, nil, 3},
		{"small pages with links", func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("p") == "" {
				w.Header().Set("Link", `</v2/x/tags/list?p=2>; rel="next"`)
				list(w, []string{"a", "b"})
				return
			}
			list(w, []string{"b", "c"})
		}, 3, nil, 2},
		{"the same page for ever", func(w http.ResponseWriter, _ *http.Request) { list(w, many[:1000]) }, 1000, nil, 2},
		{"no tags", func(w http.ResponseWriter, _ *http.Request) { list(w, nil) }, 0, nil, 1},
		{"a path for a tag", func(w http.ResponseWriter, _ *http.Request) { list(w, []string{"a", "../../b"}) }, 0, ErrWrongBytes, 1},
		{"a digest for a tag", func(w http.ResponseWriter, _ *http.Request) { list(w, []string{"a@sha256:" + strings.Repeat("0", 64)}) }, 0, ErrWrongBytes, 1},
		{"an endless list", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for block := strings.Repeat(" ", 1<<20); ; {
				if _, err := w.Write([]byte(block)); err != nil {
					return
				}
			}
		}, 0, ErrWrongBytes, 5},
		{"endless pages", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", `</v2/x/tags/list?p=2>; rel="next"`)
			w.Header().Set("Padding", strings.Repeat("x", 100))
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"name":"x","tags":[]%s}`, strings.Repeat(" ", 1<<20))
		}, 0, ErrWrongBytes, 20},
		{"an error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, 0, ErrDenied, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var requests atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.HasSuffix(r.URL.Path, "/tags/list") {
					return
				}
				requests.Add(1)
				tt.answer(w, r)
			}))
			defer srv.Close()
			ref, err := image.ParseRef(strings.TrimPrefix(srv.URL, "http://") + "/x")
			if err != nil {
				t.Fatal(err)
			}
			tags, err := testClient().Tags(t.Context(), ref)
			if len(tags) != tt.tags || !errors.Is(err, tt.err) {
				t.Errorf("%d tags, %v; want %d, %v", len(tags), err, tt.tags, tt.err)
			}
			if n := requests.Load(); n > tt.most {
				t.Errorf("%d requests, at most %d are due", n, tt.most)
			}
		})
	}
}
