// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestTree(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base AS low\nENV A=1\nRUN echo one > /one\nFROM low\nRUN echo two > /two && \\\n\ttrue\n")
	w.ok("build", "-q", "--target", "low", "-t", "low", ".")
	w.ok("build", "-q", "-t", "app:1", "-t", "example.com/app", ".")
	id := strings.TrimSpace(w.ok("images", "-q", "--no-trunc", "app:1"))

	got := lines(w.ok("tree", "app:1"))
	want := []string{
		`^Image ID: ` + id[7:19] + `$`,
		`^Tags:     app:1, example\.com/app:latest$`,
		`^Size:     [\d.]+[kM]B$`,
		`^Layers:   3$`,
		`^├── [0-9a-f]{12}  [\d.]+[kM]B +\S.* +\[test/base:latest\]$`,
		`^├── [0-9a-f]{12}  [\d.]+k?B +RUN /bin/sh -c echo one > /one # buildkit +\[low:latest\]$`,
		`^└── [0-9a-f]{12}  [\d.]+k?B +RUN /bin/sh -c echo two > /two && true # buildkit +\[app:1, example\.com/app:latest\]$`,
	}
	if len(got) != len(want) {
		t.Fatalf("tree:\n%s", strings.Join(got, "\n"))
	}
	for i, line := range got {
		if !regexp.MustCompile(want[i]).MatchString(line) {
			t.Errorf("line %d: %q, want %s", i, line, want[i])
		}
	}
	var tree imageTree
	if err := json.Unmarshal([]byte(w.ok("tree", "--format", "json", id[7:19])), &tree); err != nil {
		t.Fatal(err)
	}
	if tree.ID.String() != id || len(tree.Layers) != 3 || !slices.Equal(tree.Layers[1].Tags, []string{"low:latest"}) || tree.Layers[2].Digest == "" || tree.Layers[2].Size == 0 {
		t.Errorf("json: %+v", tree)
	}
	if got := w.ok("inspect", "-f", "{{index .RootFS.Layers 1}}", "app:1"); got != tree.Layers[1].DiffID.String()+"\n" {
		t.Errorf("diffID %s, and inspect says %s", tree.Layers[1].DiffID, got)
	}
	if got := w.ok("tree", "--format", "{{range .Layers}}{{len .Tags}} {{end}}", "app:1"); got != "1 1 2 \n" {
		t.Errorf("template: %q", got)
	}
	w.write("Dockerfile", "FROM scratch\nLABEL a=b\n")
	w.ok("build", "-q", "-t", "empty", ".")
	if got := w.ok("tree", "--no-trunc", "empty"); !strings.HasSuffix(got, "\nLayers:   0\n") || !strings.HasPrefix(got, "Image ID: sha256:") {
		t.Errorf("without layers: %q", got)
	}
	for _, tt := range []struct {
		code int
		word string
		args []string
	}{
		{2, "usage: builder tree", nil},
		{2, "usage: builder tree", []string{"a", "b"}},
		{1, "nothing:latest: not found", []string{"nothing"}},
		{1, "lower case", []string{"A"}},
		{2, "--format", []string{"--format", "{{.Nothing}}", "app:1"}},
		{2, "--platform", []string{"--platform", "a/b/c/d", "app:1"}},
		{1, "not for linux/s390x", []string{"--platform", "linux/s390x", "app:1"}},
	} {
		w.fails(tt.code, []string{tt.word}, append([]string{"tree"}, tt.args...)...)
	}
}

func TestDiff(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", "FROM test/base\nRUN echo one > /one && rm /etc/group\nRUN mkdir /d && echo two > /d/two && echo 2 > /one\n")
	w.ok("build", "-q", "-t", "app", ".")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"app"}, "A /d|A /d/two|C /one"},
		{[]string{"app", "test/base"}, "A /d|A /d/two|C /etc|D /etc/group|A /one"},
		{[]string{"test/base", "app"}, "D /d|C /etc|A /etc/group|D /one"},
		{[]string{"app", "app"}, ""},
		{[]string{"--format", "json", "app", "test/base"}, `{"changed":["/etc"],"added":["/d","/d/two","/one"],"deleted":["/etc/group"]}`},
		{[]string{"--format", "json", "app", "app"}, `{}`},
	} {
		got := strings.ReplaceAll(strings.TrimSpace(w.ok(append([]string{"diff"}, tt.args...)...)), "\n", "|")
		if got != tt.want {
			t.Errorf("diff %q:\n%s, want\n%s", tt.args, got, tt.want)
		}
	}
	for _, tt := range []struct {
		code int
		word string
		args []string
	}{
		{2, "usage: builder diff", nil},
		{2, "usage: builder diff", []string{"app", "app", "app"}},
		{2, `--format "{{.}}": want json`, []string{"--format", "{{.}}", "app"}},
		{1, "nothing:latest: not found", []string{"nothing"}},
		{1, "nothing:latest: not found", []string{"app", "nothing"}},
		{1, "not for linux/s390x", []string{"--platform", "linux/s390x", "app"}},
	} {
		w.fails(tt.code, []string{tt.word}, append([]string{"diff"}, tt.args...)...)
	}
}
