// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"os"
	"path/filepath"
	"testing"
)

func TestParse(t *testing.T) {
	for value, want := range map[string]ID{"0:0": {}, "1:2": {1, 2}, "4294967295:7": {4294967295, 7}} {
		if got, ok := Parse(value); !ok || got != want || got.String() != value {
			t.Errorf("%s is %v %v", value, got, ok)
		}
	}
	for _, value := range []string{"", "1", ":", "1:", ":1", "a:b", "-1:0", "4294967296:0", "1:2:3", "1 :2"} {
		if got, ok := Parse(value); ok {
			t.Errorf("%q is %v", value, got)
		}
	}
}

// TestAdopt gives to an owner what has none, and leaves the rest.
func TestAdopt(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"had", "new"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, d, "file"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("new", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"had", "had/file"} {
		if err := Set(filepath.Join(dir, name), ID{3, 4}); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := Get(filepath.Join(dir, "had")); !ok {
		t.Fatal("the file system of temporary files has no attributes of users")
	}
	if err := Adopt(dir, ID{5, 6}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"had": "3:4", "had/file": "3:4", "new": "5:6", "new/file": "5:6", "link": "", ".": ""} {
		id, ok := Get(filepath.Join(dir, name))
		if got := id.String(); ok != (want != "") || ok && got != want {
			t.Errorf("%s is %s's, want %q", name, got, want)
		}
	}
}
