// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"builder/internal/testutil"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// create makes a file below an opened directory and returns the errno.
func create(dir *os.File, name string) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

func TestMountOpen(t *testing.T) {
	testutil.Require(t, "root")
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	sub, err := os.OpenFile(filepath.Join(dir, "sub"), unix.O_PATH, 0)
	must(t, err)
	defer sub.Close()
	detached, err := Mount{Type: Tmpfs}.Open()
	must(t, err)
	defer detached.Close()
	for _, tc := range []struct {
		name string
		m    Mount
		err  error // of making a file
	}{
		{name: "bind", m: Mount{Type: Bind, Source: dir}},
		{name: "recursive", m: Mount{Type: Bind, Source: dir, Recursive: true, Propagation: "rslave"}},
		{name: "read-only", m: Mount{Type: Bind, Source: dir, ReadOnly: true}, err: unix.EROFS},
		{name: "read-only, recursive", m: Mount{Type: Bind, Source: dir, ReadOnly: true, Recursive: true}, err: unix.EROFS},
		{name: "tree", m: Mount{Type: Bind, Tree: sub}},
		{name: "detached tree", m: Mount{Type: Bind, Tree: detached}},
		{name: "detached tree again", m: Mount{Type: Bind, Tree: detached, ReadOnly: true}, err: unix.EROFS},
		{name: "file", m: Mount{Type: Bind, Source: filepath.Join(dir, "file")}, err: unix.ENOTDIR},
		{name: "tmpfs", m: Mount{Type: Tmpfs, Size: 1 << 16, Mode: 0o700, UID: 3, GID: 4}},
		{name: "read-only tmpfs", m: Mount{Type: Tmpfs, ReadOnly: true}, err: unix.EROFS},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := tc.m.Open()
			must(t, err)
			defer f.Close()
			if err := create(f, "new"); !errors.Is(err, tc.err) {
				t.Errorf("create: %v, want %v", err, tc.err)
			}
			if tc.m.Mode != 0 {
				var st unix.Stat_t
				must(t, unix.Fstat(int(f.Fd()), &st))
				if st.Mode&0o7777 != tc.m.Mode || int(st.Uid) != tc.m.UID || int(st.Gid) != tc.m.GID {
					t.Errorf("mode %o, owner %d:%d", st.Mode, st.Uid, st.Gid)
				}
			}
		})
	}
	if err := create(detached, "still writable"); err != nil {
		t.Errorf("the tree itself has changed: %v", err)
	}
	for _, m := range []Mount{
		{Type: "nfs"}, {Type: Bind, Source: filepath.Join(dir, "nope")}, {Type: Bind, Source: dir, Propagation: "wide"},
	} {
		if f, err := m.Open(); err == nil {
			f.Close()
			t.Errorf("%+v: no error", m)
		}
	}
}

func TestMountFlags(t *testing.T) {
	testutil.Require(t, "root")
	for _, m := range []Mount{{Type: Tmpfs, NoExec: true}, {Type: Tmpfs, NoSuid: true}, {Type: Tmpfs, NoDev: true}, {Type: Bind, Source: t.TempDir(), NoExec: true, NoSuid: true, NoDev: true}} {
		f, err := m.Open()
		must(t, err)
		var st unix.Statfs_t
		must(t, unix.Fstatfs(int(f.Fd()), &st))
		f.Close()
		for flag, want := range map[int64]bool{unix.ST_NOEXEC: m.NoExec, unix.ST_NOSUID: m.NoSuid, unix.ST_NODEV: m.NoDev} {
			if (st.Flags&flag != 0) != want {
				t.Errorf("%+v: flags %#x", m, st.Flags)
			}
		}
	}
}

func TestFSOpenErrors(t *testing.T) {
	testutil.Require(t, "root")
	for _, fs := range []FS{{Type: "no such"}, {Type: "tmpfs", Options: []Option{{"size", "much"}}}, {Type: "tmpfs", Options: []Option{{"nope", ""}}}} {
		if f, err := fs.Open(); err == nil {
			f.Close()
			t.Errorf("%+v: no error", fs)
		}
	}
}
