// SPDX-License-Identifier: Apache-2.0

package bake

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// corpusCase is a directory of testdata/bake: the files of a definition, the
// arguments of bake one a line, the environment, and what docker buildx bake
// --print says, or in bake-negative our message.
type corpusCase struct {
	dir                       string
	files, overrides, targets []string
	vars, env                 map[string]string
	expect, message           string
}

func readCase(t *testing.T, dir string) corpusCase {
	t.Helper()
	c := corpusCase{dir: dir, vars: map[string]string{}, env: map[string]string{}}
	args := lines(t, filepath.Join(dir, "args"))
	for i := 0; i < len(args); i++ {
		next := func() string {
			i++
			if i >= len(args) {
				t.Fatalf("%s: args: %s has no value", dir, args[i-1])
			}
			return args[i]
		}
		switch args[i] {
		case "-f":
			c.files = append(c.files, next())
		case "--set":
			c.overrides = append(c.overrides, next())
		case "--var":
			k, v, ok := strings.Cut(next(), "=")
			if !ok {
				t.Fatalf("%s: --var without a value", dir)
			}
			c.vars[k] = v
		default:
			c.targets = append(c.targets, args[i])
		}
	}
	for _, l := range lines(t, filepath.Join(dir, "env")) {
		k, v, _ := strings.Cut(l, "=")
		c.env[k] = v
	}
	for name, to := range map[string]*string{"expect.json": &c.expect, "message": &c.message} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		*to = string(data)
	}
	return c
}

func lines(t *testing.T, name string) []string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var out []string
	for l := range strings.Lines(string(data)) {
		out = append(out, strings.TrimSuffix(l, "\n"))
	}
	return out
}

// run reads and resolves a case as the command does.
func (c corpusCase) run(t *testing.T) (*Config, *Definition, error) {
	t.Helper()
	read := func(name string) ([]byte, error) {
		return fs.ReadFile(os.DirFS(filepath.Join(c.dir, "files")), name)
	}
	names := c.files
	if len(names) == 0 {
		for _, n := range DefaultFiles() {
			if _, err := read(n); err == nil {
				names = append(names, n)
			}
		}
	}
	var files []File
	for _, n := range names {
		data, err := read(n)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, File{Name: n, Data: data})
	}
	cfg, err := Parse(files, Options{
		Builtins: map[string]string{"BAKE_CMD_CONTEXT": "cwd://", "BAKE_LOCAL_PLATFORM": "linux/amd64"},
		Vars:     c.vars,
		Env:      func(name string) (string, bool) { v, ok := c.env[name]; return v, ok },
		ReadFile: read, Home: "/root", Now: time.Now,
	})
	if err != nil {
		return nil, nil, err
	}
	def, err := cfg.Resolve(c.targets, c.overrides)
	return cfg, def, err
}

func corpusDirs(t *testing.T, name string) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join("..", "testdata", name, "*", "args"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no cases in testdata/%s: %v", name, err)
	}
	for i := range dirs {
		dirs[i] = filepath.Dir(dirs[i])
	}
	return dirs
}

// TestCorpus compares what is resolved with what docker buildx bake resolves.
func TestCorpus(t *testing.T) {
	dirs := corpusDirs(t, "bake")
	if len(dirs) < 40 {
		t.Errorf("%d cases; want at least 40", len(dirs))
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			c := readCase(t, dir)
			_, def, err := c.run(t)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(def, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(normalize(t, []byte(c.expect)), normalize(t, got)); diff != "" {
				t.Errorf("(-buildx +builder)\n%s", diff)
			}
		})
	}
}

// TestCorpusNegative compares messages about faulty definitions.
func TestCorpusNegative(t *testing.T) {
	dirs := corpusDirs(t, "bake-negative")
	if len(dirs) < 25 {
		t.Errorf("%d cases; want at least 25", len(dirs))
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			c := readCase(t, dir)
			_, _, err := c.run(t)
			if err == nil {
				t.Fatal("no error")
			}
			if os.Getenv("BUILDER_TEST_UPDATE") != "" {
				if err := os.WriteFile(filepath.Join(dir, "message"), []byte(err.Error()+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(strings.TrimSpace(c.message), strings.TrimSpace(err.Error())); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// normalize writes JSON in one form. The order of a group's targets that come
// from a matrix with several keys is a matter of chance in buildx.
func normalize(t *testing.T, data []byte) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	if groups, ok := v["group"].(map[string]any); ok {
		for _, g := range groups {
			if list, ok := g.(map[string]any)["targets"].([]any); ok {
				slices.SortFunc(list, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
			}
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", " ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
