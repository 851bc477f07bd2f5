// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"builder/image"
	"builder/internal/filelock"
	"builder/store"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// counting counts the bytes of a layer that a proxy has sent, and ends a pull
// once there are enough: they come in pieces, and after those the server waits.
type counting struct {
	sync.Mutex
	layer  string
	sent   int64
	ranges []string
	enough int64
	stop   func()
	ignore bool // ranges
}

func (c *counting) spoil(w http.ResponseWriter, r *http.Request, _ int, a answer) bool {
	if !strings.HasSuffix(r.URL.Path, c.layer) {
		return false
	}
	c.Lock()
	c.ranges = append(c.ranges, r.Header.Get("Range"))
	c.Unlock()
	if c.ignore && r.Header.Get("Range") != "" {
		a.status = http.StatusRequestedRangeNotSatisfiable
		a.body = nil
	}
	a.header.Set("Content-Length", fmt.Sprint(len(a.body)))
	for k, v := range a.header {
		w.Header()[k] = v
	}
	w.WriteHeader(a.status)
	for len(a.body) > 0 {
		n := min(len(a.body), 16<<10)
		c.Lock()
		wait := c.stop != nil && c.sent >= c.enough
		if !wait {
			c.sent += int64(n)
		}
		c.Unlock()
		if wait {
			time.Sleep(50 * time.Millisecond) // what was sent comes in
			c.stop()
			<-r.Context().Done()
			return true
		}
		w.Write(a.body[:n])
		w.(http.Flusher).Flush()
		a.body = a.body[n:]
	}
	return true
}

// TestResume has pulls end in the middle of a layer: the next one fetches the
// rest, as one stream or by ranges, and what came before counts for nothing
// unless the whole has the digest.
func TestResume(t *testing.T) {
	srv := startServer(t, "")
	const size = 1 << 20
	desc, m := srv.push(t, "a", "1", spec{seed: 3, layers: 1, size: size})
	layer := m.Layers[0]
	whole, err := os.ReadFile(fetched(t, srv, desc, layer))
	if err != nil {
		t.Fatal(err)
	}
	part := (layer.Size + 7) / 8
	for _, c := range []struct {
		name   string
		ranged bool
		spoil  func(t *testing.T, dir string)
		most   int64 // bytes that the second pull may fetch
		least  int64
		ignore bool
	}{
		{"stream", false, nil, layer.Size - size/4, 1, false},
		{"ranges", true, nil, layer.Size - part, part, false},
		{"stream, poisoned", false, func(t *testing.T, dir string) { overwrite(t, filepath.Join(dir, "stream"), 100) }, 2 * layer.Size, layer.Size, false},
		{"ranges, poisoned", true, func(t *testing.T, dir string) {
			names, _ := filepath.Glob(filepath.Join(dir, "ranges-*"))
			for _, n := range names {
				if !strings.HasSuffix(n, ".have") {
					overwrite(t, n, 100)
				}
			}
		}, 2 * layer.Size, layer.Size, false},
		{"stream, ranges refused", false, nil, layer.Size, layer.Size, true},
		{"stream, all there", false, func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "stream"), whole, 0o644); err != nil {
				t.Fatal(err)
			}
		}, 0, 0, false},
		{"stream, too much there", false, func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "stream"), append(whole, 1), 0o644); err != nil {
				t.Fatal(err)
			}
		}, layer.Size, layer.Size, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			count := &counting{layer: layer.Digest.String(), enough: size / 2, stop: cancel}
			p := startProxy(t, srv, httptest.NewServer, count.spoil)
			opts := testOptions()
			if c.ranged {
				opts.Ranged = part * rangeStreams
			}
			s := openStore(t)
			ref := mustRef(t, p.host()+"/a@"+desc.Digest.String())
			if _, err := New(opts).Pull(ctx, s, ref, image.Platform{}, nil, ""); err == nil {
				t.Fatal("the first pull ended well")
			}
			checkStore(t, s)
			dir := s.Path("coming", layer.Digest.Encoded())
			if _, err := os.Stat(dir); err != nil {
				t.Fatal(err)
			}
			if c.spoil != nil {
				c.spoil(t, dir)
			}
			count.stop, count.sent, count.ignore = nil, 0, c.ignore
			got, err := New(opts).Pull(t.Context(), s, ref, image.Platform{}, nil, "")
			if err != nil {
				t.Fatal(err)
			}
			checkStore(t, s)
			checkImage(t, s, got, image.HostPlatform())
			if count.sent < c.least || count.sent > c.most {
				t.Errorf("%d bytes fetched, want %d to %d of %d (%q)", count.sent, c.least, c.most, layer.Size, count.ranges)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("what had come is left")
			}
		})
	}
}

// fetched is the file of a layer of a pulled image.
func fetched(t *testing.T, srv *server, desc, layer ocispec.Descriptor) string {
	t.Helper()
	s := openStore(t)
	if _, err := New(testOptions()).Pull(t.Context(), s, srv.ref(t, "a@"+desc.Digest.String()), image.Platform{}, nil, ""); err != nil {
		t.Fatal(err)
	}
	return s.Path("blobs", "sha256", layer.Digest.Encoded())
}

func overwrite(t *testing.T, name string, at int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("poison"), at); err != nil {
		t.Fatal(err)
	}
}

// TestReapComing removes what nobody went on with for a day, and nothing else.
func TestReapComing(t *testing.T) {
	s := openStore(t)
	old := time.Now().Add(-25 * time.Hour)
	for name, when := range map[string]time.Time{"old": old, "new": time.Now(), "held": old, "growing": old} {
		dir := s.Path("coming", name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "stream")
		if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if name != "growing" {
			os.Chtimes(file, when, when)
		}
		os.Chtimes(dir, when, when)
	}
	lock, err := s.Lock(t.Context(), store.ComingLock("sha256:held"), filelock.Exclusive, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	s.Reap()
	entries, err := os.ReadDir(s.Path("coming"))
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if got := strings.Join(left, " "); got != "growing held new" {
		t.Errorf("left are %q", got)
	}
}
