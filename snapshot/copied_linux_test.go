// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"builder/internal/sys"
	"builder/internal/testutil"
	"builder/layer"
	"builder/snapshot"

	"golang.org/x/sys/unix"
)

// change does a random thing to a random path of a tree. The same numbers do the
// same to two trees.
func change(r *rand.Rand, root string, link bool) string {
	// Few names, so that things meet.
	name := func() string {
		parts := make([]string, 1+r.IntN(3))
		for i := range parts {
			parts[i] = string(rune('a' + r.IntN(4)))
		}
		return strings.Join(parts, "/")
	}
	p, q, n := name(), name(), r.IntN(1000)
	at, to := filepath.Join(root, p), filepath.Join(root, q)
	var st unix.Stat_t
	isDir := unix.Lstat(at, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
	var err error
	op := r.IntN(14)
	switch op {
	case 0, 1, 2:
		err = os.WriteFile(at, fmt.Append(nil, n), 0o644)
	case 3, 4, 5:
		err = os.MkdirAll(at, 0o755)
	case 6:
		err = os.Remove(at)
	case 7:
		err = os.RemoveAll(at)
	case 8:
		if !isDir { // of a directory below, overlayfs refuses it
			err = os.Rename(at, to)
		}
	case 9:
		if link && !isDir {
			err = os.Link(at, to)
		}
	case 10:
		err = os.Symlink(q, at)
	case 11:
		err = os.Chmod(at, os.FileMode(0o600+n%64))
	case 12:
		err = os.Lchown(at, n, n)
	case 13:
		if isDir {
			err = unix.Lsetxattr(at, "user.test", fmt.Append(nil, n), 0)
		}
	}
	if err != nil && !errors.As(err, new(*os.PathError)) && !errors.As(err, new(*os.LinkError)) {
		err = fmt.Errorf("%w", err)
	}
	return fmt.Sprintf("%d %s %s %d: %v", op, p, q, n, err != nil)
}

// TestCopiesLikeOverlay does the same random things to snapshots of overlayfs and
// of copies, through several layers: the layers are the same, and so is what is
// seen.
func TestCopiesLikeOverlay(t *testing.T) {
	testutil.Require(t, "root")
	seed := uint64(time.Now().UnixNano())
	for round := range 40 {
		one, err := snapshot.NewOverlay(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		two, err := snapshot.NewCopies(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if !compare(t, seed+uint64(round), one, two) {
			t.Fatalf("with seed %d", seed+uint64(round))
		}
	}
}

// depths is how many layers there are. Only the last one has hard links: of those
// below, overlayfs changes one name and leaves the other as it was, where copies
// change both, as any file system does.
const depths = 4

func compare(t *testing.T, seed uint64, one, two *snapshot.Overlay) bool {
	t.Helper()
	var tops [2]snapshot.ID
	for depth := range depths {
		var layers, views [2]string
		var told [2]string
		for i, o := range []*snapshot.Overlay{one, two} {
			r := rand.New(rand.NewPCG(seed, uint64(depth)))
			active, err := o.Prepare(t.Context(), tops[i], t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			mounts := 1 + r.IntN(2) // some are mounted twice
			for range mounts {
				m, err := active.Mount()
				if err != nil {
					t.Fatal(err)
				}
				for range 25 {
					told[i] += change(r, sys.FDPath(m), depth == depths-1) + "\n"
				}
				m.Close()
				if r.IntN(2) == 0 {
					if err := active.Settle(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if tops[i], err = active.Commit(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			layers[i], views[i] = layerOf(t, o, tops[i]), viewOf(t, o, tops[i])
		}
		switch {
		case told[0] != told[1]:
			t.Errorf("depth %d: they were not treated alike:\n%s\nand\n%s", depth, told[0], told[1])
		case views[0] != views[1]:
			t.Errorf("depth %d: overlayfs shows\n%s\ncopies\n%s\nafter\n%s", depth, views[0], views[1], told[0])
		case layers[0] != layers[1]:
			t.Errorf("depth %d: overlayfs has the layer\n%s\ncopies\n%s\nafter\n%s", depth, layers[0], layers[1], told[0])
		default:
			continue
		}
		return false
	}
	return true
}

// tarLines lists a tar without times.
func tarLines(t *testing.T, data []byte) string {
	t.Helper()
	var b strings.Builder
	for tr := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%c %s %s %o %d:%d %v %q\n", h.Typeflag, h.Name, h.Linkname, h.Mode, h.Uid, h.Gid, h.PAXRecords["SCHILY.xattr.user.test"], content)
	}
}

func layerOf(t *testing.T, o *snapshot.Overlay, id snapshot.ID) string {
	t.Helper()
	upper, lower, err := o.Diff(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := layer.Diff(t.Context(), &b, layer.Upper{Dir: upper, Lower: lower, UserXattr: o.UserXattr()}, layer.Options{Compression: layer.Uncompressed}); err != nil {
		t.Fatal(err)
	}
	return tarLines(t, b.Bytes())
}

func viewOf(t *testing.T, o *snapshot.Overlay, id snapshot.ID) string {
	t.Helper()
	m, err := o.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var b bytes.Buffer
	if _, err := layer.WriteTree(t.Context(), &b, m, layer.Options{Compression: layer.Uncompressed}); err != nil {
		t.Fatal(err)
	}
	return tarLines(t, b.Bytes())
}

// TestCopiesForgetDirectories holds that a directory which is gone isn't taken for
// there when another one comes to its path, whose inode may have its number.
func TestCopiesForgetDirectories(t *testing.T) {
	testutil.Require(t, "root")
	o, err := snapshot.NewCopies(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	top := snapshot.ID("")
	for i, step := range []struct {
		change func(root string) error
		want   []string
	}{
		{func(root string) error { return os.MkdirAll(root+"/dir/sub", 0o755) }, []string{"", "dir", "dir/sub"}},
		{func(root string) error { return os.RemoveAll(root + "/dir") }, []string{""}},
		{func(root string) error { return os.MkdirAll(root+"/new/sub", 0o755) }, []string{"", "new", "new/sub"}},
		{func(root string) error { return os.Rename(root+"/new", root+"/dir") }, []string{"", "dir", "dir/sub"}},
	} {
		active, err := o.Prepare(t.Context(), top, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		m, err := active.Mount()
		if err != nil {
			t.Fatal(err)
		}
		if err := step.change(sys.FDPath(m)); err != nil {
			t.Fatal(err)
		}
		m.Close()
		if top, err = active.Commit(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		if got := o.KnownDirs(top); !slices.Equal(got, step.want) {
			t.Errorf("after change %d it knows %q, want %q", i, got, step.want)
		}
	}
}
