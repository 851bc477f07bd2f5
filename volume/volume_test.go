// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"builder/internal/testutil"
)

func unused(string) (bool, error) { return false, nil }

// files makes files, and directories, whose names end with a slash.
func files(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(name, "/") {
			if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
				t.Fatal(err)
			}
		} else if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// tree is all that is in a directory but its lock.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if rel, _ := filepath.Rel(dir, path); rel != "." && rel != "lock" {
			out = append(out, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func create(t *testing.T, v Volumes, name string) Volume {
	t.Helper()
	vol, _, err := v.Create(Volume{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return vol
}

// remains are what commands leave that are killed: Create, Fill and Remove, and
// those of versions that took a volume's record first or filled in its directory.
func remains() map[string][]string {
	return map[string][]string{
		"create, at the directory":   {"vol/"},
		"create, at its files":       {"vol/_data/"},
		"create, at the record":      {"vol/_data/", "vol/.tmp-volume.json-123"},
		"remove, once it is renamed": {".tmp/XYZ/volume.json", ".tmp/XYZ/_data/old"},
		"remove, half way":           {".tmp/XYZ/_data/old"},
		"remove, at the end":         {".tmp/"},
		"remove, without a record":   {"vol/_data/old"},
		"fill":                       {".tmp/XYZ/old"},
		"fill in the volume":         {"vol/_data/", "vol/fill/old"},
	}
}

// TestRemains: what killed commands have left is no volume, doesn't come back in a
// new one of the name, and goes.
func TestRemains(t *testing.T) {
	whole := []string{"vol", "vol/_data", "vol/volume.json"}
	for name, left := range remains() {
		t.Run(name, func(t *testing.T) {
			v := Open(t.TempDir())
			files(t, v.dir, left...)
			if _, err := v.Get("vol"); !errors.Is(err, ErrNotFound) {
				t.Errorf("get: %v", err)
			}
			if list, err := v.List(); err != nil || len(list) > 0 {
				t.Errorf("list: %v, %v", list, err)
			}
			create(t, v, "vol")
			if got := tree(t, v.dir); !slices.Equal(got, whole) {
				t.Errorf("after create there is %q", got)
			}

			v = Open(t.TempDir())
			files(t, v.dir, left...)
			if paths, err := v.Remains(); err != nil || len(paths) != 1 {
				t.Errorf("remains: %q, %v", paths, err)
			}
			if err := v.Sweep(unused); err != nil {
				t.Error(err)
			}
			if got := tree(t, v.dir); len(got) > 0 {
				t.Errorf("after the sweep there is %q", got)
			}

			if left[0][0] == '.' {
				v = Open(t.TempDir())
				create(t, v, "other")
				files(t, v.dir, left...)
				if err := v.Remove("other", unused); err != nil {
					t.Error(err)
				}
				if got := tree(t, v.dir); len(got) > 0 {
					t.Errorf("after remove there is %q", got)
				}
			}
		})
	}
}

// TestSweepKeeps: volumes, what isn't ours, and what a container has.
func TestSweepKeeps(t *testing.T) {
	v := Open(t.TempDir())
	files(t, create(t, v, "vol").Dir, "file")
	files(t, v.dir, "lost+found/", "backup/_data/file", "backup/other", ".hidden/file", "used/_data/file", "plain")
	before := tree(t, v.dir)
	if err := v.Sweep(func(name string) (bool, error) { return name == "used", nil }); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, v.dir); !slices.Equal(got, before) {
		t.Errorf("of %q there is %q", before, got)
	}
	if list, err := v.List(); err != nil || len(list) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	if _, _, err := v.Create(Volume{Name: "backup"}); err == nil || !strings.Contains(err.Error(), "backup is there and is no volume") {
		t.Errorf("create: %v", err)
	}
	if got := tree(t, v.dir); !slices.Equal(got, before) {
		t.Errorf("of %q there is %q after create", before, got)
	}
	if err := v.Sweep(func(string) (bool, error) { return false, errors.New("no idea") }); err == nil || !strings.Contains(err.Error(), "no idea") {
		t.Errorf("sweep: %v", err)
	}
}

// TestRemoveIsOneRename: before anything of a volume goes, it has lost its name.
func TestRemoveIsOneRename(t *testing.T) {
	v := Open(t.TempDir())
	files(t, create(t, v, "vol").Dir, "file")
	files(t, v.dir, "vol/.tmp-volume.json-123", "vol/fill/old") // left by killed commands
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, dir := range []string{"vol", "vol/_data"} {
		if _, err := unix.InotifyAddWatch(fd, filepath.Join(v.dir, dir), unix.IN_DELETE|unix.IN_MOVE_SELF|unix.IN_MOVED_FROM); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Remove("vol", unused); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	if err != nil || n < unix.SizeofInotifyEvent {
		t.Fatalf("%d bytes of events, %v", n, err)
	}
	// struct inotify_event: watch, mask.
	if mask := binary.NativeEndian.Uint32(buf[4:]); mask != unix.IN_MOVE_SELF {
		t.Errorf("the first event is %#x, want a rename of the directory", mask)
	}
	if got := tree(t, v.dir); len(got) > 0 {
		t.Errorf("there is %q", got)
	}
}

// TestMounted: what is mounted in a volume keeps its files, and the volume them.
func TestMounted(t *testing.T) {
	testutil.Require(t, "root")
	v := Open(filepath.Join(t.TempDir(), "with a blank"))
	for _, at := range []string{"vol", "vol/_data", "vol/_data/sub"} {
		create(t, v, "vol")
		files(t, v.dir, "vol/_data/kept", "vol/_data/sub/")
		if at == "vol" {
			// A mount hides the record: keep it by mounting the directory itself.
			mount(t, filepath.Join(v.dir, at), filepath.Join(v.dir, at), "", unix.MS_BIND)
		} else {
			mount(t, "none", filepath.Join(v.dir, at), "tmpfs", 0)
			files(t, v.dir, at+"/mounted")
		}
		before := tree(t, v.dir)
		err := v.Remove("vol", unused)
		if err == nil || !strings.Contains(err.Error(), "something is mounted on "+filepath.Join(v.dir, at)+":") {
			t.Errorf("%s: %v", at, err)
		}
		if got := tree(t, v.dir); !slices.Equal(got, before) {
			t.Errorf("%s: of %q there is %q", at, before, got)
		}
		if err := unix.Unmount(filepath.Join(v.dir, at), 0); err != nil {
			t.Fatal(err)
		}
		if err := v.Remove("vol", unused); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
	// Nor do remains go with a mount in them.
	files(t, v.dir, ".tmp/XYZ/_data/", "vol/_data/")
	for _, at := range []string{".tmp/XYZ/_data", "vol/_data"} {
		mount(t, "none", filepath.Join(v.dir, at), "tmpfs", 0)
		files(t, v.dir, at+"/mounted")
	}
	create(t, v, "other") // they hinder nobody else
	before := tree(t, v.dir)
	if _, _, err := v.Create(Volume{Name: "vol"}); err == nil || !strings.Contains(err.Error(), "something is mounted on") {
		t.Errorf("create: %v", err)
	}
	if err := v.Sweep(unused); err == nil || strings.Count(err.Error(), "something is mounted on") != 2 {
		t.Errorf("sweep: %v", err)
	}
	if got := tree(t, v.dir); !slices.Equal(got, before) {
		t.Errorf("of %q there is %q", before, got)
	}
}

func mount(t *testing.T, source, at, fstype string, flags uintptr) {
	t.Helper()
	if err := unix.Mount(source, at, fstype, flags, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
}

// TestFill: a volume is filled once, and nothing is left beside it.
func TestFill(t *testing.T) {
	testutil.Require(t, "root")
	v := Open(t.TempDir())
	vol := create(t, v, "vol")
	source := t.TempDir()
	files(t, source, "a", "dir/b")
	from, err := os.Open(source)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	files(t, v.dir, ".tmp/XYZ/old") // of one that was killed
	want := []string{"vol", "vol/_data", "vol/_data/a", "vol/_data/dir", "vol/_data/dir/b", "vol/volume.json"}
	for range 2 {
		if err := v.Fill(t.Context(), vol, from); err != nil {
			t.Fatal(err)
		}
		if err := v.Sweep(unused); err != nil {
			t.Fatal(err)
		}
		if got := tree(t, v.dir); !slices.Equal(got, want) {
			t.Errorf("there is %q", got)
		}
		files(t, source, "late")
	}
}

// TestDamaged: a volume whose record a power cut has emptied is listed, is not used,
// and can be removed; others are not concerned.
func TestDamaged(t *testing.T) {
	v := Open(t.TempDir())
	for _, name := range []string{"good", "bad"} {
		if _, _, err := v.Create(Volume{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(v.path("bad"), recordFile), 0); err != nil {
		t.Fatal(err)
	}
	all, err := v.List()
	if err != nil || len(all) != 2 || all[0].Name != "bad" || all[0].Dir != filepath.Join(v.path("bad"), dataDir) {
		t.Errorf("listed are %+v, %v", all, err)
	}
	if _, _, err := v.Create(Volume{Name: "bad"}); !errors.Is(err, ErrDamaged) {
		t.Errorf("it is used: %v", err)
	}
	if err := v.Remove("bad", func(string) (bool, error) { return false, nil }); err != nil {
		t.Error(err)
	}
	if all, err := v.List(); err != nil || len(all) != 1 {
		t.Errorf("listed are then %+v, %v", all, err)
	}
}
