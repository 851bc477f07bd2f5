// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"builder/mount"

	"golang.org/x/sys/unix"
)

// tree makes files below a directory and fails the test where it can't.
type tree struct {
	t   testing.TB
	dir string
}

func newTree(t testing.TB) tree { return tree{t, t.TempDir()} }

func (r tree) path(name string) string { return filepath.Join(r.dir, name) }

func (r tree) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// clock is the time that files of tests have, a moment after 2023 began.
const clock = 1672531205

// stamp gives the file a time of whole seconds.
func (r tree) stamp(name string, sec int64) tree {
	r.t.Helper()
	ts := unix.Timespec{Sec: sec}
	r.must(unix.UtimesNanoAt(unix.AT_FDCWD, r.path(name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	return r
}

func (r tree) file(name, data string, mode uint32) tree {
	r.t.Helper()
	r.must(os.WriteFile(r.path(name), []byte(data), 0o600))
	return r.mode(name, mode).stamp(name, clock)
}

func (r tree) mkdir(name string, mode uint32) tree {
	r.t.Helper()
	r.must(os.Mkdir(r.path(name), 0o700))
	return r.mode(name, mode).stamp(name, clock)
}

func (r tree) symlink(name, target string) tree {
	r.t.Helper()
	r.must(os.Symlink(target, r.path(name)))
	return r.stamp(name, clock)
}

func (r tree) link(name, target string) tree {
	r.t.Helper()
	r.must(os.Link(r.path(target), r.path(name)))
	return r
}

func (r tree) mknod(name string, mode uint32, dev uint64) tree {
	r.t.Helper()
	r.must(unix.Mknod(r.path(name), mode, int(dev)))
	return r.stamp(name, clock)
}

func (r tree) mode(name string, mode uint32) tree {
	r.t.Helper()
	r.must(unix.Chmod(r.path(name), mode))
	return r
}

func (r tree) chown(name string, uid, gid int) tree {
	r.t.Helper()
	r.must(os.Lchown(r.path(name), uid, gid))
	return r
}

func (r tree) attr(name, attr, value string) tree {
	r.t.Helper()
	r.must(unix.Lsetxattr(r.path(name), attr, []byte(value), 0))
	return r
}

func (r tree) remove(name string) tree {
	r.t.Helper()
	r.must(os.RemoveAll(r.path(name)))
	return r
}

func (r tree) open() *os.File {
	r.t.Helper()
	f, err := os.Open(r.dir)
	r.must(err)
	r.t.Cleanup(func() { f.Close() })
	return f
}

// capability is a valid value of security.capability: cap_net_raw=ep.
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// describe returns a line for each file below dir with all that a layer keeps
// of it. Files with several names say which.
func describe(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	names := map[inode][]string{}
	err := filepath.WalkDir(dir+"/.", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || name == "." {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line, err := describeFile(path, &st)
		if err != nil {
			return err
		}
		out[name] = line
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			id := inode{uint64(st.Dev), st.Ino}
			names[id] = append(names[id], name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range names {
		if len(group) == 1 {
			continue // the other names are hidden
		}
		for _, name := range group {
			out[name] += fmt.Sprintf(" links=%q", group)
		}
	}
	return out
}

func describeFile(path string, st *unix.Stat_t) (string, error) {
	line := fmt.Sprintf("%o %d:%d t=%d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		sum := sha256.New()
		n, err := io.Copy(sum, f)
		if err != nil {
			return "", err
		}
		line += fmt.Sprintf(" %d bytes %.4x", n, sum.Sum(nil))
	case unix.S_IFLNK:
		link, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		line += " -> " + link
	case unix.S_IFCHR, unix.S_IFBLK:
		line += fmt.Sprintf(" dev %d/%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	}
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return "", err
	}
	attrs := strings.Split(string(buf[:n]), "\x00")
	slices.Sort(attrs)
	for _, attr := range attrs {
		if attr == "" || strings.HasPrefix(attr, trustedOverlay) || strings.HasPrefix(attr, userOverlay) {
			continue
		}
		value := make([]byte, 1024)
		n, err := unix.Lgetxattr(path, attr, value)
		if err != nil {
			return "", err
		}
		line += fmt.Sprintf(" %s=%q", attr, value[:n])
	}
	return line, nil
}

// sameTree fails the test where two descriptions differ.
func sameTree(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	names := slices.Collect(maps.Keys(want))
	for name := range got {
		if _, ok := want[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if g, w := got[name], want[name]; g != w {
			t.Errorf("%s: %.60q\n got %s\nwant %s", what, name, or(g, "nothing"), or(w, "nothing"))
		}
	}
}

func or(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}

// entries lists a tar as archive/tar reads it, "TYPE NAME" each.
func entries(t testing.TB, data []byte) []string {
	t.Helper()
	var out []string
	for _, hdr := range headers(t, data) {
		line := string(hdr.Typeflag) + " " + hdr.Name
		if hdr.Linkname != "" {
			line += " -> " + hdr.Linkname
		}
		out = append(out, line)
	}
	return out
}

func headers(t testing.TB, data []byte) []*tar.Header {
	t.Helper()
	var out []*tar.Header
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, hdr)
	}
}

// overlay mounts directories, topmost first, and returns where the mount can
// be reached. With an upper directory it can be written to.
func overlay(t testing.TB, upper, work string, lower ...string) (tree, func()) {
	t.Helper()
	if upper == "" && len(lower) == 1 {
		lower = append(lower, t.TempDir()) // the kernel wants two
	}
	f, err := mount.Overlay{Lower: lower, Upper: upper, Work: work}.Open()
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	closeOnce := func() {
		if !closed {
			f.Close()
			closed = true
		}
	}
	t.Cleanup(closeOnce)
	return tree{t, fmt.Sprintf("/proc/self/fd/%d", f.Fd())}, closeOnce
}

// entry is a tar entry for tests.
type tarEntry struct {
	tar.Header
	data string
}

// makeTar writes entries with archive/tar.
func makeTar(t testing.TB, list ...tarEntry) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range list {
		if e.Typeflag == 0 {
			e.Typeflag = tar.TypeReg
		}
		if e.Typeflag == tar.TypeReg {
			e.Size = int64(len(e.data))
		}
		if e.Mode == 0 && e.Typeflag != tar.TypeXGlobalHeader {
			e.Mode = 0o755
		}
		if e.ModTime.IsZero() && e.Typeflag != tar.TypeXGlobalHeader {
			e.ModTime = time.Unix(clock, 0)
		}
		if err := tw.WriteHeader(&e.Header); err != nil {
			t.Fatalf("%q: %v", e.Name, err)
		}
		if _, err := io.WriteString(tw, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func dirEntry(name string) tarEntry {
	return tarEntry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir}}
}

func fileEntry(name, data string) tarEntry {
	return tarEntry{Header: tar.Header{Name: name, Mode: 0o644}, data: data}
}

func linkEntry(typeflag byte, name, target string) tarEntry {
	return tarEntry{Header: tar.Header{Name: name, Linkname: target, Typeflag: typeflag, Mode: 0o644}}
}
