// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCorpus holds that the generated cases of the corpus are what their
// seeds make.
func TestCorpus(t *testing.T) {
	dirs, err := filepath.Glob("../../../testdata/dockerfiles*/gen-*")
	if err != nil {
		t.Fatal(err)
	}
	if len(dirs) < 60 {
		t.Errorf("there are %d generated cases", len(dirs))
	}
	for _, dir := range dirs {
		var seed uint64
		if _, err := fmt.Sscanf(filepath.Base(dir), "gen-%d", &seed); err != nil {
			t.Fatal(err)
		}
		want := generate(seed)
		got := map[string]string{}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() == "expect.json" || e.Name() == "expect-error" {
				continue
			}
			data, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			got[e.Name()] = string(data)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-generated +corpus):\n%s", dir, d)
		}
	}
}

// TestSeeds holds that seeds differ and that one always makes the same.
func TestSeeds(t *testing.T) {
	seen := map[string]uint64{}
	for seed := range uint64(300) {
		text := fmt.Sprint(generate(seed))
		if again := fmt.Sprint(generate(seed)); again != text {
			t.Errorf("seed %d makes two cases", seed)
		}
		if first, ok := seen[text]; ok {
			t.Errorf("seeds %d and %d make the same case", first, seed)
		}
		seen[text] = seed
	}
}
