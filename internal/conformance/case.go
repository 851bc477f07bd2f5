// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Case is one Dockerfile of the corpus. Its directory holds
//
//	Dockerfile    and, if it has one, Dockerfile.dockerignore; without one the
//	              context's is looked for
//	ctx/          the build context, if there is one
//	work/         what lies beside it: further contexts, secrets
//	setup.sh      run by sh in the context: what Git can't keep
//	args          flags of builder build, one a line
//	env           variables of its environment, one NAME=VALUE a line
//	context       the build context if it isn't @WORK@/ctx
//	output        what --output says but for dest, if it isn't type=oci
//	needs         programs that setup.sh calls, one a line
//	expect.json   what is to come out, see [Image]
//	expect-error  instead: what is to be said, see [Failure]
//
// See [Case.Prepare] for the words in @ that Dockerfile, args, context and
// output may have.
type Case struct {
	Name    string
	Dir     string
	Args    []string
	Env     []string
	Context string
	Output  string
	Needs   []string
}

// Cases reads the corpus in a directory, sorted by name.
func Cases(dir string) ([]Case, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read corpus: %w", err)
	}
	var cases []Case
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		c, err := readCase(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read corpus: %w", err)
		}
		cases = append(cases, c)
	}
	return cases, nil
}

func readCase(dir string) (Case, error) {
	c := Case{Name: filepath.Base(dir), Dir: dir, Context: "@WORK@/ctx", Output: "type=oci"}
	var err error
	for name, list := range map[string]*[]string{"args": &c.Args, "env": &c.Env, "needs": &c.Needs} {
		if *list, err = lines(filepath.Join(dir, name)); err != nil {
			return c, err
		}
	}
	for name, value := range map[string]*string{"context": &c.Context, "output": &c.Output} {
		words, err := lines(filepath.Join(dir, name))
		if err != nil {
			return c, err
		}
		if len(words) > 0 {
			*value = words[0]
		}
	}
	return c, nil
}

// lines are those of a file, none if it isn't there.
func lines(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' }), nil
}

// Expected reads the case's expect.json.
func (c Case) Expected() (*Image, error) {
	data, err := os.ReadFile(filepath.Join(c.Dir, "expect.json"))
	if err != nil {
		return nil, err
	}
	img := &Image{}
	if err := json.Unmarshal(data, img); err != nil {
		return nil, fmt.Errorf("expect.json of %s: %w", c.Name, err)
	}
	return img, nil
}

// Failure is an expect-error file: lines "want REGEXP", all of which have to
// match the error output, and after the line "peer:" what the other builder
// said, for reading alone.
type Failure struct {
	Want []*regexp.Regexp
	Peer string
}

// ExpectedFailure reads the case's expect-error.
func (c Case) ExpectedFailure() (Failure, error) {
	data, err := os.ReadFile(filepath.Join(c.Dir, "expect-error"))
	if err != nil {
		return Failure{}, err
	}
	var f Failure
	wants, peer, _ := strings.Cut(string(data), "peer:\n")
	f.Peer = peer
	for line := range strings.Lines(wants) {
		expr, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "want ")
		if !ok {
			return Failure{}, fmt.Errorf("expect-error of %s: line %q", c.Name, line)
		}
		re, err := regexp.Compile(expr)
		if err != nil {
			return Failure{}, fmt.Errorf("expect-error of %s: %w", c.Name, err)
		}
		f.Want = append(f.Want, re)
	}
	if len(f.Want) == 0 {
		return Failure{}, fmt.Errorf("expect-error of %s wants nothing", c.Name)
	}
	return f, nil
}

// String is the expect-error file.
func (f Failure) String() string {
	var b strings.Builder
	for _, re := range f.Want {
		fmt.Fprintf(&b, "want %s\n", re)
	}
	fmt.Fprintf(&b, "peer:\n%s", f.Peer)
	return b.String()
}
