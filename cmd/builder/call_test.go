// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"net/http/httptest"
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
	"error-cycle":        "1-1 circular dependency detected on stage: a",
	"error-missing-base": "1-1 base image registry.test/nosuch:latest: look at registry.test/nosuch:latest: not found at registry.test",
	"error-no-from":      " it has no FROM instruction, so there is nothing to build",
	"error-parse":        "3-3 COPY requires at least two arguments, but only one was provided. Destination could not be determined",
	"error-unknown":      "2-2 unknown instruction: RUM (did you mean RUN?)",
	"onbuild-stage":      `4-4 ONBUILD trigger "NONSENSE x": unknown instruction: NONSENSE`,
	"stage-name-casing":  `3-3 invalid image reference "Upper": repository names are lower case`,
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
