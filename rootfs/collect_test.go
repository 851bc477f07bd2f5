// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"errors"
	"os"
	"testing"

	"builder/internal/testutil"
	"builder/layer"
	"builder/snapshot"

	"github.com/opencontainers/go-digest"
)

// TestCollectStopped stops a collection at each of the snapshots that it
// removes, as a kill does: nothing that is left refers to what is gone.
func TestCollectStopped(t *testing.T) {
	testutil.Require(t, "root")
	s, r := open(t)
	ids := []snapshot.ID{"bottom", "a", "middle", "0", "top"}
	var parent snapshot.ID
	for _, id := range ids {
		active, err := r.Prepare(t.Context(), parent)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(active.Upper()+"/"+string(id), []byte(id), 0o600); err != nil {
			t.Fatal(err)
		}
		if parent, err = active.Commit(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Commit(t.Context(), id, layer.Options{}); err != nil {
			t.Fatal(err)
		}
		if err := r.Link(digest.FromString(string(id)), id); err != nil {
			t.Fatal(err)
		}
	}
	collect := func() error {
		return s.Exclusive(0, func() error { _, err := r.Collect(t.Context(), nil); return err })
	}
	for i := len(ids) - 1; i >= 0; i-- {
		block := s.Path("snapshots", ".removed-"+string(ids[i]))
		if err := os.WriteFile(block, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := collect(); err == nil {
			t.Fatalf("the collection was not stopped at %s", ids[i])
		}
		checkRefers(t, r, ids)
		if err := os.Remove(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(collect(), r.Snapshots().Sweep()); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"layers", "chains", "blobs/sha256"} {
		if names, err := readDir(s.Path(dir)); err != nil || len(names) != 0 {
			t.Errorf("in %s is left %v (%v)", dir, names, err)
		}
	}
}

// checkRefers holds that each snapshot that is there has its parents, and that
// no chain or layer is of one that is not.
func checkRefers(t *testing.T, r *RootFS, ids []snapshot.ID) {
	t.Helper()
	for _, id := range ids {
		info, err := r.Snapshots().Stat(t.Context(), id)
		if err != nil {
			if _, chainErr := os.Lstat(r.store.Path("chains", chainName(digest.FromString(string(id)), nil))); chainErr == nil {
				t.Errorf("a chain is of snapshot %s, which is gone", id)
			}
			if _, ok := r.known(id, layer.Options{}); ok {
				t.Errorf("a layer is of snapshot %s, which is gone", id)
			}
			continue
		}
		for _, p := range info.Parents {
			if _, err := r.Snapshots().Stat(t.Context(), p); err != nil {
				t.Errorf("snapshot %s is left without %s, which it stands on", id, p)
			}
		}
	}
}
