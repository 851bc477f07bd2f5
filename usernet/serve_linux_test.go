// SPDX-License-Identifier: Apache-2.0

package usernet

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// TestFilesOfTheKilled looks at files of clients that were killed.
func TestFilesOfTheKilled(t *testing.T) {
	dir := t.TempDir()
	const nobody = "99999999" // more than there can be
	self := strconv.Itoa(os.Getpid())
	for name, text := range map[string]string{nobody + "1": "", nobody + "2": "12", nobody: "12 3", self: ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if ns := find(dir); ns != nil {
		t.Errorf("found %s", ns.Name())
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != self {
		t.Errorf("left are %v (%v), want that of who lives", left, err)
	}
}
