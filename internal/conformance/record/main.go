// SPDX-License-Identifier: Apache-2.0

// Command record builds the corpus with BuildKit and writes down what comes
// out: expect.json of testdata/dockerfiles and the peer's words in the
// expect-error files of testdata/dockerfiles-negative. It needs buildctl on
// PATH and a running buildkitd at BUILDKIT_HOST.
//
//	sh testdata/base.sh /tmp/base
//	go run ./internal/conformance/record -base /tmp/base [-only REGEXP]
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
	base := flag.String("base", "", "directory that testdata/base.sh filled")
	testdata := flag.String("testdata", "testdata", "directory of the corpus")
	only := flag.String("only", "", "record the cases whose name matches this")
	verbose := flag.Bool("v", false, "show the peer's output")
	flag.Parse()
	log.SetFlags(0)
	if err := record(*base, *testdata, *only, *verbose); err != nil {
		log.Fatalln("record:", err)
	}
}

// recorder is what every case is recorded with.
type recorder struct {
	base    string
	names   []string // flags that name the base images
	bases   []*conformance.Image
	peer    string
	tmp     string
	verbose bool
}

func record(base, testdata, only string, verbose bool) error {
	filter, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	r := &recorder{base: base, verbose: verbose}
	if r.tmp, err = os.MkdirTemp("", "record"); err != nil {
		return err
	}
	defer os.RemoveAll(r.tmp)
	if err := r.open(); err != nil {
		return err
	}
	failed := 0
	for dir, one := range map[string]func(conformance.Case) error{"dockerfiles": r.image, "dockerfiles-negative": r.failure} {
		cases, err := conformance.Cases(filepath.Join(testdata, dir))
		if err != nil {
			return err
		}
		for _, c := range cases {
			if !filter.MatchString(c.Name) {
				continue
			}
			if err := one(c); err != nil {
				fmt.Fprintf(os.Stderr, "%s: %v\n", c.Name, err)
				failed++
			}
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d cases are not recorded", failed)
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
	out, err := r.build(c, archive)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	img, err := conformance.Load(archive, r.bases)
	if err != nil {
		return err
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
	out, err := r.build(c, filepath.Join(r.tmp, "out.tar"))
	f.Peer = "builds it\n"
	if err != nil {
		_, f.Peer, _ = strings.Cut(out, "\nerror: ")
		f.Peer = volatile.ReplaceAllString(f.Peer, "…")
	}
	return os.WriteFile(filepath.Join(c.Dir, "expect-error"), []byte(f.String()), 0o644)
}

// volatile is what differs from run to run in the peer's words.
var volatile = regexp.MustCompile(`/\S+/buildkit\d+|ref \S+::\S+`)

// build runs buildctl and returns its output. The peer forgets everything
// first: it takes a file of an earlier context for the same if path, size and
// time are.
func (r *recorder) build(c conformance.Case, archive string) (string, error) {
	if out, err := exec.Command("buildctl", "prune", "--all").CombinedOutput(); err != nil {
		return string(out), err
	}
	ctx := filepath.Join(r.tmp, "ctx")
	if err := os.RemoveAll(ctx); err != nil {
		return "", err
	}
	if err := c.MakeContext(ctx); err != nil {
		return "", err
	}
	args := []string{
		"build", "--progress=plain", "--frontend=dockerfile.v0", "--local=context=" + ctx, "--local=dockerfile=" + c.Dir,
		"--oci-layout=base=" + filepath.Join(r.base, "layout"), "--output=type=oci,dest=" + archive,
	}
	args = append(args, r.names...)
	for _, a := range c.Args {
		opts, err := frontendOpts(a)
		if err != nil {
			return "", err
		}
		args = append(args, opts...)
	}
	out, err := exec.Command("buildctl", args...).CombinedOutput()
	if r.verbose {
		fmt.Fprintf(os.Stderr, "%s", out)
	}
	return string(out), err
}

// frontendOpts turns a flag of builder build into flags of buildctl.
func frontendOpts(arg string) ([]string, error) {
	name, value, _ := strings.Cut(arg, "=")
	switch name {
	case "--build-arg", "--label":
		return []string{"--opt", strings.TrimPrefix(name, "--") + ":" + value}, nil
	case "--target", "--platform", "--shm-size", "--ulimit":
		return []string{"--opt", strings.TrimPrefix(name, "--") + "=" + value}, nil
	case "--no-cache":
		return []string{"--no-cache"}, nil
	case "--network":
		return []string{"--opt", "force-network-mode=" + value}, nil
	case "--add-host":
		return []string{"--opt", "add-hosts=" + strings.Replace(value, ":", "=", 1)}, nil
	}
	return nil, fmt.Errorf("no flag of buildctl is known for %q", arg)
}
