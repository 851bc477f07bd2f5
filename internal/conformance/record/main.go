// SPDX-License-Identifier: Apache-2.0

// Command record builds the corpus with BuildKit and writes down what comes
// out: expect.json of testdata/dockerfiles and the peer's words in the
// expect-error files of testdata/dockerfiles-negative. It needs buildctl on
// PATH and a running buildkitd at BUILDKIT_HOST.
//
//	sh testdata/base.sh /tmp/base
//	go run ./internal/conformance/record -base /tmp/base [-only REGEXP] [-check]
//
// With -check nothing is written: what differs from the corpus is said, and
// the exit status is 1 if anything does.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"builder/internal/conformance"
)

func main() {
	var r recorder
	flag.StringVar(&r.base, "base", "", "directory that testdata/base.sh filled")
	flag.StringVar(&r.testdata, "testdata", "testdata", "directory of the corpus")
	flag.StringVar(&r.peer, "peer", "", "version of the peer, where it doesn't know it")
	flag.BoolVar(&r.check, "check", false, "write nothing, say what has changed")
	flag.BoolVar(&r.verbose, "v", false, "show the peer's output")
	only := flag.String("only", "", "record the cases whose name matches this")
	flag.Parse()
	log.SetFlags(0)
	filter, err := regexp.Compile(*only)
	if err == nil {
		err = r.record(filter)
	}
	if err != nil {
		log.Fatalln("record:", err)
	}
}

// recorder is what every case is recorded with.
type recorder struct {
	base, testdata, peer string
	check, verbose       bool

	names  []string // flags that name the base images
	bases  []*conformance.Image
	server *conformance.Server
	tmp    string
}

func (r *recorder) record(only *regexp.Regexp) error {
	var err error
	if r.tmp, err = os.MkdirTemp("", "record"); err != nil {
		return err
	}
	defer os.RemoveAll(r.tmp)
	if err := r.open(); err != nil {
		return err
	}
	defer r.server.Close() //nolint:errcheck // the work is done
	failed := 0
	for dir, one := range map[string]func(conformance.Case) error{"dockerfiles": r.image, "dockerfiles-negative": r.failure} {
		cases, err := conformance.Cases(filepath.Join(r.testdata, dir))
		if err != nil {
			return err
		}
		for _, c := range cases {
			if !only.MatchString(c.Name) {
				continue
			}
			if err := one(c); err != nil {
				fmt.Fprintf(os.Stderr, "%s: %v\n", c.Name, err)
				failed++
			}
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d cases failed or have changed", failed)
	}
	return nil
}

// open reads the base images and asks for the peer's version.
func (r *recorder) open() error {
	var err error
	if r.bases, err = conformance.Bases(filepath.Join(r.base, "base.tar")); err != nil {
		return err
	}
	digests, err := os.ReadFile(filepath.Join(r.base, "digests"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(digests)) {
		name, digest, _ := strings.Cut(strings.TrimSpace(line), " ")
		r.names = append(r.names, "--opt", "context:"+name+"=oci-layout://base@"+digest)
	}
	if r.server, err = conformance.Serve(r.tmp); err != nil {
		return err
	}
	if r.peer != "" {
		return nil
	}
	out, err := exec.Command("buildctl", "debug", "info").CombinedOutput()
	if err != nil {
		return fmt.Errorf("buildctl debug info: %w\n%s", err, out)
	}
	info, _, _ := strings.Cut(string(out), "\n")
	r.peer = strings.Join(strings.Fields(strings.TrimPrefix(info, "BuildKit:")), " ")
	return nil
}

// image records what a case builds.
func (r *recorder) image(c conformance.Case) error {
	archive := filepath.Join(r.tmp, "out.tar")
	w, out, err := r.build(c, archive)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	img, err := w.Load(archive, r.bases)
	if err != nil {
		return err
	}
	if r.check {
		want, err := c.Expected()
		if err != nil {
			return err
		}
		if lines := conformance.Compare(img, want); len(lines) > 0 {
			return fmt.Errorf("has changed:\n%s", strings.Join(lines, "\n"))
		}
		return nil
	}
	img.Recorded = r.peer
	data, err := img.Marshal()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.Dir, "expect.json"), data, 0o644)
}

// failure records how a case fails, or that the peer builds it. What is
// wanted of the product's words stays; a new case wants nothing but a line,
// to be completed by hand.
func (r *recorder) failure(c conformance.Case) error {
	f, err := c.ExpectedFailure()
	if errors.Is(err, fs.ErrNotExist) {
		f.Want, err = []*regexp.Regexp{regexp.MustCompile(`Dockerfile:\d+`)}, nil
	}
	if err != nil {
		return err
	}
	was := f.Peer
	w, out, err := r.build(c, filepath.Join(r.tmp, "out.tar"))
	if w == nil {
		return err
	}
	f.Peer = "builds it\n"
	if err != nil {
		f.Peer = w.Hide(volatile.ReplaceAllString(failureOf(out), "…"))
	}
	if r.check {
		if f.Peer != was {
			return fmt.Errorf("has changed:\n got %s\nwant %s", f.Peer, was)
		}
		return nil
	}
	return os.WriteFile(filepath.Join(c.Dir, "expect-error"), []byte(f.String()), 0o644)
}

// failureOf is the message that the peer's output ends with.
func failureOf(out string) string {
	for _, begin := range []string{"\nerror: failed to solve: ", "\nerror: "} {
		if i := strings.LastIndex("\n"+out, begin); i >= 0 {
			return out[i+len("error: "):]
		}
	}
	return out
}

// volatile is what differs from run to run in the peer's words.
var volatile = regexp.MustCompile(`/\S+/buildkit\d+|ref \S+::\S+`)

// build runs buildctl and returns its output. The peer forgets everything
// first: it takes a file of an earlier context for the same if path, size and
// time are.
func (r *recorder) build(c conformance.Case, archive string) (*conformance.Work, string, error) {
	if out, err := exec.Command("buildctl", "prune", "--all").CombinedOutput(); err != nil {
		return nil, "", fmt.Errorf("buildctl prune: %w\n%s", err, out)
	}
	dir := filepath.Join(r.tmp, "work")
	if err := os.RemoveAll(dir); err != nil {
		return nil, "", err
	}
	w, err := c.Prepare(dir, r.base, r.server)
	if err != nil {
		return nil, "", err
	}
	args, err := r.flags(w, archive)
	if err != nil {
		return nil, "", err
	}
	cmd := exec.Command("buildctl", args...)
	cmd.Env = append(os.Environ(), c.Env...)
	out, err := cmd.CombinedOutput()
	if r.verbose {
		fmt.Fprintf(os.Stderr, "%s", out)
	}
	return w, string(out), err
}
