// SPDX-License-Identifier: Apache-2.0

package conformance_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"builder/internal/conformance"
	"builder/internal/testutil"
)

const corpus = "../../testdata"

// difference is a way in which the product is not to be like the recorded
// builder: lines of [conformance.Compare] that begin with line, and why.
type difference struct {
	line string
	why  string
}

// intended lists the differences by case. One that no longer shows is an
// error, so that the list stays true.
var intended = map[string][]difference{
	"arg-source-date-epoch": {
		{"tree now", "with SOURCE_DATE_EPOCH no time of the build is in a layer; BuildKit needs rewrite-timestamp for that"},
	},
	"add-http-with-epoch": {
		{"tree f", "with SOURCE_DATE_EPOCH no later time is in a layer; BuildKit needs rewrite-timestamp for that"},
	},
	"context-named-as-base": {
		{"history[0]", "the line of the context's own layer stands first, as its layer; BuildKit puts it last, under another's name"},
		{"history[1]", "as above"},
		{"history[2]", "as above"},
	},
	"copy-special-files": {
		{"tree tree/block", "a block device stays one; BuildKit makes a character device of it"},
	},
	"epoch-everything": {
		{"tree d", "with SOURCE_DATE_EPOCH no later time is in a layer; BuildKit needs rewrite-timestamp for that"},
		{"tree l", "as above"},
		{"tree t/g", "as above"},
		{"tree w/x", "as above"},
	},
	"epoch-in-dockerfile": {
		{"tree e", "with SOURCE_DATE_EPOCH no later time is in a layer; BuildKit needs rewrite-timestamp for that"},
		{"tree f", "as above"},
	},
	"epoch-zero": {
		{"tree f", "with SOURCE_DATE_EPOCH no later time is in a layer; BuildKit needs rewrite-timestamp for that"},
	},
	"workdir-unclean": {
		{"tree abs", "BuildKit's runtime makes what stands before a .. in the working directory"},
		{"layer[1]: -abs/", "as above"},
	},
}

// lab is what all cases share: the program, its state directory and the base
// images in it.
type lab struct {
	builder string
	root    string
	base    string
	bases   []*conformance.Image
	server  *conformance.Server
}

func newLab(t *testing.T) *lab {
	t.Helper()
	testutil.Require(t, "root")
	if runtime.GOARCH != "amd64" {
		t.Skip("the corpus is recorded for amd64")
	}
	l := &lab{builder: os.Getenv("BUILDER_BIN"), root: filepath.Join(t.TempDir(), "root")}
	if l.builder == "" {
		l.builder = filepath.Join(t.TempDir(), "builder")
		command(t, "go", "build", "-o", l.builder, "../../cmd/builder")
	}
	l.base = t.TempDir()
	if out, err := exec.Command("sh", filepath.Join(corpus, "base.sh"), l.base).CombinedOutput(); err != nil {
		testutil.Require(t, "busybox")
		t.Fatalf("base.sh: %v\n%s", err, out)
	}
	var err error
	if l.bases, err = conformance.Bases(filepath.Join(l.base, "base.tar")); err != nil {
		t.Fatal(err)
	}
	if l.server, err = conformance.Serve(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.server.Close(); err != nil {
			t.Error(err)
		}
	})
	command(t, l.builder, "--root", l.root, "load", "-i", filepath.Join(l.base, "base.tar"))
	return l
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// prepare makes a case ready, in a new directory.
func (l *lab) prepare(t *testing.T, c conformance.Case) *conformance.Work {
	t.Helper()
	w, err := c.Prepare(t.TempDir(), l.base, l.server)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// build builds a case into an archive and returns what was printed.
func (l *lab) build(t *testing.T, c conformance.Case, w *conformance.Work, archive string) (string, error) {
	t.Helper()
	args := []string{"--root", l.root, "build", "--progress=plain", "-t", "conformance/" + c.Name, "-o", w.Output + ",dest=" + archive}
	cmd := exec.Command(l.builder, append(append(args, w.Args...), w.Context)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "BUILDER_NETWORK=host"}, c.Env...)
	if w.Stdin != "" {
		in, err := os.Open(w.Stdin)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		cmd.Stdin = in
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// cases are those of the corpus, or of one that BUILDER_CORPUS names.
func cases(t *testing.T, dir string) []conformance.Case {
	t.Helper()
	root := os.Getenv("BUILDER_CORPUS")
	if root == "" {
		root = corpus
	}
	all, err := conformance.Cases(filepath.Join(root, dir))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestImages builds every Dockerfile of the corpus and compares the image
// with the recorded one.
func TestImages(t *testing.T) {
	l := newLab(t)
	for _, c := range cases(t, "dockerfiles") {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			testutil.Require(t, c.Needs...)
			want, err := c.Expected()
			if err != nil {
				t.Fatal(err)
			}
			w, archive := l.archive(t, c)
			got, err := w.Load(archive, l.bases)
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range unintended(t, intended[c.Name], conformance.Compare(got, want)) {
				t.Error(line)
			}
			if slices.ContainsFunc(c.Args, func(a string) bool { return strings.HasPrefix(a, "--no-cache") }) {
				return // files are made anew, with the time of that
			}
			_, again := l.archive(t, c)
			if !bytes.Equal(read(t, archive), read(t, again)) {
				t.Error("a second build gives another archive")
			}
		})
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// archive builds a case, in a directory of its own.
func (l *lab) archive(t *testing.T, c conformance.Case) (w *conformance.Work, archive string) {
	t.Helper()
	archive = filepath.Join(t.TempDir(), "out.tar")
	w = l.prepare(t, c)
	if out, err := l.build(t, c, w, archive); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return w, archive
}

// unintended leaves out the differences that are meant to be.
func unintended(t *testing.T, meant []difference, lines []string) []string {
	t.Helper()
	for _, d := range meant {
		n := len(lines)
		lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, d.line) })
		if len(lines) == n {
			t.Errorf("nothing differs in %q, though it is meant to: %s", d.line, d.why)
		}
	}
	return lines
}

// TestFailures builds what can't be built, and looks for the place and the
// name of the thing in what is said.
func TestFailures(t *testing.T) {
	l := newLab(t)
	for _, c := range cases(t, "dockerfiles-negative") {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			testutil.Require(t, c.Needs...)
			want, err := c.ExpectedFailure()
			if err != nil {
				t.Fatal(err)
			}
			archive := filepath.Join(t.TempDir(), "out.tar")
			out, err := l.build(t, c, l.prepare(t, c), archive)
			if err == nil {
				t.Fatalf("builds; BuildKit: %s", want.Peer)
			}
			for _, re := range want.Want {
				if !re.MatchString(out) {
					t.Errorf("nothing matches %s", re)
				}
			}
			if t.Failed() {
				t.Logf("said:\n%s\nBuildKit: %s", out, want.Peer)
			}
			if _, err := os.Stat(archive); err == nil {
				t.Error("there is an archive")
			}
		})
	}
}
