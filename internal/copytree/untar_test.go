// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"builder/internal/testutil"

	"golang.org/x/sys/unix"
)

// archive makes a tar stream of headers; a regular file has its name as bytes.
func archive(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range headers {
		h := &headers[i]
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(h.Name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &buf
}

func untar(t *testing.T, dir string, stream *bytes.Buffer) (int64, error) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return Untar(t.Context(), f, stream, nil)
}

// TestUntarHostile: no name and no link reaches what is beside the directory.
func TestUntarHostile(t *testing.T) {
	testutil.Require(t, "root")
	base := t.TempDir()
	canary := filepath.Join(base, "canary")
	secret := filepath.Join(canary, "secret")
	up := strings.Repeat("../", 30)
	reg := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o666} }
	link := func(name, to string) tar.Header { return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to} }
	sym := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	dir := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o777} }
	for name, headers := range map[string][]tar.Header{
		"dots":                      {reg("../canary/secret")},
		"many dots":                 {reg(up + canary[1:] + "/secret")},
		"dots inside":               {reg("a/../../canary/secret")},
		"only dots":                 {dir("..")},
		"absolute":                  {reg(secret)},
		"through a link":            {sym("l", "../canary"), reg("l/secret")},
		"through an absolute link":  {sym("l", canary), reg("l/secret")},
		"through two links":         {sym("a", ".."), sym("b", "a/canary"), reg("b/secret")},
		"link is replaced":          {sym("l", secret), reg("l")},
		"hard link":                 {link("h", "../canary/secret"), reg("h")},
		"hard link through a link":  {sym("l", canary), link("h", "l/secret")},
		"hard link to a link":       {sym("l", secret), link("h", "l"), reg("h")},
		"directory through a link":  {sym("l", canary), dir("l/new"), dir("l")},
		"directory over a link":     {sym("l", canary), dir("l"), reg("l/secret")},
		"removing through a link":   {sym("l", canary), dir("d"), sym("d/up", canary), reg("d")},
		"parent becomes a link":     {reg("d/x"), sym("d", canary), reg("d/secret")},
		"magic link":                {sym("l", "/proc/self/root"), reg("l" + secret)},
		"times of a replaced place": {dir("d"), sym("d", canary)},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(base, "root")
			for _, d := range []string{root, canary} {
				if err := os.RemoveAll(d); err != nil {
					t.Fatal(err)
				}
				if err := os.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(secret, []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			past := time.Unix(1e9, 0)
			if err := os.Chtimes(canary, past, past); err != nil {
				t.Fatal(err)
			}
			_, err := untar(t, root, archive(t, headers...))
			t.Logf("%v", err)
			data, err := os.ReadFile(secret)
			if err != nil || string(data) != "mine" {
				t.Errorf("the canary is %q, %v", data, err)
			}
			fi, err := os.Stat(canary)
			if err != nil || !fi.ModTime().Equal(past) || fi.Mode().Perm() != 0o755 {
				t.Errorf("the canary's directory was changed: %v, %v", fi, err)
			}
			var st unix.Stat_t
			if err := unix.Stat(secret, &st); err != nil || st.Nlink != 1 || st.Mode&0o777 != 0o600 {
				t.Errorf("the canary has %d links, mode %o, %v", st.Nlink, st.Mode, err)
			}
		})
	}
}

func TestUntarAttributes(t *testing.T) {
	testutil.Require(t, "root")
	dir := t.TempDir()
	at := func(sec int64) time.Time { return time.Unix(sec, 500) }
	cap := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	_, err := untar(t, dir, archive(t,
		tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "x"}},
		tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o2711, Uid: 1, Gid: 2, ModTime: at(1e9), Format: tar.FormatPAX},
		tar.Header{Typeflag: tar.TypeReg, Name: "d/f", Mode: 0o4755, Uid: 3, Gid: 1 << 30, ModTime: at(2e9), Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": cap, "SCHILY.xattr.user.k": "v", "SCHILY.xattr.trusted.overlay.opaque": "y"}},
		tar.Header{Typeflag: tar.TypeReg, Name: "old", Mode: 0o644, ModTime: time.Unix(-5, 0), Format: tar.FormatPAX},
	))
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, mode, uid, gid uint32, sec int64) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode&0o7777 != mode || st.Uid != uid || st.Gid != gid || st.Mtim.Sec != sec {
			t.Errorf("%s: mode %o, owner %d:%d, time %v", name, st.Mode, st.Uid, st.Gid, st.Mtim)
		}
	}
	check("d", 0o2711, 1, 2, 1e9)
	check("d/f", 0o4755, 3, 1<<30, 2e9)
	check("old", 0o644, 0, 0, 0)
	xattrs, err := XattrsAt(unix.AT_FDCWD, "x\x00")
	if err == nil && xattrs != nil {
		t.Error("attributes of nothing")
	}
	fd, err := unix.Open(dir, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	xattrs, err = XattrsAt(fd, MakeName("d/f"))
	if err != nil || len(xattrs) != 2 || xattrs[0] != (Xattr{"security.capability", cap}) || xattrs[1] != (Xattr{"user.k", "v"}) {
		t.Errorf("attributes %q, %v", xattrs, err)
	}
}

func TestUntarRefuses(t *testing.T) {
	testutil.Require(t, "root")
	for name, h := range map[string]tar.Header{
		"type":        {Typeflag: tar.TypeCont, Name: "x"},
		"owner":       {Typeflag: tar.TypeDir, Name: "x", Uid: 1 << 40, Format: tar.FormatGNU},
		"root":        {Typeflag: tar.TypeSymlink, Name: "./", Linkname: "x"},
		"broken link": {Typeflag: tar.TypeLink, Name: "x", Linkname: "missing"},
	} {
		if _, err := untar(t, t.TempDir(), archive(t, h)); err == nil || !strings.Contains(err.Error(), "entry ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
