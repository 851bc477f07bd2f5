// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func basic(userPassword string) string {
	return base64.StdEncoding.EncodeToString([]byte(userPassword))
}

// authFile writes a file of credentials.
func authFile(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// helper puts a credential helper on the path.
func helper(t *testing.T, name, script string) {
	t.Helper()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-"+name), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
}

// TestCredentialFor looks for credentials under every form of a key.
func TestCredentialFor(t *testing.T) {
	helper(t, "store", `read host; case "$1 $host" in
"get https://index.docker.io/v1/") echo '{"Username":"hub","Secret":"s"}';;
"get token.example") echo '{"Username":"<token>","Secret":"refresh"}';;
*) echo "credentials not found in native keychain"; exit 1;; esac`)
	helper(t, "own", `echo '{"Username":"own","Secret":"s"}'`)
	auths := func(pairs ...string) string {
		entries := map[string]any{}
		for i := 0; i < len(pairs); i += 2 {
			entries[pairs[i]] = map[string]string{"auth": basic(pairs[i+1] + ":secret:with colon")}
		}
		data, _ := json.Marshal(map[string]any{"auths": entries})
		return string(data)
	}
	for _, c := range []struct{ name, file, registry, repository, want string }{
		{"host", auths("a.example", "u"), "a.example", "x", "u/secret:with colon/"},
		{"port", auths("a.example", "u"), "a.example:5000", "x", "//"},
		{"scheme", auths("https://a.example/v2/", "u"), "a.example", "x", "u/secret:with colon/"},
		{"path of the API", auths("a.example/v1/", "u"), "a.example", "x", "u/secret:with colon/"},
		{"hub", auths("https://index.docker.io/v1/", "u"), "docker.io", "library/x", "u/secret:with colon/"},
		{"hub by name", auths("docker.io", "u"), "docker.io", "library/x", "u/secret:with colon/"},
		{"repository", auths("a.example", "u", "a.example/team", "t", "a.example/team/app", "p"), "a.example", "team/app", "p/secret:with colon/"},
		{"namespace", auths("a.example", "u", "a.example/team", "t", "a.example/team/app", "p"), "a.example", "team/other", "t/secret:with colon/"},
		{"no prefix of a word", auths("a.example/team", "t"), "a.example", "teams/x", "//"},
		{"user and password", `{"auths":{"a.example":{"username":"u","password":"p"}}}`, "a.example", "x", "u/p/"},
		{"identity token", `{"auths":{"a.example":{"identitytoken":"r"}}}`, "a.example", "x", "//r"},
		{"store", `{"credsStore":"store","auths":{"https://index.docker.io/v1/":{}}}`, "docker.io", "library/x", "hub/s/"},
		{"token in a store", `{"credsStore":"store"}`, "token.example", "x", "//refresh"},
		{"not in the store but in the file", `{"credsStore":"store","auths":{"a.example":{"auth":"` + basic("u:p") + `"}}}`, "a.example", "x", "u/p/"},
		{"helper before store", `{"credsStore":"store","credHelpers":{"docker.io":"own"}}`, "docker.io", "library/x", "own/s/"},
		{"helper of another", `{"credHelpers":{"b.example":"own"}}`, "a.example", "x", "//"},
		{"nothing", ``, "a.example", "x", "//"},
		{"empty object", `{}`, "a.example", "x", "//"},
	} {
		f, err := ReadAuthFile(authFile(t, c.file))
		if err != nil {
			t.Fatal(err)
		}
		got, ok, err := f.Get(t.Context(), c.registry, c.repository)
		if s := got.User + "/" + got.Password + "/" + got.IdentityToken; s != c.want || ok != (c.want != "//") || err != nil {
			t.Errorf("%s: %s, %t, %v; want %s", c.name, s, ok, err, c.want)
		}
	}
}

// TestWrongAuthFiles reads files and asks helpers that are wrong.
func TestWrongAuthFiles(t *testing.T) {
	helper(t, "garbage", "echo nonsense")
	helper(t, "fails", "echo no key; exit 3")
	helper(t, "endless", "yes")
	for _, c := range []struct{ name, file, want string }{
		{"no JSON", "{\n\"auths\": {,\n}}", "line 2: invalid character"},
		{"cut off", `{"auths":`, "line 1: unexpected end"},
		{"list", `[]`, "cannot unmarshal"},
		{"list of auths", `{"auths":[]}`, "auths: "},
		{"store is a number", `{"credsStore":1}`, "credsStore: "},
		{"base64", `{"auths":{"a.example":{"auth":"%%%"}}}`, "auth: illegal base64"},
		{"no colon", `{"auths":{"a.example":{"auth":"` + basic("user") + `"}}}`, "no colon"},
		{"entry is a string", `{"auths":{"a.example":"x"}}`, "cannot unmarshal"},
		{"missing helper", `{"credsStore":"missing"}`, "docker-credential-missing, get a.example: exec"},
		{"helper with a slash", `{"credsStore":"../x"}`, "has a slash"},
		{"garbage", `{"credsStore":"garbage"}`, "its answer is no credential"},
		{"fails", `{"credsStore":"fails"}`, "exit status 3: no key"},
		{"endless", `{"credsStore":"endless"}`, "says more than 65536 bytes"},
	} {
		name := authFile(t, c.file)
		f, err := ReadAuthFile(name)
		if err == nil {
			_, _, err = f.Get(t.Context(), "a.example", "x")
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := ReadAuthFile(t.TempDir()); err == nil || !strings.Contains(err.Error(), "is no file") {
		t.Errorf("directory: %v", err)
	}
	huge := authFile(t, "")
	if err := os.Truncate(huge, maxAuthFile+1); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadAuthFile(huge); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("huge: %v", err)
	}
	if f, err := ReadAuthFile(filepath.Join(t.TempDir(), "none")); err != nil || len(f.Registries()) != 0 {
		t.Errorf("missing: %v", err)
	}
}

// TestHangingHelper has a helper, and a child of it that keeps the pipe open,
// that don't end.
func TestHangingHelper(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	helper(t, "hangs", "sleep 1000 & echo $! > "+pid+"\nwait\n")
	f, err := ReadAuthFile(authFile(t, `{"credsStore":"hangs"}`))
	if err != nil {
		t.Fatal(err)
	}
	f.timeout = 300 * time.Millisecond
	if _, _, err := f.Get(t.Context(), "a.example", "x"); err == nil || !strings.Contains(err.Error(), "did not end") {
		t.Errorf("hanging helper: %v", err)
	}
	data, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(data)) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the helper's child is still there")
}

// TestPutRemove keeps credentials in a file and forgets them; everything else
// in it stays.
func TestPutRemove(t *testing.T) {
	name := authFile(t, `{"psFormat":"table","auths":{"b.example":{"auth":"`+basic("b:b")+`"}},"proxies":{"default":{"noProxy":"x"}}}`)
	link := filepath.Join(t.TempDir(), "link.json")
	if err := os.Symlink(name, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := ReadAuthFile(link)
	if err != nil {
		t.Fatal(err)
	}
	if how := f.Readable(); !strings.Contains(how, "mode 0644") || !strings.Contains(how, "chmod 600") {
		t.Errorf("readable by others: %q", how)
	}
	for _, put := range []struct{ registry, repository string }{{"a.example", ""}, {"docker.io", ""}, {"a.example", "team/app"}} {
		if err := f.Put(t.Context(), put.registry, put.repository, Credential{User: "u", Password: "p"}); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Lstat(name)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if fi, err := os.Lstat(link); err != nil || fi.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v", err)
	}
	again, err := ReadAuthFile(link)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(again.Registries()); got != "[a.example a.example/team/app b.example https://index.docker.io/v1/]" {
		t.Errorf("registries %s", got)
	}
	data, err := os.ReadFile(name)
	if err != nil || !strings.Contains(string(data), `"psFormat"`) || !strings.Contains(string(data), `"noProxy": "x"`) {
		t.Errorf("other settings are gone: %s, %v", data, err)
	}
	for _, c := range []struct {
		registry, repository string
		ok                   bool
	}{{"docker.io", "", true}, {"docker.io", "", false}, {"a.example", "", true}, {"a.example", "team/app", true}, {"c.example", "", false}} {
		if ok, err := again.Remove(t.Context(), c.registry, c.repository); ok != c.ok || err != nil {
			t.Errorf("remove %s %s: %t, %v", c.registry, c.repository, ok, err)
		}
	}
	if got := fmt.Sprint(again.Registries()); got != "[b.example]" {
		t.Errorf("registries %s", got)
	}
	helper(t, "kept", `cat > `+filepath.Join(t.TempDir(), "stored"))
	f, err = ReadAuthFile(authFile(t, `{"credsStore":"kept"}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Put(t.Context(), "a.example", "", Credential{User: "u", Password: "hidden"}); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(f.Name); err != nil || strings.Contains(string(data), "hidden") || strings.Contains(string(data), basic("u:hidden")) {
		t.Errorf("the password is in the file too: %s, %v", data, err)
	}
}

// FuzzAuthFile reads any file: it ends, and what it can't use is an error.
func FuzzAuthFile(f *testing.F) {
	f.Add([]byte(`{"auths":{"https://a.example/v1/":{"auth":"dTpw"}}}`), "a.example", "x/y")
	f.Add([]byte(`{"auths":null}`), "docker.io", "")
	name := filepath.Join(f.TempDir(), "config.json")
	f.Fuzz(func(t *testing.T, data []byte, registry, repository string) {
		if strings.Contains(string(data), "cred") {
			return // no helpers here
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := ReadAuthFile(name)
		if err != nil {
			return
		}
		if c, ok, err := file.Get(t.Context(), registry, repository); ok && (err != nil || c == Credential{}) {
			t.Errorf("%+v, %v", c, err)
		}
	})
}
