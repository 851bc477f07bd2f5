// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"builder/internal/testutil"

	"golang.org/x/sys/unix"
)

func TestMode(t *testing.T) {
	const dir = unix.S_IFDIR
	for _, c := range []struct {
		mode     string
		in, want uint32
	}{
		{"", 0o4711, 0o4711},
		{"0", 0o4711, 0},
		{"755", 0o4600, 0o755},
		{"07777", 0o600, 0o7777},
		{"+x", 0o644, 0o755},
		{"a+x", 0o600, 0o711},
		{"u+x,go-rwx", 0o655, 0o700},
		{"=r", 0o4777, 0o444},
		{"u=rwX,go=rX", 0o640, 0o644},
		{"u=rwX,go=rX", 0o740, 0o755},
		{"u=rwX,go=rX", dir | 0o700, 0o755},
		{"a-x,a+X", 0o755, 0o755}, // X looks at the mode before
		{"a=,u=rX", 0o111, 0o500},
		{"-X", 0o755, 0o644},
		{"g=u", 0o4750, 0o4770},
		{"go=u-w", 0o700, 0o755},
		{"o=g", 0o2750, 0o2755},
		{"u=g", 0o4750, 0o4550},
		{"u+s", 0o755, 0o4755},
		{"g+s", 0o755, 0o2755},
		{"+s", 0o755, 0o6755},
		{"o+s", 0o755, 0o755},
		{"=t", 0o644, 0o1644},
		{"+rt", 0o200, 0o1200},
		{"+t", dir | 0o777, 0o1777},
		{"u+t", 0o777, 0o1777},
		{"o+t", 0o777, 0o777},
		{"-t", 0o1777, 0o777},
		{"a-s", 0o6755, 0o755},
		{"u=rw+x", 0o000, 0o700},
		{"ug+r-w", 0o222, 0o442},
		{"+", 0o644, 0o644},
		{"=", 0o6644, 0},
	} {
		m, err := ParseMode(c.mode)
		if err != nil {
			t.Errorf("%q: %v", c.mode, err)
			continue
		}
		if got := m.Apply(c.in); got != c.want {
			t.Errorf("%q makes %o of %o, want %o", c.mode, got, c.in, c.want)
		}
	}
	for _, bad := range []string{"8", "10000", "0888", "u", "x", "+rz", "u+r,", ",u+r", "a", "+755", "755,u+x", "u+r g+r", "-1", "0o755"} {
		if _, err := ParseMode(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// TestModeLikeChmod compares with chmod(1), where both mean the same: of special bits "=" takes
// different ones away.
func TestModeLikeChmod(t *testing.T) {
	testutil.Require(t, "chmod")
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, expr := range []string{"a+x", "u=rwX,go=rX", "g=u", "go=u", "o=g", "a-w", "u+s", "g-s", "a=rw", "ug=rwx,o=", "a+t", "u+r-w", "g+u", "o-u"} {
		for _, in := range []uint32{0, 0o600, 0o644, 0o755, 0o711, 0o421, 0o777} {
			if err := unix.Chmod(file, in); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.CommandContext(t.Context(), "chmod", expr, file).CombinedOutput(); err != nil {
				t.Fatal(string(out))
			}
			var st unix.Stat_t
			if err := unix.Stat(file, &st); err != nil {
				t.Fatal(err)
			}
			m, err := ParseMode(expr)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := m.Apply(unix.S_IFREG|in), st.Mode&0o7777; got != want {
				t.Errorf("%s of %o is %o, chmod(1) makes %o", expr, in, got, want)
			}
		}
	}
}

func FuzzMode(f *testing.F) {
	f.Add("u=rwX,go=rX", uint32(0o644))
	f.Add("0755", uint32(0))
	f.Fuzz(func(t *testing.T, s string, mode uint32) {
		m, err := ParseMode(s)
		if err != nil {
			return
		}
		if got := m.Apply(mode); got&^0o7777 != 0 {
			t.Errorf("%q makes %o of %o", s, got, mode)
		}
		if bits, ok := m.Octal(); ok && m.Apply(mode) != bits {
			t.Errorf("%q is octal but makes %o of %o", s, m.Apply(mode), mode)
		}
	})
}
