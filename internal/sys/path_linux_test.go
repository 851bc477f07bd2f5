// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// tree makes a root with links of every kind and returns it opened.
func tree(t *testing.T) (*os.File, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	for _, d := range []string{"usr/bin", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"bin": "usr/bin", "abs": "/usr/bin", "up": "../../../..", "var": "/run/var",
		"etc/resolv": "../run/resolved/stub", "loop": "loop", "etc/host": "/etc/../../../etc",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root, dir
}

func TestMkdirAllInRoot(t *testing.T) {
	for _, tc := range []struct {
		name string
		made []string
		err  error
	}{
		{name: "/"},
		{name: "usr/bin"},
		{name: "bin"},
		{name: "a/b/c", made: []string{"/a", "/a/b", "/a/b/c"}},
		{name: "../../a//./b/", made: []string{"/a", "/a/b"}},
		{name: "abs/x", made: []string{"/usr/bin/x"}},
		{name: "up/x", made: []string{"/x"}},
		{name: "var/lib", made: []string{"/run", "/run/var", "/run/var/lib"}},
		{name: "etc/resolv/x", made: []string{"/run", "/run/resolved", "/run/resolved/stub", "/run/resolved/stub/x"}},
		{name: "etc/host/new", made: []string{"/etc/new"}},
		{name: "new/../other", made: []string{"/new", "/other"}},
		{name: "etc/file", err: unix.ENOTDIR},
		{name: "etc/file/x", err: unix.ENOTDIR},
		{name: "loop/x", err: unix.ELOOP},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root, dir := tree(t)
			var made []string
			d, err := MkdirAllInRoot(root, tc.name, 0o751, func(_ *os.File, name string) error {
				made = append(made, name)
				return nil
			})
			if !errors.Is(err, tc.err) {
				t.Fatalf("error %v, want %v", err, tc.err)
			}
			if err == nil {
				d.Close()
			}
			if !slices.Equal(tc.made, made) {
				t.Errorf("made %q, want %q", made, tc.made)
			}
			for _, name := range made {
				st, err := os.Lstat(filepath.Join(dir, name))
				if err != nil || st.Mode() != fs.ModeDir|0o751 {
					t.Errorf("%s: %v, %v", name, st, err)
				}
			}
			above, err := os.ReadDir(filepath.Dir(dir))
			if err != nil || len(above) != 1 {
				t.Errorf("something was made above the root: %v, %v", above, err)
			}
		})
	}
}

func TestEnsureInRootFile(t *testing.T) {
	root, dir := tree(t)
	create := func(parent *os.File, base, _ string, last bool) error {
		if !last {
			return unix.Mkdirat(int(parent.Fd()), base, 0o755)
		}
		return unix.Mknodat(int(parent.Fd()), base, unix.S_IFREG|0o644, 0)
	}
	for _, name := range []string{"etc/resolv", "etc/resolv", "x/y"} {
		f, err := EnsureInRoot(root, name, create)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	for _, name := range []string{"run/resolved/stub", "x/y"} {
		if st, err := os.Lstat(filepath.Join(dir, name)); err != nil || !st.Mode().IsRegular() {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
}
