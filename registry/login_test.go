// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
)

// lasting makes a proxy a registry whose token server gives the token that
// lasts to those who ask for it, and takes "works" for one.
func lasting(gives string) func(http.ResponseWriter, *http.Request, int, answer) bool {
	return func(w http.ResponseWriter, r *http.Request, _ int, _ answer) bool {
		if r.URL.Path != "/token" {
			if r.Header.Get("Authorization") == "Bearer good" {
				return false
			}
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="svc"`, r.Host))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		user, password, _ := r.BasicAuth()
		switch {
		case r.Method == http.MethodPost && r.PostFormValue("grant_type") == "refresh_token" && r.PostFormValue("refresh_token") == "works":
			io.WriteString(w, `{"access_token":"good","expires_in":300}`)
		case r.Method == http.MethodGet && user == "user" && password == "secret" && r.URL.Query().Get("service") == "svc":
			if r.URL.Query().Get("offline_token") != "true" {
				gives = ""
			}
			fmt.Fprintf(w, `{"token":"good","expires_in":300,"refresh_token":%q}`, gives)
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
		return true
	}
}

// TestLoginToken logs in where a token that lasts can be had: one that works is
// kept in place of the password, and serves pulls.
func TestLoginToken(t *testing.T) {
	srv := startServer(t, "")
	srv.push(t, "a", "1", spec{seed: 1, layers: 1, size: 1000})
	for _, c := range []struct{ name, gives, password, want string }{
		{"one that works", "works", "secret", "user//works"},
		{"one that nobody takes", "broken", "secret", "user/secret/"},
		{"none", "", "secret", "user/secret/"},
		{"wrong password", "works", "wrong", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("DOCKER_CONFIG", t.TempDir())
			p := startProxy(t, srv, httptest.NewServer, lasting(c.gives))
			got, err := New(testOptions()).Login(t.Context(), p.host(), Credential{User: "user", Password: c.password})
			if c.want == "" {
				if !errors.Is(err, ErrDenied) {
					t.Errorf("%v, want access denied", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if said := got.User + "/" + got.Password + "/" + got.IdentityToken; said != c.want {
				t.Errorf("to be kept is %s, want %s", said, c.want)
			}
			file := filepath.Join(t.TempDir(), "config.json")
			f, err := ReadAuthFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Put(t.Context(), p.host(), "", got); err != nil {
				t.Fatal(err)
			}
			opts := testOptions()
			opts.AuthFiles = []string{file}
			if err := pullErr(t, opts, p.host()+"/a:1"); err != nil {
				t.Error(err)
			}
		})
	}
}
