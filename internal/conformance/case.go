// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Case is one Dockerfile of the corpus. Its directory holds
//
//	Dockerfile    and, if it has one, Dockerfile.dockerignore
//	ctx/          the build context, if there is one
//	setup.sh      run by sh in the context: what Git can't keep
//	args          flags of builder build, one a line
//	needs         programs that setup.sh calls, one a line
//	expect.json   what is to come out, see [Image]
//	expect-error  instead: what is to be said, see [Failure]
type Case struct {
	Name  string
	Dir   string
	Args  []string
	Needs []string
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
		c := Case{Name: e.Name(), Dir: filepath.Join(dir, e.Name())}
		if c.Args, err = lines(filepath.Join(c.Dir, "args")); err != nil {
			return nil, fmt.Errorf("read corpus: %w", err)
		}
		if c.Needs, err = lines(filepath.Join(c.Dir, "needs")); err != nil {
			return nil, fmt.Errorf("read corpus: %w", err)
		}
		cases = append(cases, c)
	}
	return cases, nil
}

// lines are those of a file, none if it isn't there.
func lines(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' }), nil
}

// Dockerfile is the path of the case's Dockerfile.
func (c Case) Dockerfile() string { return filepath.Join(c.Dir, "Dockerfile") }

// MakeContext fills a new directory with the case's build context. Modes are
// 0755 and 0644 and times are fixed, whatever the checkout made of them,
// except where setup.sh says otherwise.
func (c Case) MakeContext(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := copyContext(filepath.Join(c.Dir, "ctx"), dir); err != nil {
		return fmt.Errorf("copy context of %s: %w", c.Name, err)
	}
	setup, err := filepath.Abs(filepath.Join(c.Dir, "setup.sh"))
	if err != nil {
		return err
	}
	cmd := exec.Command("sh", "-eu", "-c", finishContext, setup)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("set up context of %s: %w\n%s", c.Name, err, out)
	}
	return nil
}

// finishContext runs setup.sh and gives a fixed time to all that was made
// just now and not dated by it.
const finishContext = `umask 022
if [ -e "$0" ]; then . "$0"; fi
find . -newermt 2020-01-01 -print0 | sort -rz | xargs -0r touch -hd @1234567890`

func copyContext(from, to string) error {
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		dest := filepath.Join(to, strings.TrimPrefix(path, from))
		info, err := d.Info()
		switch {
		case err != nil || path == from:
			return err
		case d.IsDir():
			return os.Mkdir(dest, 0o755)
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, dest)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(dest, data, 0o600); err != nil {
			return err
		}
		return os.Chmod(dest, 0o644|info.Mode().Perm()&0o100|info.Mode().Perm()&0o100>>3|info.Mode().Perm()&0o100>>6)
	})
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
