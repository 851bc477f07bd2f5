// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"builder/internal/testutil"
)

func TestUntag(t *testing.T) {
	w := newBench(t)
	id := w.importTar("a", "--change", "LABEL x=1")
	w.ok("tag", "a", "b", "c:1", "example.com/d")
	names := func() string {
		got := strings.Fields(w.ok("images", "--filter", "label=x", "--format", "{{.Repository}}:{{.Tag}}"))
		slices.Sort(got)
		return strings.Join(got, " ")
	}
	for _, tt := range []struct {
		code int
		word string
		args []string
	}{
		{2, "usage: builder untag", nil},
		{1, "nothing:latest: not found", []string{"nothing"}},
		{1, "has no such name; it has a:latest, b:latest, c:1, example.com/d:latest", []string{"a", "test/base"}},
		{1, "c:2", []string{"a", "b", "c:2"}},
		{1, "lower case", []string{"a", "B"}},
		{1, "has no such name", []string{"a", id}},
		{2, "unknown flag", []string{"--force", "a"}},
	} {
		w.fails(tt.code, []string{tt.word}, append([]string{"untag"}, tt.args...)...)
	}
	if got := names(); got != "a:latest b:latest c:1 example.com/d:latest" {
		t.Fatalf("after errors: %s", got)
	}
	w.ok("untag", id[7:19], "b", "c:1", "b")
	if got := names(); got != "a:latest example.com/d:latest" {
		t.Errorf("after two went: %s", got)
	}
	w.ok("untag", "a")
	if got := names(); got != "<none>:<none>" {
		t.Errorf("after all went: %s", got)
	}
	w.ok("untag", id) // has no names: nothing to do
	w.fails(1, []string{"it has none"}, "untag", id, "a")
	w.ok("rmi", "-f", "test/base") // collects what nothing needs
	w.ok("tag", id, "back")
	if got := w.ok("run", "--rm", "back", "echo", "whole"); got != "whole\n" {
		t.Errorf("run prints %q", got)
	}
}

func TestPlatformOfImage(t *testing.T) {
	w := newBench(t)
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	w.write("Dockerfile", "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n")
	w.ok("build", "-q", "--platform", "linux/amd64,linux/arm64", "-t", "both", ".")
	for _, tt := range []struct{ platform, want string }{
		{"", runtime.GOARCH}, {"linux/amd64", "amd64"}, {"linux/arm64", "arm64"}, {"linux/arm64/v8", "arm64"}, {"linux/aarch64", "arm64"},
	} {
		if got := w.ok("inspect", "--platform", tt.platform, "-f", "{{.Architecture}} {{.Config.Labels.arch}}", "both"); got != tt.want+" "+tt.want+"\n" {
			t.Errorf("inspect --platform %s: %q", tt.platform, got)
		}
		if got := w.ok("history", "--platform", tt.platform, "--no-trunc", "--format", "{{.CreatedBy}}", "both"); !strings.Contains(got, "LABEL arch="+tt.want) {
			t.Errorf("history --platform %s: %q", tt.platform, got)
		}
	}
	w.ok("save", "--platform", "linux/"+other, "-o", "one.tar", "both")
	loaded := &workbench{t: t, root: t.TempDir(), dir: w.dir}
	if got := loaded.ok("load", "-q", "-i", "one.tar"); got != "Loaded image: both:latest\n" {
		t.Errorf("load prints %q", got)
	}
	if got := loaded.ok("inspect", "-f", "{{.Architecture}} {{.Descriptor.MediaType}}", "both"); !strings.HasPrefix(got, other+" ") || strings.Contains(got, "index") {
		t.Errorf("saved: %q", got)
	}
	for _, tt := range []struct {
		code int
		word string
		args []string
	}{
		{1, "no manifest for linux/s390x", []string{"inspect", "--platform", "linux/s390x", "both"}},
		{1, "no manifest for linux/s390x", []string{"history", "--platform", "linux/s390x", "both"}},
		{1, "no manifest for linux/s390x", []string{"save", "--platform", "linux/s390x", "-o", "x", "both"}},
		{1, "is for linux/" + runtime.GOARCH + ", not for linux/" + other, []string{"inspect", "--platform", "linux/" + other, "test/base"}},
		{2, "--platform", []string{"inspect", "--platform", "a/b/c/d", "both"}},
		{2, "--platform", []string{"save", "--platform", "a/b/c/d", "both"}},
	} {
		w.fails(tt.code, []string{tt.word}, tt.args...)
	}
	if exists(filepath.Join(w.dir, "x")) {
		t.Error("a failed save leaves its file")
	}
}

func TestInspectFormat(t *testing.T) {
	w := newBench(t)
	id := w.importTar("a", "--change", "LABEL x=1 y.z=2", "--change", "ENV A=1 B=2")
	var size json.Number
	if err := json.Unmarshal([]byte(w.ok("inspect", "-f", "{{.Size}}", "a")), &size); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ format, want string }{
		{"{{.Id}}", id}, // docker's JSON name
		{"{{.Id}} {{.Size}}", id + " " + size.String()},
		{"{{.ID}}", id},
		{"{{index .Config.Labels \"y.z\"}}", "2"},
		{"{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "x=1;y.z=2;"},
		{"{{join .Config.Env \"|\"}}", "A=1|B=2"},
		{"{{upper .Os}} {{title .Os}} {{pad .Os 1 2}}. {{truncate .Os 3}}", "LINUX Linux  linux  . lin"},
		{"{{json (split .Os \"n\")}}", `["li","ux"]`},
		{"{{with .Config.Labels}}{{.x}}{{end}}", "1"},
	} {
		if got := w.ok("inspect", "-f", tt.format, "a"); got != tt.want+"\n" {
			t.Errorf("-f %s: %q, want %q", tt.format, got, tt.want)
		}
	}
	for _, format := range []string{"{{.Nothing}}", "{{.Id.X}}", "{{nofunc .ID}}", "{{", "{{join .ID}}", "{{index .RepoTags 9}}"} {
		w.fails(2, []string{"--format"}, "inspect", "-f", format, "a")
	}
}

func TestAllTags(t *testing.T) {
	testutil.Require(t, "docker-registry")
	host := startRegistry(t)
	w := newBench(t)
	for _, name := range []string{"a", "b", "1.0"} {
		w.ok("tag", "test/base", host+"/team/app:"+name)
	}
	w.ok("tag", "test/base", host+"/team/app2:x")
	if got := w.ok("push", "-q", "--all-tags", host+"/team/app"); got != host+"/team/app:1.0\n"+host+"/team/app:a\n"+host+"/team/app:b\n" {
		t.Errorf("push prints %q", got)
	}
	other := &workbench{t: t, root: t.TempDir(), dir: t.TempDir()}
	got := lines(other.ok("pull", "-q", "-a", host+"/team/app"))
	slices.Sort(got)
	if want := []string{host + "/team/app:1.0", host + "/team/app:a", host + "/team/app:b"}; !slices.Equal(got, want) {
		t.Errorf("pull prints %q", got)
	}
	if got := lines(other.ok("images", "--format", "{{.Repository}}:{{.Tag}}")); len(got) != 3 {
		t.Errorf("images: %q", got)
	}
	for _, tt := range []struct {
		code int
		word string
		args []string
	}{
		{2, "has a tag or digest", []string{"pull", "-a", host + "/team/app:a"}},
		{2, "has a tag or digest", []string{"push", "-a", host + "/team/app:a"}},
		{2, "has a tag or digest", []string{"pull", "-a", host + "/team/app@sha256:" + strings.Repeat("0", 64)}},
		{1, "lower case", []string{"pull", "-a", "UPPER"}},
		{1, "not found at " + host, []string{"pull", "-a", host + "/none"}},
		{1, "no image in the store has a tag of it", []string{"push", "-a", host + "/none"}},
		{1, "connection refused", []string{"pull", "-a", "127.0.0.1:1/x"}},
	} {
		w.fails(tt.code, []string{tt.word}, tt.args...)
	}
}
