// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestPullKilled kills a pull in the middle of a layer, from a slow registry:
// df accounts for what has come, the next pull fetches the rest, and prune
// removes what nobody goes on with.
func TestPullKilled(t *testing.T) {
	w := newBench(t)
	host := startRegistry(t)
	w.write("Dockerfile", "FROM test/base\nRUN head -c 8000000 /dev/urandom > /data\n")
	w.ok("build", "-q", "-t", host+"/app:1", ".")
	w.ok("push", host+"/app:1")
	var slow atomic.Bool
	slow.Store(true)
	pass := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
	pass.ModifyResponse = func(r *http.Response) error {
		if r.ContentLength > 1<<20 {
			body := r.Body
			r.Body = struct {
				io.Reader
				io.Closer
			}{slowly{body, &slow}, body}
		}
		return nil
	}
	pass.FlushInterval = -1
	srv := httptest.NewServer(pass)
	defer srv.Close()
	name := strings.TrimPrefix(srv.URL, "http://") + "/app:1"

	other := &workbench{t: t, root: t.TempDir(), dir: w.dir}
	stop := func() string {
		t.Helper()
		cmd := other.command("pull", "-q", name)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var coming string
		for range 1000 {
			names, _ := filepath.Glob(filepath.Join(other.root, "coming", "*", "stream"))
			for _, n := range names {
				if fi, err := os.Stat(n); err == nil && fi.Size() > 2<<20 {
					coming = n
				}
			}
			if coming != "" {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		cmd.Process.Kill()
		cmd.Wait()
		if coming == "" {
			t.Fatal("no layer was seen to come")
		}
		return coming
	}
	coming := stop()
	if bytes, _ := other.df(); bytes["Total"] != other.du() {
		t.Errorf("df says %d and du %d", bytes["Total"], other.du())
	}
	other.ok("prune", "--force")
	if _, err := os.Stat(coming); err == nil {
		t.Error("prune leaves what has come")
	}
	stop()
	slow.Store(false)
	if r := other.run("pull", "-v", name); r.code != 0 || !strings.Contains(r.stderr, "bytes were here") {
		t.Errorf("the next pull: %d %s", r.code, r.stderr)
	}
	other.checkWhole()
	if got := other.ok("run", "--rm", name, "sh", "-c", "wc -c < /data"); got != "8000000\n" {
		t.Errorf("the image says %q", got)
	}
	if left, _ := filepath.Glob(filepath.Join(other.root, "coming", "*")); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
}

// slowly reads about 1.6 MB a second while slow says so.
type slowly struct {
	io.Reader
	slow *atomic.Bool
}

func (s slowly) Read(p []byte) (int, error) {
	if s.slow.Load() {
		time.Sleep(10 * time.Millisecond)
		p = p[:min(len(p), 16<<10)]
	}
	return s.Reader.Read(p)
}
