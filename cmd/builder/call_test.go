// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"builder/dockerfile"
	"builder/internal/conformance"

	"github.com/google/go-cmp/cmp"
)

const checksCorpus = "../../testdata/checks"

// ownErrors are the errors of which our words or lines are not BuildKit's, each
// with its lines.
var ownErrors = map[string]string{
	"error-cycle":              "1-1 circular dependency detected on stage: a",
	"error-missing-base":       "1-1 base image registry.test/nosuch:latest: look at registry.test/nosuch:latest: not found at registry.test",
	"error-no-from":            " it has no FROM instruction, so there is nothing to build",
	"error-platform":           `1-1 invalid platform "nonsense": no operating system or architecture is called so`,
	"error-parse":              "3-3 COPY requires at least two arguments, but only one was provided. Destination could not be determined",
	"error-unreachable-base":   `1-1 invalid image reference "Not/Valid": repository names are lower case`,
	"outline-unreachable-base": `1-1 invalid image reference "Not/Valid": repository names are lower case`,
	"error-unknown":            "2-2 unknown instruction: RUM (did you mean RUN?)",
	"onbuild-stage":            `4-4 ONBUILD trigger "NONSENSE x": unknown instruction: NONSENSE`,
	"stage-name-casing":        `3-3 invalid image reference "Upper": repository names are lower case`,
}

// callBench runs calls in this process: a state directory, a working directory,
// and a registry with the base images of the corpus.
type callBench struct {
	t         *testing.T
	root, dir string
	host      string
}

func newCallBench(t *testing.T) *callBench {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("recorded on amd64, whose name is in the messages")
	}
	images, err := conformance.ConfigRegistry(filepath.Join(checksCorpus, "images.json"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(images)
	t.Cleanup(server.Close)
	b := &callBench{t: t, root: t.TempDir(), dir: t.TempDir(), host: strings.TrimPrefix(server.URL, "http://")}
	b.run("images") // makes the state directory
	return b
}

// run runs a command of builder.
func (b *callBench) run(args ...string) result {
	b.t.Helper()
	files := make([]*os.File, 2)
	for i := range files {
		f, err := os.CreateTemp(b.t.TempDir(), "")
		if err != nil {
			b.t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	e := &env{stdout: files[0], stderr: files[1], getenv: func(name string) string {
		return map[string]string{"BUILDER_ROOT": b.root, "BUILDER_PROGRESS": "plain"}[name]
	}}
	res := result{code: e.report(dispatch(b.t.Context(), e, args))}
	for i, s := range []*string{&res.stdout, &res.stderr} {
		data, err := os.ReadFile(files[i].Name())
		if err != nil {
			b.t.Fatal(err)
		}
		*s = strings.ReplaceAll(string(data), b.host, "registry.test")
	}
	return res
}

// use puts a Dockerfile and its ignore file into the working directory.
func (b *callBench) use(dir string) {
	b.t.Helper()
	for _, name := range []string{"Dockerfile", "Dockerfile.dockerignore"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			os.Remove(filepath.Join(b.dir, name))
			continue
		}
		b.write(name, string(data))
	}
}

func (b *callBench) write(name, text string) {
	b.t.Helper()
	text = strings.ReplaceAll(text, "registry.test/", b.host+"/")
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// call runs a call on what is in the working directory.
func (b *callBench) call(call string, args ...string) result {
	b.t.Helper()
	return b.run(append([]string{"build", "--call", call}, append(args, b.dir)...)...)
}

// TestCallsAsRecorded compares what builder says of the Dockerfiles of
// testdata/checks with what BuildKit said.
func TestCallsAsRecorded(t *testing.T) {
	b := newCallBench(t)
	cases, err := conformance.Cases(checksCorpus)
	if err != nil {
		t.Fatal(err)
	}
	fired := map[string]int{}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			b.t = t
			b.use(c.Dir)
			data, err := os.ReadFile(filepath.Join(c.Dir, "expect.json"))
			if err != nil {
				t.Fatal(err)
			}
			var want conformance.Calls
			if err := json.Unmarshal(data, &want); err != nil {
				t.Fatal(err)
			}
			b.compare(c, "check", want.Check)
			if want.Outline != nil {
				b.compare(c, "outline", *want.Outline)
			}
			if want.Targets != nil {
				b.compare(c, "targets", *want.Targets)
			}
			for _, r := range dockerfile.Rules() {
				if strings.Contains(string(data), `"ruleName": "`+r.Name+`"`) {
					fired[r.Name]++
				}
			}
		})
	}
	for _, r := range dockerfile.Rules() {
		if fired[r.Name] == 0 || fired[r.Name] == len(cases) {
			t.Errorf("of %d cases, %s is found in %d: want some with it and some without", len(cases), r.Name, fired[r.Name])
		}
	}
}

func (b *callBench) compare(c conformance.Case, call string, want conformance.Call) {
	t := b.t
	t.Helper()
	res := b.call(call+",format=json", c.Args...)
	if res.code != want.Status {
		t.Errorf("%s ends with %d, want %d\n%s", call, res.code, want.Status, res.stderr)
	}
	if want.Result == nil {
		if res.stdout != "" {
			t.Errorf("%s prints %s", call, res.stdout)
		}
		return
	}
	got, err := conformance.CallResult([]byte(res.stdout))
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", call, err, res.stdout, res.stderr)
	}
	if m := got.(map[string]any); call == "outline" {
		delete(m, "cache") // BuildKit has the member and leaves it empty
	}
	if own, ok := ownErrors[c.Name]; ok {
		e, _ := got.(map[string]any)["buildError"].(map[string]any)
		if said := e["location"].(string) + " " + e["message"].(string); said != own {
			t.Errorf("error is %q, want %q", said, own)
		}
		delete(got.(map[string]any), "buildError")
		delete(want.Result.(map[string]any), "buildError")
	}
	if d := cmp.Diff(want.Result, got); d != "" {
		t.Errorf("%s (-BuildKit +builder):\n%s", call, d)
	}
	if call == "check" {
		return
	}
	text, _, _ := strings.Cut(b.call(call, c.Args...).stdout, "CACHE\n")
	if d := cmp.Diff(sortedLines(want.Text), sortedLines(text)); d != "" {
		t.Errorf("text of %s (-BuildKit +builder):\n%s", call, d)
	}
}

// sortedLines are the lines of a text: BuildKit orders those of one line of
// the Dockerfile at random.
func sortedLines(s string) []string {
	l := strings.Split(s, "\n")
	slices.Sort(l)
	return l
}

// TestCheckOutput holds what a check prints and how it ends.
func TestCheckOutput(t *testing.T) {
	b := newCallBench(t)
	b.write("Dockerfile", "FROM registry.test/base AS b\nCMD one \\\n  two\nMAINTAINER me\n")
	res := b.call("check")
	name := filepath.Join(b.dir, "Dockerfile")
	want := `Check complete, 2 warnings have been found!

WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/
JSON arguments recommended for CMD to prevent unintended behavior related to OS signals
` + name + `:2
--------------------
   1 |     FROM registry.test/base AS b
   2 | >>> CMD one \
   3 | >>>   two
   4 |     MAINTAINER me
--------------------

WARNING: MaintainerDeprecated - https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/
Maintainer instruction is deprecated in favor of using label
` + name + `:4
--------------------
   2 |     CMD one \
   3 |       two
   4 | >>> MAINTAINER me
--------------------
`
	if d := cmp.Diff(want, res.stdout); d != "" || res.stderr != "" || res.code != 1 {
		t.Errorf("exit code %d, %s%s", res.code, d, res.stderr)
	}
	for call, code := range map[string]int{"lint": 1, "check,ignorestatus=true": 0, "check,format=sarif,ignorestatus=true": 0, "outline": 0, "targets": 0} {
		if res := b.call(call); res.code != code || res.stderr != "" {
			t.Errorf("%s: exit code %d, want %d\n%s", call, res.code, code, res.stderr)
		}
	}
	if res := b.run("build", "--check", "--check=false", "--call=targets", b.dir); res.code != 0 || !strings.Contains(res.stdout, "b (default)") {
		t.Errorf("exit code %d\n%s%s", res.code, res.stdout, res.stderr)
	}
	b.write("Dockerfile", "FROM registry.test/base AS B\nCOPY x\n")
	res = b.call("check,ignorestatus=true")
	if res.code != 1 || !strings.Contains(res.stdout, "StageNameCasing") || !strings.Contains(res.stderr, name+":2: COPY requires at least two arguments") {
		t.Errorf("exit code %d\n%s%s", res.code, res.stdout, res.stderr)
	}
	b.write("Dockerfile", "FROM registry.test/base\n")
	if res := b.run("build", "--check", b.dir); res.code != 0 || res.stdout != "Check complete, no warnings found.\n" {
		t.Errorf("exit code %d\n%s%s", res.code, res.stdout, res.stderr)
	}
}

// TestCallNeedsNothing runs calls where there is no state directory, and where
// no registry answers: nothing is made, and what is not known is said.
func TestCallNeedsNothing(t *testing.T) {
	b := newCallBench(t)
	b.root = filepath.Join(t.TempDir(), "state")
	t.Setenv("TMPDIR", t.TempDir())
	b.write("Dockerfile", "FROM 127.0.0.1:1/x AS x\nCMD x\n")
	res := b.call("check", "--retry=0")
	if res.code != 1 || !strings.Contains(res.stdout, "1 warning") || !strings.Contains(res.stderr, "base image 127.0.0.1:1/x:latest is not known here") {
		t.Errorf("exit code %d\n%s%s", res.code, res.stdout, res.stderr)
	}
	if _, err := os.Stat(b.root); err == nil {
		t.Error("a state directory was made")
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) != 0 {
		t.Errorf("left in %s: %v, %v", os.TempDir(), left, err)
	}
}

// TestCallFetchesConfigsOnly holds that base images that are not here are
// looked at and not fetched, and that one that is here is not asked for.
func TestCallFetchesConfigsOnly(t *testing.T) {
	b := newCallBench(t)
	b.write("Dockerfile", "FROM registry.test/arm\n")
	if res := b.call("check"); res.code != 1 || !strings.Contains(res.stdout, "InvalidBaseImagePlatform") {
		t.Errorf("exit code %d\n%s%s", res.code, res.stdout, res.stderr)
	}
	if blobs, err := os.ReadDir(filepath.Join(b.root, "blobs", "sha256")); err != nil || len(blobs) != 0 {
		t.Errorf("%d blobs were kept, %v", len(blobs), err)
	}
}

// TestWrongCalls holds the message for each wrong value.
func TestWrongCalls(t *testing.T) {
	b := newCallBench(t)
	b.write("Dockerfile", "FROM scratch\n")
	for flag, want := range map[string]string{
		"--call=nonsense":             `"nonsense" is not known: there are build, check, outline and targets`,
		"--call=":                     `"" is not known`,
		"--call=check,outline":        `"check,outline" names two things to do`,
		"--call=check,format=xml":     `check has no format "xml": there are text, json, sarif`,
		"--call=targets,format=sarif": `targets has no format "sarif": there are text, json`,
		"--call=check,ignorestatus=x": `ignorestatus="x": want true or false`,
		"--call=check,what=1":         `has no option "what"`,
		"--check=maybe":               `invalid argument "maybe"`,
	} {
		if res := b.run("build", flag, b.dir); res.code != exitUsage || !strings.Contains(res.stderr, want) || res.stdout != "" {
			t.Errorf("%s: exit code %d, message lacks %q\n%s", flag, res.code, want, res.stderr)
		}
	}
	if res := b.run("build", "--check", "--call=outline", b.dir); res.code != exitUsage || !strings.Contains(res.stderr, "something else than --check") {
		t.Errorf("exit code %d\n%s", res.code, res.stderr)
	}
}

// TestSyntaxDirective holds what is made of the frontend that a file asks for.
func TestSyntaxDirective(t *testing.T) {
	b := newCallBench(t)
	tests := []struct {
		source, arg string
		code        int
		say         string // in the messages
	}{
		{"# syntax=docker/dockerfile:1\nFROM scratch\n", "", 0, ""},
		{"#syntax = docker/dockerfile:1.99\nFROM scratch\n", "", 0, "1.99 is newer than the " + dockerfile.FrontendVersion},
		{"# syntax=docker/dockerfile:1-labs\nFROM scratch\n", "", 0, "of the labs channel"},
		{"#!/usr/bin/env x\n# syntax=other/frontend\nFROM scratch\n", "", 1, `Dockerfile:2: syntax directive asks for the frontend "other/frontend"`},
		{"// syntax=other/frontend:2\n", "", 1, `Dockerfile:1: syntax directive asks for the frontend "other/frontend:2"`},
		{`{"syntax": "other/frontend"}`, "", 1, `asks for the frontend "other/frontend"`},
		{"# syntax=other/frontend\nFROM scratch\n", "docker/dockerfile:1", 0, ""},
		{"FROM scratch\n", "other/frontend some=thing", 1, `build argument BUILDKIT_SYNTAX asks for the frontend "other/frontend"`},
		{"FROM scratch\n", " ", 1, "BUILDKIT_SYNTAX is empty"},
		{"FROM scratch\n# syntax=other/frontend\n", "", 0, ""},
		{"# syntax=a\n# syntax=b\nFROM scratch\n", "docker/dockerfile", 1, "only one syntax parser directive can be used"},
	}
	for _, tt := range tests {
		b.write("Dockerfile", tt.source)
		args := []string{}
		if tt.arg != "" {
			args = []string{"--build-arg", "BUILDKIT_SYNTAX=" + tt.arg}
		}
		res := b.call("check", args...)
		if res.code != tt.code || !strings.Contains(res.stderr, tt.say) || tt.say == "" && res.stderr != "" {
			t.Errorf("%q, %q: exit code %d, want %d and %q\n%s", tt.source, tt.arg, res.code, tt.code, tt.say, res.stderr)
		}
		if n := strings.Count(res.stderr, tt.say); tt.code == 0 && tt.say != "" && n != 1 {
			t.Errorf("%q: the note comes %d times", tt.source, n)
		}
	}
}

// TestSARIF holds every requirement of SARIF 2.1.0 on what is printed: §3.13,
// 3.14, 3.19, 3.27, 3.30 and 3.49.
func TestSARIF(t *testing.T) {
	b := newCallBench(t)
	for source, want := range map[string]struct{ results, errors int }{
		"FROM registry.test/base\n":                          {0, 0},
		"FROM registry.test/base AS B\nCMD a \\\n b\n":       {2, 0},
		"FROM registry.test/base AS B\nCOPY x\n":             {2, 1},
		"# check=error=true\nFROM registry.test/base AS B\n": {2, 1},
	} {
		b.write("Dockerfile", source)
		res := b.call("check,format=sarif")
		dec := json.NewDecoder(strings.NewReader(res.stdout))
		dec.DisallowUnknownFields()
		var log sarifLog
		if err := dec.Decode(&log); err != nil {
			t.Fatalf("%v\n%s%s", err, res.stdout, res.stderr)
		}
		if log.Version != "2.1.0" || !strings.HasPrefix(log.Schema, "https://") || len(log.Runs) != 1 {
			t.Fatalf("version %q, schema %q, %d runs", log.Version, log.Schema, len(log.Runs))
		}
		run := log.Runs[0]
		checkSARIFRules(t, run.Tool.Driver)
		if len(run.Results) != want.results || run.Results == nil {
			t.Errorf("%q: %d results, want %d", source, len(run.Results), want.results)
		}
		errors := 0
		for _, r := range run.Results {
			checkSARIFResult(t, run, r, strings.Count(source, "\n"))
			if r.Level == "error" {
				errors++
			}
		}
		inv := run.Invocations
		if len(inv) != 1 || inv[0].Successful != (want.errors == 0) || errors != want.errors || len(inv[0].Notifications) != errors {
			t.Errorf("%q: %d errors, invocations %+v", source, errors, inv)
		}
	}
}

func checkSARIFRules(t *testing.T, driver sarifDriver) {
	t.Helper()
	if driver.Name == "" {
		t.Error("the driver has no name")
	}
	ids := map[string]bool{}
	for _, r := range driver.Rules {
		if r.ID == "" || ids[r.ID] || r.ShortDescription.Text == "" {
			t.Errorf("rule %+v", r)
		}
		if u, err := url.Parse(r.HelpURI); err != nil || r.HelpURI != "" && !u.IsAbs() {
			t.Errorf("help of %s is at %q, which is no URI", r.ID, r.HelpURI)
		}
		ids[r.ID] = true
	}
	if len(ids) != len(dockerfile.Rules())+1 {
		t.Errorf("%d rules", len(ids))
	}
}

func checkSARIFResult(t *testing.T, run sarifRun, r sarifResult, lines int) {
	t.Helper()
	if r.Message.Text == "" || !slices.Contains([]string{"none", "note", "warning", "error"}, r.Level) {
		t.Errorf("result %+v", r)
	}
	if i := r.RuleIndex; i < 0 || i >= len(run.Tool.Driver.Rules) || run.Tool.Driver.Rules[i].ID != r.RuleID {
		t.Errorf("rule %d is not %s", i, r.RuleID)
	}
	for _, l := range r.Locations {
		if u, err := url.Parse(l.Physical.Artifact.URI); err != nil || u.Path == "" {
			t.Errorf("artifact %q, %v", l.Physical.Artifact.URI, err)
		}
		if g := l.Physical.Region; g != nil && (g.StartLine < 1 || g.EndLine < g.StartLine || g.EndLine > lines) {
			t.Errorf("region %+v", g)
		}
	}
}
