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
)

// FuzzBake reads any bytes as a definition of each kind. They make targets,
// the same each time, or an error whose place is in the file.
func FuzzBake(f *testing.F) {
	kinds := []string{"fuzz.hcl", "fuzz.json", "fuzz.yaml", "fuzz"}
	for _, glob := range []string{"bake", "bake-negative"} {
		files, err := filepath.Glob(filepath.Join("..", "testdata", glob, "*", "files", "*"))
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				continue // a directory
			}
			kind := slices.IndexFunc(kinds, func(k string) bool { return filepath.Ext(k) == filepath.Ext(name) })
			f.Add(byte(max(kind, 0)), data)
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		file := File{Name: kinds[int(kind)%len(kinds)], Data: data}
		first, err := fuzzDefinition(file)
		var placed *Error
		if errors.As(err, &placed) {
			if lines := bytes.Count(data, []byte("\n")) + 1; placed.File.Name != file.Name || placed.Start < 0 || placed.Start > lines+1 {
				t.Fatalf("%s:%d is no place in a file of %d lines: %v", placed.File.Name, placed.Start, lines, err)
			}
		}
		if err != nil {
			var unknown *UnknownTarget
			if placed == nil && !errors.As(err, &unknown) {
				t.Fatalf("an error without a place: %v", err)
			}
			return
		}
		again, err := fuzzDefinition(file)
		random := bytes.Contains(data, []byte("uuidv4")) || bytes.Contains(data, []byte("bcrypt"))
		if err != nil || !bytes.Equal(first, again) && !random {
			t.Fatalf("%v; first\n%s\nthen\n%s", err, first, again)
		}
	})
}

// fuzzDefinition resolves everything that a file defines.
func fuzzDefinition(file File) ([]byte, error) {
	cfg, err := Parse([]File{file}, Options{
		Env: func(name string) (string, bool) { return strings.ToLower(name), len(name)%2 == 0 },
		ReadFile: func(name string) ([]byte, error) {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		},
	})
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, name := range cfg.names() {
		def, err := cfg.Resolve([]string{name}, nil)
		if err != nil {
			return nil, err
		}
		data, err := json.Marshal(def)
		if err != nil {
			return nil, err
		}
		if out = append(out, data...); len(out) > maxFile {
			break
		}
	}
	return out, nil
}
