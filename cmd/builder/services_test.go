// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestServices has services work together as root.
func TestServices(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads packages")
	}
	w, outside := newNetBench(t)
	here := &workbench{t: t, root: w.root, dir: w.dir} // packages are beyond the test's own network
	testServices(t, w, here, outside)
}

// TestRootlessServices does as an ordinary user.
func TestRootlessServices(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads packages")
	}
	u := newUser(t, true)
	u.importBase()
	here := *u
	here.as = here.asUser
	inside, out := newMachineNetwork(t)
	u.netns = inside
	t.Cleanup(func() { u.command("rm", "-fa").Run() })
	outside := *u
	outside.netns = out
	outside.as = outside.asUser
	testServices(t, &u.workbench, &here.workbench, outside.machine)
	u.ok("rm", "-fa")
	waitFor(t, "the end of all processes", func() bool { return processOf(t, u.root, "") == 0 })
}

// testServices builds nginx, PostgreSQL, Redis and a server of Node from
// Debian's packages and has them work together: nginx asks Node, which asks
// the others, all by their names, and clients come by published ports. Packages
// are downloaded by the bench here.
func testServices(t *testing.T, w, here *workbench, outside func(...string) (string, error)) {
	source := filepath.Join(w.dir, "services")
	if err := os.CopyFS(source, os.DirFS("../../testdata/services")); err != nil { // everybody may read it there
		t.Fatal(err)
	}
	base, err := os.Open(debian(t))
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	cmd := here.command("import", "-", "debian:12")
	cmd.Stdin = base
	if r := here.finish(cmd); r.code != 0 {
		t.Fatalf("import: %s", r.stderr)
	}
	for _, name := range []string{"nginx", "redis", "postgres", "node"} {
		here.ok("build", "--target", name, "--build-arg", "BASE=debian:12", "-t", "services/"+name, source)
	}
	w.ok("network", "create", "shop")
	database := func() {
		t.Helper()
		w.ok("run", "-d", "--name", "db", "--network", "shop", "-v", "data:/var/lib/postgresql/data", "-e", "POSTGRES_PASSWORD=secret", "-p", "127.0.0.1:5432:5432", "services/postgres")
		w.waitField("db", "{{.State.Health.Status}}", "healthy")
	}
	database()
	w.ok("run", "-d", "--name", "cache", "--network", "shop", "-p", "6379:6379", "services/redis")
	w.waitField("cache", "{{.State.Health.Status}}", "healthy")
	w.ok("run", "-d", "--name", "node", "--network", "shop", "-e", "POSTGRES_PASSWORD=secret", "services/node")
	waitFor(t, "the server of Node", func() bool { return strings.Contains(w.ok("logs", "node"), "listening") })
	w.ok("run", "-d", "--name", "web", "--network", "shop", "-p", "8080:80", "services/nginx")

	get := func(url string) string {
		out, err := w.machine("wget", "-qO-", url)
		if err != nil {
			return err.Error()
		}
		return out
	}
	waitFor(t, "nginx", func() bool { return get("http://127.0.0.1:8080/static") == "nginx\n" })
	if got := get("http://[::1]:8080/"); got != "visits 1 hits 1\n" {
		t.Errorf("the first answer is %q", got)
	}
	if got, err := outside("wget", "-qO-", "http://203.0.113.1:8080/"); err != nil || got != "visits 2 hits 2\n" {
		t.Errorf("from outside the answer is %q (%v)", got, err)
	}
	// The clients of the packages, by the published ports.
	psql := []string{"run", "--rm", "--network", "host", "-e", "PGPASSWORD=secret", "--entrypoint", "psql", "services/postgres", "-h", "127.0.0.1", "-U", "postgres", "-Atc"}
	if got := w.ok(append(psql, "SELECT count(*) FROM visits")...); got != "2\n" {
		t.Errorf("psql says %q", got)
	}
	if got := w.ok("run", "--rm", "--network", "host", "services/redis", "redis-cli", "-h", "::1", "get", "hits"); got != "2\n" {
		t.Errorf("redis-cli says %q", got)
	}
	w.fails(2, nil, append(psql, "SELECT 1", "-U", "stranger")...)

	// The data outlive the container, which ended as its program is told to.
	w.ok("stop", "db")
	if got := w.field("db", "{{.State.ExitCode}}"); got != "0" {
		t.Errorf("PostgreSQL ended with %s:\n%s", got, w.run("logs", "db").stderr)
	}
	w.ok("rm", "-v", "db") // -v takes anonymous volumes alone
	database()
	if r := w.run("logs", "db"); strings.Contains(r.stdout+r.stderr, "automatic recovery in progress") {
		t.Errorf("PostgreSQL was not shut down well:\n%s", r.stdout+r.stderr)
	}
	if got := get("http://127.0.0.1:8080/"); got != "visits 3 hits 3\n" {
		t.Errorf("after the database was made anew the answer is %q; Node says %s", got, w.run("logs", "node").stderr)
	}
	if got := w.ok("exec", "db", "psql", "-Atc", "SELECT count(*) FROM visits"); got != "3\n" {
		t.Errorf("psql in the container says %q", got)
	}
	if got := strings.Count(w.ok("logs", "web"), `"GET `); got < 4 {
		t.Errorf("the log of nginx has %d requests:\n%s", got, w.ok("logs", "web"))
	}
	w.ok("stop", "web", "node", "cache", "db")
	for _, name := range []string{"web", "cache", "db", "node"} {
		if got := w.field(name, "{{.State.Status}} {{.State.ExitCode}}"); got != "exited 0" {
			t.Errorf("%s %s", name, got)
		}
	}
}
