// SPDX-License-Identifier: Apache-2.0

package container

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"builder/mount"
)

// What a container leaves in its root: what the process did, and /proc, /dev
// and /sys. That is what BuildKit's layers have.
func TestStubs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, []byte("x"), 0o644))
	for _, tc := range []struct {
		name    string
		prepare func(t *testing.T, dir string)
		args    []string
		mounts  []mount.Mount
		made    []string // new in the root, besides proc, dev and sys
		touched []string // directories whose time is new, besides the top
	}{
		{name: "nothing", args: []string{"exit", "0"}},
		{name: "process writes", args: []string{"touch", "/etc/new"}, made: []string{"etc/new"}, touched: []string{"etc"}},
		{
			name: "no etc", args: []string{"exit", "0"},
			prepare: func(t *testing.T, dir string) { must(t, os.RemoveAll(dir+"/etc")) },
		},
		{
			name: "no etc, and the process uses it", args: []string{"touch", "/etc/new"},
			prepare: func(t *testing.T, dir string) { must(t, os.RemoveAll(dir+"/etc")) },
			made:    []string{"etc", "etc/new"},
		},
		{
			name: "dangling link", args: []string{"exit", "0"},
			prepare: func(t *testing.T, dir string) {
				must(t, os.Symlink("../run/systemd/resolve/stub-resolv.conf", dir+"/etc/resolv.conf"))
			},
		},
		{
			name: "there already", args: []string{"exit", "0"},
			prepare: func(t *testing.T, dir string) {
				must(t, os.WriteFile(dir+"/etc/hosts", nil, 0o644))
				must(t, os.Mkdir(dir+"/cache", 0o755))
			},
			mounts: []mount.Mount{{Type: mount.Tmpfs, Target: "/cache"}, {Type: mount.Bind, Source: file, Target: "/etc/hosts"}},
		},
		{
			name: "mounts", args: []string{"touch", "/a/b/c/x", ";", "touch", "/a/b/made"},
			mounts: []mount.Mount{{Type: mount.Tmpfs, Target: "/a/b/c"}, {Type: mount.Tmpfs, Target: "/data/sub/x"}, {Type: mount.Bind, Source: file, Target: "/data/file"}},
			made:   []string{"a", "a/b", "a/b/made"},
		},
		{
			name: "mount in a mount", args: []string{"exit", "0"},
			mounts: []mount.Mount{{Type: mount.Tmpfs, Target: "/a"}, {Type: mount.Tmpfs, Target: "/a/b"}},
		},
		{
			name: "parent renamed", args: []string{"rename", "/vol", "/moved", ";", "mkdir", "/vol/x"},
			mounts: []mount.Mount{{Type: mount.Tmpfs, Target: "/vol/x"}},
			made:   []string{"moved", "vol", "vol/x"},
		},
		{
			name: "parent replaced by a link", args: []string{"rename", "/vol", "/old", ";", "symlink", "/data", "/vol", ";", "mkdir", "/data/x"},
			mounts: []mount.Mount{{Type: mount.Tmpfs, Target: "/vol/x"}},
			made:   []string{"data/x", "old", "vol"}, touched: []string{"data"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachCarrier(t, func(t *testing.T, run runner) {
				dir := image(t)
				if tc.prepare != nil {
					tc.prepare(t, dir)
				}
				past := time.Unix(1e9, 5)
				must(t, filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
					must(t, err)
					ts := []unix.Timespec{unix.NsecToTimespec(past.UnixNano()), unix.NsecToTimespec(past.UnixNano())}
					return unix.UtimesNanoAt(unix.AT_FDCWD, name, ts, unix.AT_SYMLINK_NOFOLLOW)
				}))
				root, _ := rootOf(t, dir)
				before := treeOf(t, root)
				spec := newSpec(t, tc.args...)
				spec.Root, spec.Mounts = root, tc.mounts
				_, err := run.output(t, spec)
				must(t, err)
				var made, touched []string
				after := treeOf(t, root)
				for _, name := range slices.Sorted(maps.Keys(after)) {
					switch was, is := before[name], after[name]; {
					case was == "" && name != "proc" && name != "dev" && name != "sys":
						made = append(made, name)
					case was != "" && was != is && name != ".":
						touched = append(touched, name)
					}
				}
				for _, name := range []string{"proc", "dev", "sys"} {
					if after[name] == "" {
						t.Errorf("%s is missing", name)
					}
				}
				if !slices.Equal(made, tc.made) || !slices.Equal(touched, tc.touched) {
					t.Errorf("made %q, want %q; touched %q, want %q", made, tc.made, touched, tc.touched)
				}
			})
		})
	}
}

// A stub that the process has written to, by whatever way, stays.
func TestStubsUsed(t *testing.T) {
	root, err := os.Open(t.TempDir())
	must(t, err)
	defer root.Close()
	make := func(s *stubs, name string, dir bool) {
		f, err := s.ensure(root, name, dir, false)
		must(t, err)
		f.Close()
	}
	path := func(name string) string { return filepath.Join(root.Name(), name) }
	var s stubs
	for _, name := range []string{"written", "replaced", "gone", "kept"} {
		make(&s, "dir/"+name, false)
	}
	make(&s, "full/deep", true)
	must(t, os.WriteFile(path("dir/written"), []byte("x"), 0o644))
	must(t, os.Remove(path("dir/replaced")))
	must(t, os.WriteFile(path("dir/replaced"), nil, 0o644))
	must(t, os.Remove(path("dir/gone")))
	must(t, os.WriteFile(path("full/deep/x"), nil, 0o644))
	must(t, s.clean())
	want := []string{".", "dir", "dir/replaced", "dir/written", "full", "full/deep", "full/deep/x"}
	if got := slices.Sorted(maps.Keys(treeOf(t, root))); !slices.Equal(got, want) {
		t.Errorf("left are %q, want %q", got, want)
	}
}
