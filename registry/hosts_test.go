// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"builder/image"
)

func TestInsecure(t *testing.T) {
	c := New(Options{Insecure: []string{"reg.example:5000", "10.0.0.0/8", "plain.example"}})
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1": true, "127.9.9.9:1": true,
		"[::1]": true, "[::1]:5000": true, "[::ffff:127.0.0.1]:5000": true,
		"reg.example:5000": true, "reg.example": false, "reg.example:5001": false,
		"plain.example": true, "plain.example:80": true,
		"10.1.2.3:5000": true, "11.1.2.3:5000": false,
		"localhost.example": false, "127.0.0.1.example": false, "docker.io": false, "0.0.0.0:5000": false,
	} {
		if got := c.insecure(host); got != want {
			t.Errorf("insecure(%q) = %t", host, got)
		}
	}
}

func pullErr(t *testing.T, opts Options, name string) error {
	t.Helper()
	s := openStore(t)
	desc, err := New(opts).Pull(t.Context(), s, mustRef(t, name), image.Platform{}, nil, "")
	checkStore(t, s)
	if err == nil {
		checkImage(t, s, desc, image.HostPlatform())
	}
	return err
}

func checkErr(t *testing.T, err, kind error, text, hint string) {
	t.Helper()
	if !errors.Is(err, kind) || !strings.Contains(err.Error(), text) {
		t.Fatalf("err = %v, want %v with %q", err, kind, text)
	}
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(e.Hint(), hint) || (hint == "") != (e.Hint() == "") {
		t.Errorf("hint = %q, want %q", e.Hint(), hint)
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	closed := l.Addr().String()
	checkErr(t, pullErr(t, testOptions(), closed+"/a"), ErrUnreachable, "connect to "+closed+": connect: connection refused", "")
	checkErr(t, pullErr(t, testOptions(), "no-such-host.invalid/a"), ErrUnreachable, "no-such-host.invalid", "")
}

func TestNotFound(t *testing.T) {
	srv := startServer(t, "")
	srv.push(t, "a", "1", spec{seed: 1})
	for _, name := range []string{"a:2", "nothing", "a@sha256:" + strings.Repeat("0", 64)} {
		checkErr(t, pullErr(t, testOptions(), srv.host+"/"+name), ErrNotFound, "not found at "+srv.host, "")
	}
}

// A host on the loopback interface may speak http or https with any
// certificate; which it is is found out.
func TestLoopbackTLS(t *testing.T) {
	srv := startServer(t, "")
	srv.push(t, "a", "1", spec{seed: 1, layers: 1, size: 1000})
	p := startProxy(t, srv, httptest.NewTLSServer, nil)
	if err := pullErr(t, testOptions(), p.host()+"/a:1"); err != nil {
		t.Error(err)
	}
	if err := pullErr(t, testOptions(), strings.Replace(srv.host, "127.0.0.1", "localhost", 1)+"/a:1"); err != nil {
		t.Error(err)
	}
}

// anyAddress starts a server on every address of this machine: under 0.0.0.0
// it is reached like a host elsewhere, one that isn't trusted as loopback is.
func anyAddress(t *testing.T, cert *tls.Certificate) func(http.Handler) *httptest.Server {
	return func(h http.Handler) *httptest.Server {
		l, err := net.Listen("tcp", "0.0.0.0:0")
		if err != nil {
			t.Fatal(err)
		}
		s := httptest.NewUnstartedServer(h)
		s.Listener.Close()
		s.Listener = l
		if cert == nil {
			s.Start()
			return s
		}
		s.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
		s.StartTLS()
		return s
	}
}

func anyHost(p *proxy) string {
	_, port, _ := net.SplitHostPort(p.host())
	return "0.0.0.0:" + port
}

// newCertificate makes a certificate for 0.0.0.0 and returns it, and as PEM.
func newCertificate(t *testing.T) (*tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.IPv4zero},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestTLSElsewhere(t *testing.T) {
	srv := startServer(t, "")
	srv.push(t, "a", "1", spec{seed: 1, layers: 1, size: 1000})

	t.Run("http", func(t *testing.T) {
		p := startProxy(t, srv, anyAddress(t, nil), nil)
		checkErr(t, pullErr(t, testOptions(), anyHost(p)+"/a:1"), ErrUnreachable, anyHost(p), "insecure-registries")
		opts := testOptions()
		opts.Insecure = []string{anyHost(p)}
		if err := pullErr(t, opts, anyHost(p)+"/a:1"); err != nil {
			t.Error(err)
		}
	})
	t.Run("https", func(t *testing.T) {
		cert, pemData := newCertificate(t)
		p := startProxy(t, srv, anyAddress(t, cert), nil)
		opts := testOptions()
		certDir := t.TempDir()
		opts.CertDirs = []string{certDir}
		checkErr(t, pullErr(t, opts, anyHost(p)+"/a:1"), ErrUnreachable, "certificate signed by unknown authority", certDir)

		dir := filepath.Join(certDir, anyHost(p))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "ca.crt"), pemData, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := pullErr(t, opts, anyHost(p)+"/a:1"); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("no certificate"), 0o600); err != nil {
			t.Fatal(err)
		}
		checkErr(t, pullErr(t, opts, anyHost(p)+"/a:1"), ErrUnreachable, "ca.crt holds no certificate", "")

		opts = testOptions()
		opts.Insecure = []string{anyHost(p)}
		if err := pullErr(t, opts, anyHost(p)+"/a:1"); err != nil {
			t.Error(err)
		}
	})
}

// The password is "secret".
const htpasswd = "user:$2a$04$Xnx9Ovz9AWg7nDM/2cLTBePu1jV3P81sGfKuXph.APjGE/SEFtfQW\n"

// login writes a docker config file and makes it the one in use.
func login(t *testing.T, conf any) {
	t.Helper()
	dir := t.TempDir()
	data, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
}

func auths(host, password string) map[string]any {
	return map[string]any{"auths": map[string]any{
		host: map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("user:" + password))},
	}}
}

func startWithPassword(t *testing.T) *server {
	file := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(file, []byte(htpasswd), 0o600); err != nil {
		t.Fatal(err)
	}
	srv := startServer(t, fmt.Sprintf("auth: {htpasswd: {realm: x, path: %s}}", file))
	srv.user = url.UserPassword("user", "secret")
	srv.push(t, "a", "1", spec{seed: 1, layers: 3, size: 1000})
	return srv
}

func TestBasicAuth(t *testing.T) {
	srv := startWithPassword(t)
	login(t, auths("other.example", "secret"))
	checkErr(t, pullErr(t, testOptions(), srv.host+"/a:1"), ErrDenied, "access denied by "+srv.host, "builder login")
	login(t, auths(srv.host, "wrong"))
	checkErr(t, pullErr(t, testOptions(), srv.host+"/a:1"), ErrDenied, "access denied by "+srv.host, "builder login")
	login(t, auths(srv.host, "secret"))
	if err := pullErr(t, testOptions(), srv.host+"/a:1"); err != nil {
		t.Error(err)
	}
	login(t, "not an object")
	checkErr(t, pullErr(t, testOptions(), srv.host+"/a:1"), ErrDenied, "access denied", "config.json: json: cannot unmarshal")
}

func TestCredentialHelper(t *testing.T) {
	srv := startWithPassword(t)
	bin := t.TempDir()
	script := "#!/bin/sh\nread host\n[ \"$1 $host\" = \"get " + srv.host + "\" ] || exit 1\necho '{\"Username\":\"user\",\"Secret\":\"secret\"}'\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	login(t, map[string]any{"credHelpers": map[string]string{srv.host: "test"}})
	if err := pullErr(t, testOptions(), srv.host+"/a:1"); err != nil {
		t.Error(err)
	}
	login(t, map[string]any{"credHelpers": map[string]string{srv.host: "missing"}})
	checkErr(t, pullErr(t, testOptions(), srv.host+"/a:1"), ErrDenied, "", "docker-credential-missing")
}

// tokens makes a proxy ask for a token that its own /token gives.
func tokens(t *testing.T, wantUser string, tokenStatus int) func(w http.ResponseWriter, r *http.Request, n int, a answer) bool {
	return func(w http.ResponseWriter, r *http.Request, n int, a answer) bool {
		if r.URL.Path == "/token" {
			user, password, _ := r.BasicAuth()
			switch {
			case tokenStatus != 200:
				w.WriteHeader(tokenStatus)
			case user != wantUser || (user != "" && password != "secret"):
				w.WriteHeader(http.StatusUnauthorized)
			case r.URL.Query().Get("scope") != "repository:a:pull" || r.URL.Query().Get("service") != "svc":
				t.Errorf("asked for a token with %s", r.URL.RawQuery)
			default:
				fmt.Fprint(w, `{"token":"good","expires_in":300}`)
			}
			return true
		}
		if r.Header.Get("Authorization") == "Bearer good" {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="svc",scope="repository:a:pull"`, r.Host))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
}

func TestTokenAuth(t *testing.T) {
	srv := startServer(t, "")
	srv.push(t, "a", "1", spec{seed: 1, layers: 5, size: 1000})
	t.Setenv("DOCKER_CONFIG", t.TempDir())

	t.Run("anonymous", func(t *testing.T) {
		p := startProxy(t, srv, httptest.NewServer, tokens(t, "", 200))
		if err := pullErr(t, testOptions(), p.host()+"/a:1"); err != nil {
			t.Error(err)
		}
		if n := p.count("/token"); n != 1 {
			t.Errorf("%d tokens asked for, want 1", n)
		}
	})
	t.Run("user", func(t *testing.T) {
		p := startProxy(t, srv, httptest.NewServer, tokens(t, "user", 200))
		checkErr(t, pullErr(t, testOptions(), p.host()+"/a:1"), ErrDenied, "", "builder login")
		login(t, auths(p.host(), "secret"))
		if err := pullErr(t, testOptions(), p.host()+"/a:1"); err != nil {
			t.Error(err)
		}
	})
	t.Run("token server down", func(t *testing.T) {
		p := startProxy(t, srv, httptest.NewServer, tokens(t, "", 500))
		checkErr(t, pullErr(t, testOptions(), p.host()+"/a:1"), ErrServer, "authenticate at "+p.host(), "")
	})
}

// A registry may send us elsewhere for a blob; our token is not for there.
func TestRedirect(t *testing.T) {
	srv := startServer(t, "")
	srv.push(t, "a", "1", spec{seed: 1, layers: 2, size: 1000})
	cdn := startProxy(t, srv, httptest.NewServer, func(w http.ResponseWriter, r *http.Request, n int, a answer) bool {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("redirected with Authorization")
		}
		return false
	})
	ask := tokens(t, "", 200)
	p := startProxy(t, srv, httptest.NewServer, func(w http.ResponseWriter, r *http.Request, n int, a answer) bool {
		if ask(w, r, n, a) {
			return true
		}
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, "http://"+strings.Replace(cdn.host(), "127.0.0.1", "localhost", 1)+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	if err := pullErr(t, testOptions(), p.host()+"/a:1"); err != nil {
		t.Error(err)
	}
	if len(cdn.requests) != 3 {
		t.Errorf("%d requests redirected, want 3", len(cdn.requests))
	}
}

// Mirrors of docker.io are asked in their order; one that fails, or has other
// bytes, is passed over.
func TestMirrors(t *testing.T) {
	srv := startServer(t, "")
	desc, m := srv.push(t, "library/a", "1", spec{seed: 1, layers: 2, size: 1000})
	srv.push(t, "proxied/library/b", "1", spec{seed: 2, layers: 2, size: 1000})
	lying := startProxy(t, srv, httptest.NewServer, func(w http.ResponseWriter, r *http.Request, n int, a answer) bool {
		if !strings.HasSuffix(r.URL.Path, m.Layers[1].Digest.String()) {
			return false
		}
		flip(w, r, a)
		return true
	})
	for _, tt := range []struct {
		name    string
		mirrors []string
		ref     string
	}{
		{"one", []string{"http://" + srv.host}, "a:1"},
		{"host only", []string{srv.host}, "a:1"},
		{"digest", []string{srv.host}, "a@" + desc.Digest.String()},
		{"second", []string{"http://127.0.0.1:1", srv.host}, "a:1"},
		{"lying", []string{lying.host(), srv.host}, "a:1"},
		{"prefix", []string{"http://" + srv.host + "/proxied/"}, "b:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := testOptions()
			opts.Mirrors = tt.mirrors
			if err := pullErr(t, opts, tt.ref); err != nil {
				t.Error(err)
			}
		})
	}
	opts := testOptions()
	opts.Mirrors = []string{"ftp://x"}
	if err := pullErr(t, opts, "a:1"); err == nil || !strings.Contains(err.Error(), `"ftp://x"`) {
		t.Errorf("err = %v", err)
	}
}
