// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"builder/internal/testutil"
	"builder/snapshot"
	"builder/snapshot/snapshottest"
)

func TestOverlay(t *testing.T) {
	testutil.Require(t, "root")
	snapshottest.Run(t, func(t *testing.T) snapshot.Snapshotter {
		o, err := snapshot.NewOverlay(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return o
	})
}

// TestCopies runs the suite where nothing is mounted.
func TestCopies(t *testing.T) {
	testutil.Require(t, "root")
	snapshottest.Run(t, func(t *testing.T) snapshot.Snapshotter {
		o, err := snapshot.NewCopies(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return o
	})
}

// TestUncleanRestart holds the rule that a power cut can only cost cache: what
// was committed in another boot counts only if it was flushed in that boot.
func TestUncleanRestart(t *testing.T) {
	testutil.Require(t, "root")
	root := t.TempDir()
	o, err := snapshot.NewOverlay(root)
	if err != nil {
		t.Fatal(err)
	}
	commit := func(id snapshot.ID) {
		active, err := o.Prepare(t.Context(), "", t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := active.Commit(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	commit("flushed")
	for range 2 { // the second has nothing to do
		if err := o.SyncIfDirty(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, ".dirty")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after a sync there is still something to sync: %v", err)
	}
	commit("late")
	for _, id := range []snapshot.ID{"flushed", "late"} {
		if _, err := o.Stat(t.Context(), id); err != nil {
			t.Errorf("%s is not found in the boot that made it: %v", id, err)
		}
	}

	// The machine restarts: everything on disk was written in another boot.
	rename := func(file string, edit func(map[string]any)) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		edit(m)
		data, err = json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"flushed", "late"} {
		rename(filepath.Join(root, id, "meta.json"), func(m map[string]any) { m["boot"] = "before" })
	}
	rename(filepath.Join(root, ".durable"), func(m map[string]any) {
		for k, v := range m {
			delete(m, k)
			m["before"] = v
		}
	})
	if _, err := o.Stat(t.Context(), "flushed"); err != nil {
		t.Errorf("a flushed snapshot is lost by a restart: %v", err)
	}
	if _, err := o.Stat(t.Context(), "late"); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("a snapshot that was not flushed gives %v after a restart, want ErrNotFound", err)
	}
	commit("late") // its remains are not in the way
	if err := os.WriteFile(filepath.Join(root, "late", "meta.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Stat(t.Context(), "late"); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("a snapshot with a torn record gives %v, want ErrNotFound", err)
	}
}

// TestRemains holds that what is left of snapshots is found and swept, and that
// nothing that is left is in the way of a new one of the same ID.
func TestRemains(t *testing.T) {
	testutil.Require(t, "root")
	root := t.TempDir()
	o, err := snapshot.NewOverlay(root)
	if err != nil {
		t.Fatal(err)
	}
	commit := func() {
		t.Helper()
		active, err := o.Prepare(t.Context(), "", t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(active.Upper(), "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := active.Commit(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second finds the first's tree, as a killed process leaves it
		commit()
		if err := o.Detach("x"); err != nil {
			t.Fatal(err)
		}
		if _, err := o.Stat(t.Context(), "x"); !errors.Is(err, snapshot.ErrNotFound) {
			t.Errorf("a detached snapshot is still one: %v", err)
		}
	}
	commit()
	if err := os.WriteFile(filepath.Join(root, "x", "meta.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	detached, damaged, err := o.Remains()
	if err != nil || len(detached) != 1 || len(damaged) != 1 || damaged[0] != "x" {
		t.Errorf("remains: %v and %v (%v), want one tree and x", detached, damaged, err)
	}
	if err := o.Detach("x"); err != nil {
		t.Fatal(err)
	}
	if err := o.Sweep(); err != nil {
		t.Fatal(err)
	}
	if detached, damaged, err = o.Remains(); err != nil || len(detached)+len(damaged) != 0 {
		t.Errorf("after a sweep: %v and %v (%v)", detached, damaged, err)
	}
}
