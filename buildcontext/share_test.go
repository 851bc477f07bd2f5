// SPDX-License-Identifier: Apache-2.0

package buildcontext

import (
	"os"
	"path/filepath"
	"testing"
)

// TestShare: a tree is closed, and its index saved, when the last user closes
// it.
func TestShare(t *testing.T) {
	dir, index := t.TempDir(), filepath.Join(t.TempDir(), "index")
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	tree, err := Open(dir, Options{Index: index})
	if err != nil {
		t.Fatal(err)
	}
	second := tree.Share()
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := second.Open("file")
	if err != nil {
		t.Fatalf("closed for the second user: %v", err)
	}
	f.Close()
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if f, err := second.Open("file"); err == nil {
		f.Close()
		t.Error("open after all have closed it")
	}
}
