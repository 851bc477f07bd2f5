// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestPsFilters lists containers by each filter, with docker's meanings.
func TestPsFilters(t *testing.T) {
	w := newLifeBench(t)
	made := func(name string, flags ...string) {
		w.ok(slices.Concat([]string{"create", "--name", name}, flags, []string{"test/base", "true"})...)
		time.Sleep(time.Millisecond) // they are told apart by time
	}
	made("web1", "--label", "tier=front", "-v", "data:/data")
	made("web2", "--label", "tier=front", "--label", "new", "--restart", "always")
	made("db", "--label", "tier=back", "--expose", "5432", "--network", "none")
	w.ok("start", "db")
	w.ok("wait", "db")
	for filters, want := range map[string]string{
		"name=web":                       "web2 web1",
		"name=web name=db":               "db web2 web1",
		"name=^web1$":                    "web1",
		"name=^/web1":                    "web1",
		"name=eb[23]":                    "web2",
		"name=^eb":                       "",
		"label=tier":                     "db web2 web1",
		"label=tier=front":               "web2 web1",
		"label=tier=front label=new":     "web2",
		"before=web2":                    "web1",
		"since=web1":                     "db web2",
		"since=web1 before=db":           "web2",
		"status=created":                 "web2 web1",
		"status=exited status=running":   "db",
		"status=dead":                    "",
		"status=removing":                "",
		"exited=0":                       "db",
		"exited=1":                       "",
		"expose=5432":                    "db",
		"expose=5000-6000/tcp":           "db",
		"expose=5432/udp":                "",
		"publish=5432":                   "",
		"publish=8080":                   "",
		"network=none":                   "db",
		"volume=data":                    "web1",
		"volume=/data":                   "web1",
		"restart-policy=always":          "web2",
		"ancestor=test/base":             "db web2 web1",
		"ancestor=test/other":            "",
		"ancestor=test/child":            "",
		"health=none":                    "db web2 web1",
		"id=" + w.field("db", "{{.Id}}"): "db",
	} {
		args := []string{"ps", "-a", "--format", "{{.Names}}"}
		for _, f := range strings.Fields(filters) {
			args = append(args, "--filter", f)
		}
		if got := strings.Join(strings.Fields(w.ok(args...)), " "); got != want {
			t.Errorf("%s: %q, want %q", filters, got, want)
		}
	}
	for filter, words := range map[string][]string{
		"status=gone": {"created, running"}, "name=[": {"missing closing"}, "exited=x": {"exit code"}, "publish=1:2": {"want PORT"}, "nope=1": {"no such filter"}, "nope": {"NAME=VALUE"},
	} {
		w.fails(2, words, "ps", "--filter", filter)
	}
	w.fails(1, []string{"no such container: ghost"}, "ps", "--filter", "before=ghost")
	if out := w.ok("ps", "-a", "-n", "2", "--format", "{{.Names}}"); out != "db\nweb2\n" {
		t.Errorf("the last two are %q", out)
	}
	if out := w.ok("ps", "-lq", "--no-trunc"); strings.TrimSpace(out) != w.field("db", "{{.Id}}") {
		t.Errorf("the last one is %q", out)
	}
}

// TestPsImages shows the image of a container by its name as long as that is its name,
// and finds containers by what their image was made of.
func TestPsImages(t *testing.T) {
	w := newLifeBench(t)
	for i := range 2 {
		w.write("Dockerfile", fmt.Sprintf("FROM test/base\nRUN echo %d > /made\n", i))
		w.ok("build", "-q", "-t", "child", ".")
		w.ok("create", "--name", fmt.Sprintf("c%d", i), "child", "true")
	}
	// What adds no layer has its parent's, and its siblings'.
	w.write("Dockerfile", "FROM child\nENV A=1\n")
	w.ok("build", "-q", "-t", "plain", ".")
	w.write("Dockerfile", "FROM child\nENV A=2\n")
	w.ok("build", "-q", "-t", "sibling", ".")
	w.ok("create", "--name", "plain", "plain", "true")
	w.ok("create", "--name", "sibling", "sibling", "true")
	for value, want := range map[string]string{"child": "sibling plain c1", "plain": "plain", "sibling": "sibling"} {
		if got := strings.Join(strings.Fields(w.ok("ps", "-a", "--format", "{{.Names}}", "--filter", "ancestor="+value)), " "); got != want {
			t.Errorf("made of %s are %q, want %q", value, got, want)
		}
	}
	w.ok("rm", "plain", "sibling")
	w.ok("create", "--name", "base", "test/base", "true")
	id := strings.TrimPrefix(w.field("c0", "{{.Image}}"), "sha256:")
	if out := w.ok("ps", "-a", "--format", "{{.Names}} {{.Image}}"); out != "base test/base\nc1 child\nc0 "+id[:12]+"\n" {
		t.Errorf("the images are %q", out)
	}
	if out := w.ok("ps", "-a", "--no-trunc", "--format", "{{.Image}}", "--filter", "name=c0"); out != "sha256:"+id+"\n" {
		t.Errorf("the whole ID is %q", out)
	}
	for value, want := range map[string]string{"test/base": "base c1 c0", "child": "c1", id: "c0", id[:12]: "c0", "nothing": ""} {
		if got := strings.Join(strings.Fields(w.ok("ps", "-a", "--format", "{{.Names}}", "--filter", "ancestor="+value)), " "); got != want {
			t.Errorf("made of %s are %q, want %q", value, got, want)
		}
	}
}

// TestLogsUntil follows a log until a time: it ends then, whether or not there is
// more to come.
func TestLogsUntil(t *testing.T) {
	w := newLifeBench(t)
	w.ok("run", "-d", "--name", "cc", "test/base", "sh", "-c", "echo first; sleep 1000")
	waitFor(t, "the first line", func() bool { return w.ok("logs", "cc") == "first\n" })
	now := time.Now().UTC().Format(time.RFC3339Nano)
	w.ok("exec", "cc", "sh", "-c", "echo second > /proc/1/fd/1")
	waitFor(t, "the second line", func() bool { return w.ok("logs", "cc") == "first\nsecond\n" })
	if out := w.ok("logs", "-f", "--until", now, "cc"); out != "first\n" {
		t.Errorf("until then it was %q", out)
	}
	soon := time.Now().Add(300 * time.Millisecond).UTC().Format(time.RFC3339Nano)
	if out := w.ok("logs", "-f", "--until", soon, "cc"); out != "first\nsecond\n" {
		t.Errorf("until soon it was %q", out)
	}
}

// TestContainerSize tells what a container has written, and its size with the image.
func TestContainerSize(t *testing.T) {
	w := newLifeBench(t)
	for _, name := range []string{"one", "two"} {
		w.ok("run", "--name", name, "test/base", "dd", "if=/dev/zero", "of=/big", "bs=1024", "count=300")
	}
	var rw, whole int64
	if _, err := fmt.Sscan(w.ok("inspect", "-s", "--format", "{{.SizeRw}} {{.SizeRootFs}}", "one"), &rw, &whole); err != nil {
		t.Fatal(err)
	}
	w.ok("run", "--name", "small", "test/base", "sh", "-c", "mkdir /d && echo x > /d/f")
	w.ok("create", "--name", "untouched", "test/base")
	for name, want := range map[string]string{"untouched": "0", "small": "2"} {
		if got := w.ok("inspect", "-s", "--format", "{{.SizeRw}}", name); got != want+"\n" {
			t.Errorf("container %s has written %q bytes, want %s", name, got, want)
		}
		w.ok("rm", name)
	}
	if rw != 300<<10 || whole < rw+500<<10 {
		t.Errorf("it has written %d bytes, and takes %d with the image", rw, whole)
	}
	want := fmt.Sprintf("%s (virtual %s)\n", humanSize(rw), humanSize(whole))
	if out := w.ok("ps", "-as", "--format", "{{.Size}}"); out != want+want {
		t.Errorf("ps says %q, want %q twice", out, want)
	}
	if out := w.ok("inspect", "--format", "{{json .}}", "one"); strings.Contains(out, "SizeRw") {
		t.Error("sizes are told without being asked for")
	}
}
