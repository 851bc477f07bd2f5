// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"builder/internal/testutil"
)

// startPrivate is startRegistry that wants "user" and "secret".
func startPrivate(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "htpasswd")
	const line = "user:$2a$04$Xnx9Ovz9AWg7nDM/2cLTBePu1jV3P81sGfKuXph.APjGE/SEFtfQW\n"
	if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	return startRegistryWith(t, "auth: {htpasswd: {realm: x, path: "+file+"}}\n")
}

// asUser has the credentials of commands be in a directory of the test.
func (w *workbench) asUser() {
	w.t.Helper()
	w.t.Setenv("DOCKER_CONFIG", filepath.Join(w.t.TempDir(), "docker"))
	w.t.Setenv("XDG_RUNTIME_DIR", w.t.TempDir())
	w.t.Setenv("HOME", w.t.TempDir())
	w.t.Setenv("REGISTRY_AUTH_FILE", "")
}

// with runs a command with something on its standard input.
func (w *workbench) with(stdin string, args ...string) result {
	w.t.Helper()
	cmd := w.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	return w.finish(cmd)
}

// TestLogin keeps a credential, uses it as builder and as skopeo, and forgets
// it.
func TestLogin(t *testing.T) {
	testutil.Require(t, "skopeo")
	w := newBench(t)
	host := startPrivate(t)
	w.asUser()
	name := host + "/private:1"
	w.ok("tag", "test/base", name)
	w.fails(1, []string{"denied", "builder login " + host}, "push", name)
	if r := w.with("wrong\n", "login", "-u", "user", "--password-stdin", host); r.code != 1 || !strings.Contains(r.stderr, "log in to "+host+": access denied") {
		t.Errorf("wrong password: %d %s", r.code, r.stderr)
	}
	w.fails(1, []string{"denied"}, "push", name)
	if r := w.with("secret\n", "login", "-u", "user", "--password-stdin", host); r.code != 0 || r.stdout != "Login Succeeded\n" || r.stderr != "" {
		t.Errorf("login: %d %s%s", r.code, r.stdout, r.stderr)
	}
	file := filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json")
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", fi, err)
	}
	w.ok("push", name)
	w.ok("rmi", name)
	w.ok("pull", name)
	if got := w.ok("login", "--get-login", host); got != "user\n" {
		t.Errorf("logged in as %q", got)
	}
	// Without a name or password, those that are kept are tried.
	if r := w.run("login", host); r.code != 0 || r.stdout != "Login Succeeded\n" || !strings.Contains(r.stderr, "existing credentials") {
		t.Errorf("login again: %d %s%s", r.code, r.stdout, r.stderr)
	}
	old := filepath.Join(t.TempDir(), "old.json")
	if err := os.WriteFile(old, []byte(`{"auths":{"`+host+`":{"auth":"dXNlcjp3cm9uZw=="}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	w.fails(2, []string{"are not taken", "no terminal"}, "login", "--authfile", old, host)
	skopeo := func() ([]byte, error) {
		return exec.Command("skopeo", "inspect", "--tls-verify=false", "--authfile", file, "docker://"+name).CombinedOutput()
	}
	if out, err := skopeo(); err != nil {
		t.Errorf("skopeo with builder's login: %v\n%s", err, out)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if r := w.run("pull", name); r.code != 0 || strings.Count(r.stderr, "others can read it") != 1 {
		t.Errorf("readable by others: %d %s", r.code, r.stderr)
	}
	if got := w.ok("logout", host); got != "Removing login credentials for "+host+"\n" {
		t.Errorf("logout says %q", got)
	}
	if got := w.ok("logout", host); got != "Not logged in to "+host+"\n" {
		t.Errorf("logout says %q", got)
	}
	w.fails(1, []string{"not logged in"}, "login", "--get-login", host)
	w.fails(1, []string{"denied"}, "pull", name)
	if _, err := skopeo(); err == nil {
		t.Error("skopeo has the credential after logout")
	}
	// For one repository, in a file of its own, by skopeo's login too.
	own := filepath.Join(t.TempDir(), "auth.json")
	if r := w.with("secret", "login", "--authfile", own, "-u", "user", "--password-stdin", host+"/private"); r.code != 0 {
		t.Errorf("login to a repository: %s", r.stderr)
	}
	t.Setenv("REGISTRY_AUTH_FILE", own)
	w.ok("pull", name)
	w.fails(1, []string{"denied"}, "pull", host+"/other:1")
	w.ok("logout", "--all")
	w.fails(1, []string{"denied"}, "pull", name)
	cmd := exec.Command("skopeo", "login", "--tls-verify=false", "--authfile", own, "-u", "user", "-p", "secret", host)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("skopeo login: %v\n%s", err, out)
	}
	w.ok("pull", name)
	// A broken file is a warning, and why access is denied.
	if err := os.WriteFile(own, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.fails(1, []string{"warning: read credentials", "line 1", "denied"}, "pull", name)
	w.fails(1, []string{"read credentials", "line 1"}, "login", "-u", "user", "-p", "secret", host)
}

// TestWrongLogin logs in where, or as whom, nobody can.
func TestWrongLogin(t *testing.T) {
	w := &workbench{t: t, root: t.TempDir(), dir: t.TempDir()}
	w.asUser()
	no := httptest.NewServer(http.NotFoundHandler())
	defer no.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	host := strings.TrimPrefix(no.URL, "http://")
	for _, c := range []struct {
		name, stdin string
		code        int
		args, words []string
	}{
		{"no registry", "p", 1, []string{"-u", "u", "--password-stdin", host}, []string{"log in to " + host, "not found"}},
		{"nobody there", "p", 1, []string{"-u", "u", "--password-stdin", nobody}, []string{"log in to " + nobody, "connection refused"}},
		{"empty password", "\n", 1, []string{"-u", "u", "--password-stdin", nobody}, []string{"must not be empty"}},
		{"empty user", "p", 2, []string{"-u", "", "--password-stdin", nobody}, []string{"needs --username"}},
		{"line break", "a\nb\n", 1, []string{"-u", "u", "--password-stdin", nobody}, []string{"line break"}},
		{"colon", "p", 1, []string{"-u", "a:b", "--password-stdin", nobody}, []string{"has no colon"}},
		{"both", "p", 2, []string{"-u", "u", "-p", "p", "--password-stdin", nobody}, []string{"together"}},
		{"no terminal", "", 2, []string{"-u", "u", nobody}, []string{"no terminal", "--password-stdin"}},
		{"too long", strings.Repeat("x", maxPassword+1), 1, []string{"-u", "u", "--password-stdin", nobody}, []string{"more than 65536 bytes"}},
		{"tag", "p", 2, []string{"-u", "u", "--password-stdin", "a.example/x:1"}, []string{"is no registry"}},
		{"scheme", "p", 2, []string{"-u", "u", "--password-stdin", "ftp://a.example"}, []string{"is no registry"}},
		{"empty", "p", 2, []string{"-u", "u", "--password-stdin", ""}, []string{"is no registry"}},
		{"two", "p", 2, []string{"a.example", "b.example"}, []string{"2 arguments"}},
	} {
		r := w.with(c.stdin, append([]string{"login"}, c.args...)...)
		if r.code != c.code {
			t.Errorf("%s: exit code %d, want %d", c.name, r.code, c.code)
		}
		for _, word := range c.words {
			if !strings.Contains(r.stderr, word) {
				t.Errorf("%s: no %q in %s", c.name, word, r.stderr)
			}
		}
	}
	if r := w.with("p", "login", "-u", "u", "-p", "p", nobody); !strings.Contains(r.stderr, "seen by everybody") {
		t.Errorf("no warning: %s", r.stderr)
	}
	w.fails(2, []string{"--all"}, "logout", "--all", "a.example")
	if _, err := os.Stat(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json")); err == nil {
		t.Error("a refused credential is kept")
	}
}
