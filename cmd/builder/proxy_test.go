// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// TestRunTLSVerify runs an image of a registry whose certificate nobody knows.
func TestRunTLSVerify(t *testing.T) {
	w, _ := newNetBench(t)
	host := startRegistry(t)
	w.asUser()
	upstream := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
	server := httptest.NewUnstartedServer(upstream)
	server.Listener.Close()
	inNetns(t, "/run/netns/"+strings.TrimSuffix(w.netns, "in")+"out", func() (err error) {
		server.Listener, err = net.Listen("tcp", "203.0.113.2:443")
		return err
	})
	server.StartTLS()
	defer server.Close()
	w.ok("save", "-o", "base.tar", "test/base")
	w.output("skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "oci-archive:"+w.dir+"/base.tar", "docker://"+host+"/app")
	w.fails(125, []string{"certificate"}, "run", "--rm", "203.0.113.2/app", "true")
	w.fails(1, []string{"certificate"}, "create", "203.0.113.2/app", "true")
	w.ok("run", "--rm", "--tls-verify=false", "203.0.113.2/app", "true")
}

// TestProxy pushes to and pulls from registries that only a proxy can reach:
// one that speaks http, and one that speaks TLS through a tunnel.
func TestProxy(t *testing.T) {
	w := newBench(t)
	registry := startRegistry(t)
	w.asUser()
	upstream := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: registry})
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("X-Forwarded-Proto", "https")
		upstream.ServeHTTP(w, r)
	}))
	defer secure.Close()
	var plain, tunnels atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodConnect && r.Host == "secure.test:443":
			tunnels.Add(1)
			up, err := net.Dial("tcp", secure.Listener.Addr().String())
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			w.WriteHeader(http.StatusOK)
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			go func() { io.Copy(up, conn); up.Close() }()
			io.Copy(conn, up)
			conn.Close()
		case r.URL.Host == "plain.test":
			plain.Add(1)
			upstream.ServeHTTP(w, r)
		default: // a question whether secure.test speaks http
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	defer proxy.Close()
	config := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(config, []byte("[registry.\"plain.test\"]\ninsecure = true\n[registry.\"secure.test\"]\ninsecure = true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BUILDER_CONFIG", config)
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("HTTPS_PROXY", proxy.URL)
	for _, host := range []string{"plain.test", "secure.test"} {
		name := host + "/app:1"
		w.ok("tag", "test/base", name)
		w.ok("push", "-q", name)
		w.ok("rmi", name)
		w.ok("pull", "-q", name)
	}
	if plain.Load() < 5 || tunnels.Load() == 0 {
		t.Errorf("%d requests and %d tunnels through the proxy", plain.Load(), tunnels.Load())
	}
}
