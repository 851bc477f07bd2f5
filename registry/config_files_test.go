// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"builder/image"
)

// configFiles writes files below a directory and returns where they are.
func configFiles(t *testing.T, files map[string]string) *ConfigFiles {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	return &ConfigFiles{
		Builder: []string{at("config.toml")}, Containers: []string{at("registries.conf"), at("more.conf")},
		Containerd: []string{at("certs.d")}, Docker: at("daemon.json"),
	}
}

// servers are those of a name, one a line, with file names without directories.
func servers(t *testing.T, files *ConfigFiles, name string) string {
	t.Helper()
	ref, err := image.ParseRef(name)
	if err != nil {
		t.Fatal(err)
	}
	opts := testOptions()
	opts.Config = files
	list, err := New(opts).Servers(ref)
	if err != nil {
		return "error: " + err.Error()
	}
	var out []string
	for _, s := range list {
		line := s.URL + "/v2/" + s.Repository
		if strings.Count(s.URL, "/") > 2 { // of the API, which is not at /v2
			line = s.URL + "/" + s.Repository
		}
		if s.For != "" {
			line += " for " + s.For
		}
		if s.Insecure {
			line += " insecure"
		}
		for _, h := range s.Headers {
			line += " " + h
		}
		if s.From != "" {
			line += " " + filepath.Base(s.From)
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

// shortNames is a registries.conf with names for names without a registry.
const shortNames = `unqualified-search-registries = ["one.example", "docker.io"]
aliases."team/app" = "a.example:5000/x/app"
aliases.fedora = "fedora.example/fedora"
[[registry]]
location = "fedora.example"
[[registry.mirror]]
location = "fm.example"
`

// TestServers is a table of what files say, and which servers follow.
func TestServers(t *testing.T) {
	conf := map[string]string{
		"config.toml": `[registry."docker.io"]
mirrors = ["https://ours.example", "http://ours.example:5000/hub"]
[registry."lab.example"]
insecure = true
[registry."no.example/secret"]
blocked = true
`,
		"registries.conf": `unqualified-search-registries = ["quay.example"]
[[registry]]
prefix = "docker.io"
location = "internal.example/hub"
[[registry]]
location = "a.example"
[[registry.mirror]]
location = "m1.example"
insecure = true
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "m2.example/a"
pull-from-mirror = "tag-only"
[[registry]]
prefix = "a.example/team"
location = "b.example:5000/t"
[[registry]]
prefix = "*.wild.example"
location = "w.example/all"
[[registry]]
prefix = "bad.example"
blocked = true
`,
		"more.conf": "[[registry]]\nprefix = \"bad.example\"\nlocation = \"good.example\"\n",
		"certs.d/c.example/hosts.toml": `server = "https://c1.example"
[host."https://m.example/v2/proxy"]
override_path = true
capabilities = ["pull"]
[host."https://m.example/v2/proxy".header]
x-token = ["1"]
[host."http://m2.example:80"]
skip_verify = true
[host."https://push.example"]
capabilities = ["push"]
`,
		"certs.d/_default/hosts.toml": "[host.\"https://default.example\"]\n",
		"daemon.json":                 "{\n \"registry-mirrors\": [\"https://docker-mirror.example\"],\n \"insecure-registries\": [\"10.0.0.0/8\", \"old.example:5000\"]\n}\n",
	}
	without := func(names ...string) map[string]string {
		left := map[string]string{}
		for name, data := range conf {
			left[name] = data
		}
		for _, name := range names {
			delete(left, name)
		}
		return left
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		ref   string
		want  string
	}{
		{"nothing", nil, "nginx", "https://registry-1.docker.io/v2/library/nginx"},
		{"nothing, another registry", nil, "x.example/a/b:1", "https://x.example/v2/a/b"},
		{"ours first", conf, "nginx", "https://ours.example/v2/library/nginx config.toml:2\nhttp://ours.example:5000/v2/hub/library/nginx config.toml:2\nhttps://registry-1.docker.io/v2/library/nginx"},
		{"ours, insecure alone decides nothing", without("certs.d/_default/hosts.toml"), "lab.example/a", "https://lab.example/v2/a insecure"},
		{"ours, blocked", conf, "no.example/secret/x", "error: blocked by config.toml:5"},
		{"ours, not blocked", without("certs.d/_default/hosts.toml"), "no.example/secrets", "https://no.example/v2/secrets"},
		{"containers, another place", without("config.toml"), "nginx", "https://internal.example/v2/hub/library/nginx registries.conf:2"},
		{"containers, mirrors", conf, "a.example/x", "https://m1.example/v2/x for digests insecure registries.conf:7\nhttps://m2.example/v2/a/x for tags registries.conf:11\nhttps://a.example/v2/x"},
		{"containers, longest prefix", conf, "a.example/team/x", "https://b.example:5000/v2/t/x registries.conf:14"},
		{"containers, wildcard", conf, "x.wild.example/y", "https://w.example/v2/all/y registries.conf:17"},
		{"containers, a later file", conf, "bad.example/x", "https://good.example/v2/x more.conf:1"},
		{"containers, blocked", without("more.conf"), "bad.example/x", "error: blocked by registries.conf:20"},
		{"containerd", conf, "c.example/x", "https://m.example/v2/proxy/x for digests X-Token hosts.toml:2\nhttp://m2.example:80/v2/x insecure hosts.toml:7\nhttps://c1.example/v2/x hosts.toml:1"},
		{"containerd, all others", conf, "d.example/x", "https://default.example/v2/x hosts.toml:1\nhttps://d.example/v2/x hosts.toml"},
		{"docker", without("config.toml", "registries.conf", "certs.d/_default/hosts.toml"), "nginx", "https://docker-mirror.example/v2/library/nginx daemon.json:2\nhttps://registry-1.docker.io/v2/library/nginx"},
		{"docker, another registry", without("certs.d/_default/hosts.toml"), "z.example/x", "https://z.example/v2/x"},
		{"docker, insecure", without("certs.d/_default/hosts.toml"), "old.example:5000/x", "https://old.example:5000/v2/x insecure"},
		{"containerd, paths of the API", map[string]string{"certs.d/p.example/hosts.toml": `server = "https://p.example/registry"
[host."https://x.example/team/v2"]
[host."https://y.example/api"]
override_path = true
`}, "p.example/x", "https://x.example/team/v2/x hosts.toml:2\nhttps://y.example/api/x hosts.toml:3\nhttps://p.example/registry/v2/x hosts.toml:1"},
		{"short names don't count", map[string]string{"registries.conf": shortNames}, "fedora", "https://registry-1.docker.io/v2/library/fedora"},
		{"alias", map[string]string{"config.toml": "short-names = true\n", "registries.conf": shortNames}, "fedora", "https://fm.example/v2/fedora registries.conf:6\nhttps://fedora.example/v2/fedora registries.conf:3"},
		{"alias with a path", map[string]string{"config.toml": "short-names = true\n", "registries.conf": shortNames}, "team/app:2", "https://a.example:5000/v2/x/app registries.conf:2"},
		{"alias undone", map[string]string{"config.toml": "short-names = true\n", "registries.conf": shortNames, "more.conf": "[aliases]\nfedora = \"\"\n"}, "fedora", "https://one.example/v2/fedora registries.conf:1\nhttps://registry-1.docker.io/v2/library/fedora registries.conf:1"},
		{"searched", map[string]string{"config.toml": "short-names = true\n", "registries.conf": shortNames, "more.conf": "unqualified-search-registries = [\"two.example\"]\n"}, "team/other", "https://two.example/v2/team/other more.conf:1"},
		{"no short name", map[string]string{"config.toml": "short-names = true\n", "registries.conf": shortNames}, "quay.example/fedora", "https://quay.example/v2/fedora"},
		{"docker, insecure network", without("certs.d/_default/hosts.toml"), "10.1.2.3:5000/x", "https://10.1.2.3:5000/v2/x insecure"},
	} {
		files := configFiles(t, c.files)
		got := servers(t, files, c.ref)
		if i := strings.Index(got, "error: blocked by "); i == 0 {
			got = "error: blocked by " + filepath.Base(strings.TrimPrefix(got, "error: blocked by "))
		}
		if got != c.want {
			t.Errorf("%s: %s:\n%s\nwant\n%s", c.name, c.ref, got, c.want)
		}
	}
}

// TestWrongConfigFiles reads files that are wrong: the error names the file and
// the line.
func TestWrongConfigFiles(t *testing.T) {
	for _, c := range []struct{ name, file, data, want string }{
		{"TOML", "config.toml", "[registry.\"docker.io\"]\nmirrors = [\n", "config.toml:"},
		{"type", "config.toml", "[registry.\"docker.io\"]\nmirrors = 3\n", "config.toml"},
		{"unknown key", "config.toml", "[registry.\"docker.io\"]\nmirror = []\n", "config.toml:2: unknown key"},
		{"mirror", "config.toml", "[registry.\"docker.io\"]\nmirrors = [\"ftp://x\"]\n", "config.toml:1: registry mirror \"ftp://x\""},
		{"version 1", "registries.conf", "[registries.search]\nregistries = [\"x\"]\n", "registries.conf:1: it has version 1"},
		{"TOML", "registries.conf", "[[registry]\n", "registries.conf:2: "},
		{"no prefix", "registries.conf", "\n[[registry]]\nblocked = true\n", "registries.conf:2: the registry has neither"},
		{"wildcard", "registries.conf", "[[registry]]\nprefix = \"a.*.example\"\n", "registries.conf:1: prefix \"a.*.example\""},
		{"pull-from-mirror", "registries.conf", "[[registry]]\nprefix = \"a.example\"\n[[registry.mirror]]\nlocation = \"b\"\npull-from-mirror = \"often\"\n", "registries.conf:3: pull-from-mirror \"often\""},
		{"no location", "registries.conf", "[[registry]]\nprefix = \"a.example\"\n[[registry.mirror]]\ninsecure = true\n", "registries.conf:3: the mirror has no location"},
		{"host", "certs.d/a.example/hosts.toml", "[host.\"ftp://x\"]\n", "hosts.toml:1: \"ftp://x\" is not a host"},
		{"ca", "certs.d/a.example/hosts.toml", "[host.\"https://x\"]\nca = 1\n", "hosts.toml:1: ca: 1 is no string"},
		{"client", "certs.d/a.example/hosts.toml", "[host.\"https://x\"]\nclient = [[\"a\",\"b\",\"c\"]]\n", "client: want"},
		{"JSON", "daemon.json", "{\n\n", "daemon.json: line"},
		{"JSON type", "daemon.json", `{"registry-mirrors":1}`, "daemon.json"},
		{"docker's mirror", "daemon.json", `{"registry-mirrors":["ftp://x"]}`, "daemon.json:1: registry mirror"},
	} {
		got := servers(t, configFiles(t, map[string]string{c.file: c.data}), "a.example/x")
		if !strings.HasPrefix(got, "error: ") || !strings.Contains(got, c.want) {
			t.Errorf("%s of %s: %s, want %q", c.name, c.file, got, c.want)
		}
	}
	for _, c := range []struct{ name, data, want string }{
		{"alias without a registry", "[aliases]\na = \"b\"\n", "registries.conf:2: alias \"a\": \"b\" is no name with a registry"},
		{"alias with a tag", "[aliases]\na = \"b.example/b:1\"\n", "registries.conf:2: alias \"a\": "},
		{"alias that is no name", "[aliases]\na = \"b.example/B\"\n", "registries.conf:2: alias \"a\": invalid"},
		{"searched registry", "unqualified-search-registries = [\"a b\"]\n", "registries.conf:1: invalid"},
	} {
		got := servers(t, configFiles(t, map[string]string{"config.toml": "short-names = true\n", "registries.conf": c.data}), "a.example/x")
		if !strings.HasPrefix(got, "error: ") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %q", c.name, got, c.want)
		}
	}
	files := configFiles(t, nil)
	files.Docker = t.TempDir()
	if got := servers(t, files, "a.example/x"); !strings.Contains(got, "is no file") {
		t.Errorf("directory: %s", got)
	}
	files = configFiles(t, map[string]string{"daemon.json": ""})
	if err := os.Truncate(files.Docker, maxConfigFile+1); err != nil {
		t.Fatal(err)
	}
	if got := servers(t, files, "a.example/x"); !strings.Contains(got, "at most") {
		t.Errorf("huge file: %s", got)
	}
}

// TestConfiguredMirrors pulls through mirrors of each kind of file: a rewritten
// location, a header, and one that is dead and asked once.
func TestConfiguredMirrors(t *testing.T) {
	srv := startServer(t, "")
	desc, _ := srv.push(t, "hub/library/a", "1", spec{seed: 1, layers: 3, size: 1000})
	srv.push(t, "plain/a", "1", spec{seed: 1, layers: 3, size: 1000})
	asked := 0
	header := startProxy(t, srv, httptest.NewServer, func(w http.ResponseWriter, r *http.Request, _ int, _ answer) bool {
		asked++
		if r.Header.Get("X-Token") != "1" {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	})
	below := httptest.NewServer(http.StripPrefix("/reg", httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: srv.host})))
	defer below.Close()
	for _, c := range []struct{ name, file, data, ref string }{
		{"API below a path", "certs.d/r.invalid/hosts.toml", fmt.Sprintf("server = \"http://127.0.0.1:1\"\n[host.%q]\n", below.URL+"/reg"), "r.invalid/plain/a:1"},
		{"config.toml", "config.toml", fmt.Sprintf("[registry.\"docker.io\"]\nmirrors = [\"http://%s/hub\"]\n", srv.host), "a:1"},
		{"location", "registries.conf", fmt.Sprintf("[[registry]]\nprefix = \"docker.io\"\nlocation = \"%s/hub\"\n", srv.host), "a:1"},
		{"location, by digest", "registries.conf", fmt.Sprintf("[[registry]]\nprefix = \"docker.io\"\nlocation = \"%s/hub\"\n", srv.host), "a@" + desc.Digest.String()},
		{"mirror", "registries.conf", fmt.Sprintf("[[registry]]\nprefix = \"r.invalid/x\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:1\"\n[[registry.mirror]]\nlocation = \"%s/plain\"\n", srv.host), "r.invalid/x/a:1"},
		{"containerd", "certs.d/r.invalid/hosts.toml", fmt.Sprintf("[host.\"http://%s/v2/plain\"]\noverride_path = true\n[host.\"http://%[1]s/v2/plain\".header]\nX-Token = \"1\"\n", header.host()), "r.invalid/a:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := testOptions()
			opts.Config = configFiles(t, map[string]string{c.file: c.data})
			if err := pullErr(t, opts, c.ref); err != nil {
				t.Error(err)
			}
		})
	}
	if asked == 0 {
		t.Error("the mirror with the header was not asked")
	}
	t.Run("short name", func(t *testing.T) {
		opts := testOptions()
		opts.Config = configFiles(t, map[string]string{"config.toml": "short-names = true\n", "registries.conf": fmt.Sprintf("unqualified-search-registries = [\"127.0.0.1:1\", \"%s/hub\", \"%[1]s\"]\n", srv.host)})
		if err := pullErr(t, opts, "plain/a:1"); err != nil {
			t.Error(err)
		}
		if err := pullErr(t, opts, "plain/b:1"); !errors.Is(err, ErrNotFound) {
			t.Errorf("what no registry has: %v", err)
		}
	})
	t.Run("dead", func(t *testing.T) {
		var told []string
		opts := testOptions()
		opts.Mirrors = []string{"127.0.0.1:1", srv.host + "/hub"}
		opts.Tell = func(s string) { told = append(told, s) }
		client := New(opts)
		ref, err := image.ParseRef("a:1")
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := client.Resolve(t.Context(), ref); err != nil {
				t.Fatal(err)
			}
		}
		if n := strings.Count(strings.Join(told, "\n"), "mirror 127.0.0.1:1: "); n != 1 {
			t.Errorf("the dead mirror was asked %d times: %q", n, told)
		}
	})
	t.Run("all fail", func(t *testing.T) {
		opts := testOptions()
		opts.Config = configFiles(t, map[string]string{"registries.conf": "[[registry]]\nlocation = \"127.0.0.1:1\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:2\"\n"})
		err := pullErr(t, opts, "127.0.0.1:1/x")
		if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || !strings.Contains(err.Error(), "before that, mirror 127.0.0.1:2: ") {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("blocked", func(t *testing.T) {
		opts := testOptions()
		opts.Config = configFiles(t, map[string]string{"registries.conf": "[[registry]]\nprefix = \"r.invalid\"\nblocked = true\n"})
		if err := pullErr(t, opts, "r.invalid/x"); !errors.Is(err, ErrBlocked) || !strings.Contains(err.Error(), "registries.conf:1") {
			t.Errorf("err = %v", err)
		}
	})
}
