// SPDX-License-Identifier: Apache-2.0

package buildcontext

import (
	"builder/internal/testutil"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// A test describes trees by lines:
//
//	d name mode [owner]
//	f name mode owner content
//	l name target [owner]      a symbolic link
//	h name first               a further name of a file
//	p name mode [owner]        a FIFO
//	s name mode                a socket
//	c name mode major:minor    a character device
//	x name attribute=value     an extended attribute of what is there
//
// The mode is octal, the owner "uid:gid" and 0:0 if left out, and every name
// may be quoted as in Go. All times are one hour after old, but for those of
// "t name seconds" lines, which are that much after it.

// old is when everything in a described tree was modified.
const old = 1_000_000_000

// build makes the described tree in dir.
func build(tb testing.TB, dir string, lines ...string) {
	tb.Helper()
	testutil.Require(tb, "root") // it gives files to others
	times := map[string]int64{}
	for _, line := range lines {
		f := fields(tb, line)
		p := filepath.Join(dir, f[1])
		if f[0] == "t" {
			sec, err := strconv.ParseInt(f[2], 10, 64)
			must(tb, err)
			times[p] = sec
			continue
		}
		must(tb, os.MkdirAll(filepath.Dir(p), 0o755))
		must(tb, buildOne(p, f))
	}
	var all []string
	must(tb, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		all = append(all, p)
		return err
	}))
	for _, p := range slices.Backward(all) {
		sec, ok := times[p]
		if !ok {
			sec = 3600
		}
		setTime(tb, p, time.Unix(old+sec, 0))
	}
}

func buildOne(p string, f []string) error {
	arg := func(i int, def string) string {
		if i < len(f) {
			return f[i]
		}
		return def
	}
	mode64, _ := strconv.ParseUint(arg(2, "0"), 8, 32)
	mode, owner := uint32(mode64), arg(3, "0:0")
	var err error
	switch f[0] {
	case "d":
		err = os.MkdirAll(p, 0o700)
	case "f":
		err = os.WriteFile(p, []byte(arg(4, "")), 0o600)
	case "l":
		if err := os.Symlink(f[2], p); err != nil {
			return err
		}
		return lchown(p, owner)
	case "h":
		return os.Link(filepath.Join(strings.TrimSuffix(p, f[1]), f[2]), p)
	case "p":
		err = unix.Mkfifo(p, 0o600)
	case "s":
		err = unix.Mknod(p, unix.S_IFSOCK|0o600, 0)
	case "c":
		var major, minor uint32
		fmt.Sscanf(f[3], "%d:%d", &major, &minor)
		err, owner = unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))), "0:0"
	case "x":
		name, value, _ := strings.Cut(f[2], "=")
		return unix.Lsetxattr(p, name, []byte(value), 0)
	default:
		err = fmt.Errorf("what is %q", f[0])
	}
	if err != nil {
		return err
	}
	if err := lchown(p, owner); err != nil {
		return err
	}
	return unix.Chmod(p, mode)
}

func lchown(p, owner string) error {
	var uid, gid int
	if _, err := fmt.Sscanf(owner, "%d:%d", &uid, &gid); err != nil {
		return err
	}
	if uid == os.Geteuid() && gid == os.Getegid() {
		return nil
	}
	return os.Lchown(p, uid, gid)
}

// fields splits a line at spaces; a field may be quoted.
func fields(tb testing.TB, line string) []string {
	tb.Helper()
	var out []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		word, rest, _ := strings.Cut(line, " ")
		if line[0] == '"' {
			quoted, err := strconv.QuotedPrefix(line)
			must(tb, err)
			word, err = strconv.Unquote(quoted)
			must(tb, err)
			rest = line[len(quoted):]
		}
		out, line = append(out, word), rest
	}
	return out
}

func setTime(tb testing.TB, p string, t time.Time) {
	tb.Helper()
	ts := unix.NsecToTimespec(t.UnixNano())
	must(tb, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

// list describes the tree in dir with the lines that build takes, sorted by
// name. With times, " @seconds" after old follows, or " @now".
func list(tb testing.TB, dir string, times bool) []string {
	tb.Helper()
	var out []string
	first := map[uint64]string{}
	must(tb, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		line, err := listOne(p, strings.TrimPrefix(p, dir+"/"), first)
		if err != nil {
			return err
		}
		if times {
			line += " " + listTime(tb, p)
		}
		out = append(out, line)
		return nil
	}))
	return out
}

func listTime(tb testing.TB, p string) string {
	tb.Helper()
	var st unix.Stat_t
	must(tb, unix.Lstat(p, &st))
	if st.Mtim.Sec > old+1_000_000 {
		return "@now"
	}
	return fmt.Sprintf("@%d", st.Mtim.Sec-old)
}

func listOne(p, name string, first map[uint64]string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return "", err
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '"' }) {
		name = strconv.Quote(name)
	}
	attrs := fmt.Sprintf(" %s %o %d:%d", name, st.Mode&0o7777, st.Uid, st.Gid)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "d" + attrs, nil
	case unix.S_IFLNK:
		target, err := os.Readlink(p)
		return fmt.Sprintf("l %s %s %d:%d", name, target, st.Uid, st.Gid), err
	case unix.S_IFIFO:
		return "p" + attrs, nil
	case unix.S_IFCHR:
		return fmt.Sprintf("c %s %o %d:%d", name, st.Mode&0o7777, unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
	}
	if f, ok := first[st.Ino]; ok {
		return fmt.Sprintf("h %s %s", name, f), nil
	}
	first[st.Ino] = name
	data, err := os.ReadFile(p)
	line := strings.TrimRight("f"+attrs+" "+string(data), " ")
	for _, attr := range []string{"user.k", "security.capability"} {
		buf := make([]byte, 64)
		if n, err := unix.Lgetxattr(p, attr, buf); err == nil {
			line += fmt.Sprintf(" %s=%q", attr, buf[:n])
		}
	}
	return line, err
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func same[T any](tb testing.TB, what string, got, want T) {
	tb.Helper()
	if d := cmp.Diff(want, got); d != "" {
		tb.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// open opens a tree for the time of the test.
func open(tb testing.TB, dir string, opts Options) *Tree {
	tb.Helper()
	t, err := Open(dir, opts)
	must(tb, err)
	tb.Cleanup(func() { must(tb, t.Close()) })
	return t
}

// copyTo selects and copies to the directory root.
func copyTo(tb testing.TB, t *Tree, root string, req Request, opts CopyOptions) (Result, error) {
	tb.Helper()
	s, err := t.Select(tb.Context(), req)
	if err != nil {
		return Result{}, err
	}
	f, err := os.Open(root)
	must(tb, err)
	defer f.Close()
	return s.Copy(tb.Context(), f, opts)
}

// key returns the digest of what a request selects.
func key(tb testing.TB, t *Tree, req Request) string {
	tb.Helper()
	s, err := t.Select(tb.Context(), req)
	must(tb, err)
	d, err := s.Digest(tb.Context())
	must(tb, err)
	return d.Encoded()
}

// age waits until what was just written is older than the steps in which file
// systems count time, so that it is trusted.
func age(tb testing.TB) {
	tb.Helper()
	time.Sleep(2 * fineStep)
}
