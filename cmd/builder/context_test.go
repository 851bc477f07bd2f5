// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"builder/internal/testutil"
)

func TestContextLs(t *testing.T) {
	w, git := newBench(t), testutil.NewGitServer(t)
	w.write("ctx/.dockerignore", "# comment\nnode_modules\n\n*.log\n!keep.log\nsrc\n!src/keep/*.c\n")
	w.write("ctx/Dockerfile", "FROM test/base\n")
	w.write("ctx/web.Dockerfile", "FROM test/base\n")
	w.write("ctx/web.Dockerfile.dockerignore", "*\n!a.txt\n")
	for _, name := range []string{"a.txt", "x.log", "keep.log", "node_modules/m/i.js", "src/b.c", "src/keep/c.c", "src/keep/h.h", "odd\nname"} {
		w.write("ctx/"+name, "12345")
	}
	if err := os.Symlink("a.txt", filepath.Join(w.dir, "ctx/link")); err != nil {
		t.Fatal(err)
	}
	list := w.ok("context", "ls", "ctx")
	want := []string{
		"MODE SIZE PATH", "-rw-r--r-- 58 .dockerignore", "-rw-r--r-- 15 Dockerfile", "-rw-r--r-- 5 a.txt", "-rw-r--r-- 5 keep.log",
		"Lrwxrwxrwx 0 link -> a.txt", `-rw-r--r-- 5 "odd\nname"`, "drwxr-xr-x 0 src", "drwxr-xr-x 0 src/keep", "-rw-r--r-- 5 src/keep/c.c",
		"-rw-r--r-- 15 web.Dockerfile", "-rw-r--r-- 9 web.Dockerfile.dockerignore", "total: 11 files, 117 bytes (117B)",
	}
	var got []string
	for _, line := range lines(list) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var f listedFile
	if out := lines(w.ok("context", "ls", "-f", "ctx/web.Dockerfile", "--format", "json", "ctx")); len(out) != 1 {
		t.Errorf("with another ignore file: %q", out)
	} else if err := json.Unmarshal([]byte(out[0]), &f); err != nil || f != (listedFile{"a.txt", "-rw-r--r--", 5, ""}) {
		t.Errorf("%+v, %v", f, err)
	}
	for path, want := range map[string]string{
		"a.txt":                   "a.txt: no rule matches it",
		"x.log":                   `x.log: excluded by "*.log" (.dockerignore:4)`,
		"keep.log":                `keep.log: taken in by "!keep.log" (.dockerignore:5)`,
		"./node_modules/m/i.js":   `node_modules/m/i.js: excluded by "node_modules" (.dockerignore:2), which matches the directory "node_modules"`,
		"node_modules/none":       `node_modules/none: excluded by "node_modules" (.dockerignore:2), which matches the directory "node_modules"; there is no such file`,
		"none":                    "none: no rule matches it; there is no such file",
		"src/b.c":                 `src/b.c: excluded by "src" (.dockerignore:6), which matches the directory "src"`,
		"/src/keep/c.c":           `src/keep/c.c: taken in by "!src/keep/*.c" (.dockerignore:7)`,
		"src/keep":                `src/keep: excluded by "src" (.dockerignore:6), which matches the directory "src"; the directory is there because of something in it`,
		"../../../../etc/passwd":  "etc/passwd: no rule matches it; there is no such file",
		strings.Repeat("x", 5000): strings.Repeat("x", 5000) + ": no rule matches it; there is no such file",
	} {
		if out := strings.TrimSpace(w.ok("context", "ls", "--why", path, "ctx")); out != want {
			t.Errorf("why %s:\n%s\nwant\n%s", path, out, want)
		}
	}
	var why map[string]any
	if err := json.Unmarshal([]byte(w.ok("context", "ls", "ctx", "--why", "x.log", "--format=json")), &why); err != nil ||
		why["rule"] != "*.log" || why["line"] != 4.0 || why["inContext"] != false || why["exists"] != true {
		t.Errorf("%v, %v", why, err)
	}
	git.Repository(t, "r").Commit("sub/file", "x", "sub/.dockerignore", "file\n")
	if out := lines(w.ok("context", "ls", "--format=json", git.RepositoryURL("r")+"#:sub")); len(out) != 2 {
		t.Errorf("a repository: %q", out)
	}
	if out := w.ok("context", "ls", "--help"); !strings.Contains(out, "--why") {
		t.Errorf("help: %s", out)
	}
	w.fails(2, []string{`unknown command "rm"`, "builder context ls"}, "context", "rm")
	w.fails(2, []string{"arguments"}, "context")
	w.fails(2, []string{"arguments"}, "context", "ls")
	w.fails(2, []string{"want table or json"}, "context", "ls", "--format=x", "ctx")
	w.fails(2, []string{"the context itself"}, "context", "ls", "--why", "/", "ctx")
	w.fails(1, []string{`"none"`, "no such file"}, "context", "ls", "none")
	w.fails(1, []string{"nothere"}, "context", "ls", "-f", "nothere", "ctx")
}
