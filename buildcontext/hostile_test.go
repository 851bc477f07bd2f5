// SPDX-License-Identifier: Apache-2.0

package buildcontext

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"builder/internal/testutil"
	"builder/mount"

	"golang.org/x/sys/unix"
)

// TestLinksOutOfTheTree: no link, in whatever place, leads to the host's
// files.
func TestLinksOutOfTheTree(t *testing.T) {
	testutil.Require(t, "root")
	host := t.TempDir()
	build(t, host, "f secret 600 0:0 SECRET", "f dir/secret 600 0:0 SECRET")
	up := strings.Repeat("../", 40)
	src := t.TempDir()
	build(t, src,
		"l abs "+host, "l rel "+up+host, "l file "+host+"/secret", "l d/abs "+host, "l p1 /proc/self/root"+host, "l p2 /proc/self/cwd",
		"f d/f 644 0:0 F")
	for _, source := range []string{
		"abs", "rel", "file", "abs/secret", "rel/dir", "rel/dir/*", "p1/secret", "p2", "d/abs/secret", "abs/*", "*/secret", "*", "**", ".",
		"/" + up + host, up + host + "/secret",
	} {
		for _, parents := range []bool{false, true} {
			root := t.TempDir()
			_, err := copyTo(t, open(t, src, Options{}), root, Request{Sources: []string{source}, Dest: "/x/", Parents: parents}, CopyOptions{})
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", source, err)
			}
			for _, line := range list(t, root, false) {
				if strings.Contains(line, "SECRET") {
					t.Errorf("%s (parents %v) read a host file: %s", source, parents, line)
				}
			}
		}
	}
}

// TestSwapRace swaps a directory and a file of the tree for links to the
// host's while they are selected, hashed and copied over and over.
func TestSwapRace(t *testing.T) {
	testutil.Require(t, "root")
	host, src := t.TempDir(), t.TempDir()
	build(t, host, "f f 600 0:0 SECRET", "f sub/g 600 0:0 SECRET")
	build(t, src, "f d/f 644 0:0 open", "f d/sub/g 644 0:0 open", "f single 644 0:0 open")
	must(t, os.Symlink(host, filepath.Join(src, "dlink")))
	must(t, os.Symlink(filepath.Join(host, "f"), filepath.Join(src, "flink")))
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			for _, pair := range [][2]string{{"d", "dlink"}, {"single", "flink"}} {
				unix.Renameat2(unix.AT_FDCWD, filepath.Join(src, pair[0]), unix.AT_FDCWD, filepath.Join(src, pair[1]), unix.RENAME_EXCHANGE)
			}
		}
	}()
	copied, failed := 0, 0
	for i := range 400 {
		root := t.TempDir()
		tree, err := Open(src, Options{})
		must(t, err)
		_, err = copyTo(t, tree, root, Request{Sources: []string{".", "d", "single"}[i%3 : i%3+1], Dest: "/x/"}, CopyOptions{})
		if err != nil {
			failed++
		} else {
			copied++
		}
		must(t, tree.Close())
		for _, line := range list(t, root, false) {
			if strings.Contains(line, "SECRET") {
				t.Fatalf("read a host file: %s", line)
			}
		}
		must(t, os.RemoveAll(root))
	}
	stop.Store(true)
	<-done
	t.Logf("%d copied, %d failed", copied, failed)
}

// TestConcurrent selects, hashes and copies from one tree at once, as stages
// do; it is of use with the race detector.
func TestConcurrent(t *testing.T) {
	testutil.Require(t, "root")
	src := makeTree(t, 300)
	build(t, src, "f junk/a 644", "f junk/deep/b.txt 644", "f junk/none/c 644")
	tree := open(t, src, Options{Ignore: []string{"junk", "!**/*.txt"}, Index: filepath.Join(t.TempDir(), "index")})
	var wg sync.WaitGroup
	for _, req := range []Request{
		everything, everything,
		{Sources: []string{"d0/*"}, Dest: "/x/"},
		{Sources: []string{"d0"}, Dest: "/x/", Exclude: []string{"sub1"}},
		{Sources: []string{"**/*.txt"}, Dest: "/", Parents: true},
		{Sources: []string{"junk/deep/b.txt"}, Dest: "/"},
	} {
		root := t.TempDir()
		wg.Go(func() {
			for range 3 {
				if _, err := copyTo(t, tree, root, req, CopyOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if s := tree.Stats(); s.Hashed != 301 {
		t.Errorf("%d files were hashed", s.Hashed)
	}
}

// TestUmask: the umask of this process is not in the result.
func TestUmask(t *testing.T) {
	testutil.Require(t, "root")
	src := t.TempDir()
	build(t, src, "f d/a 666 0:0 A", "d d 777", "p d/p 666", "f d/b 4777 0:0 B")
	tree := open(t, src, Options{})
	for _, mask := range []int{0, 0o77, 0o777} {
		dst := t.TempDir()
		before := unix.Umask(mask)
		_, err := copyTo(t, tree, dst, Request{Sources: []string{"."}, Inline: []Inline{{"i", nil}}, Dest: "/x/y/"}, CopyOptions{})
		unix.Umask(before)
		must(t, err)
		same(t, "result", list(t, dst, false), []string{
			"d x 755 0:0", "d x/y 755 0:0", "d x/y/d 777 0:0", "f x/y/d/a 666 0:0 A", "f x/y/d/b 4777 0:0 B", "p x/y/d/p 666 0:0", "f x/y/i 644 0:0",
		})
	}
}

// TestDefaultACL: what a directory hands down to new files is not in the
// result either.
func TestDefaultACL(t *testing.T) {
	testutil.Require(t, "root")
	src, dst := t.TempDir(), t.TempDir()
	build(t, src, "f d/a 666 0:0 A", "d d 775", "f d/e/b 664 0:0 B")
	// Version 2, then user::rwx, group::---, other::--- for new files.
	acl := "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x04\x00\x00\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
	if err := unix.Setxattr(dst, "system.posix_acl_default", []byte(acl), 0); err != nil {
		t.Skipf("no access lists here: %v", err)
	}
	_, err := copyTo(t, open(t, src, Options{}), dst, Request{Sources: []string{"."}, Dest: "/"}, CopyOptions{})
	must(t, err)
	same(t, "result", list(t, dst, false), []string{"d d 775 0:0", "f d/a 666 0:0 A", "d d/e 755 0:0", "f d/e/b 664 0:0 B"})
}

// TestDeepTree: neither depth nor long paths are a limit but the kernel's.
func TestDeepTree(t *testing.T) {
	testutil.Require(t, "root")
	src, dst := t.TempDir(), t.TempDir()
	deep := strings.Repeat("d/", 600)
	must(t, os.MkdirAll(filepath.Join(src, deep), 0o755))
	must(t, os.WriteFile(filepath.Join(src, deep, "f"), []byte("F"), 0o644))
	tree := open(t, src, Options{Index: filepath.Join(t.TempDir(), "index"), Ignore: []string{"x", "!y"}})
	res, err := copyTo(t, tree, dst, Request{Sources: []string{"."}, Dest: "/"}, CopyOptions{})
	must(t, err)
	if res.Dirs != 600 || res.Files != 1 {
		t.Errorf("%+v", res)
	}
}

// TestOverlay copies from a detached overlay mount to another, as between
// stages.
func TestOverlay(t *testing.T) {
	testutil.Require(t, "root")
	base := t.TempDir()
	dir := func(name string) string {
		p := filepath.Join(base, name)
		must(t, os.MkdirAll(p, 0o755))
		return p
	}
	build(t, dir("low"), "f a/x 644 1:1 X", "f a/y 600 1:1 Y", "h a/z a/y", "f gone 644")
	build(t, dir("up"), "f a/new 755 2:2 N", "c gone 600 0:0")
	build(t, dir("dlow"), "f app/x 600 9:9 old", "l link app", "d app/keep 700 9:9")
	from, err := mount.Overlay{Lower: []string{dir("up"), dir("low")}}.Open()
	must(t, err)
	defer from.Close()
	to, err := mount.Overlay{Lower: []string{dir("dlow")}, Upper: dir("dup"), Work: dir("dwork"), Volatile: true}.Open()
	must(t, err)
	defer to.Close()
	tree, err := OpenFile(from, Options{KeepOwner: true})
	must(t, err)
	s, err := tree.Select(t.Context(), Request{Sources: []string{"*"}, Dest: "/link/"})
	must(t, err)
	res, err := s.Copy(t.Context(), to, CopyOptions{})
	must(t, err)
	if len(res.Changed) > 0 {
		t.Errorf("changed: %+v", res.Changed)
	}
	must(t, tree.Close())
	same(t, "upper", list(t, dir("dup"), false), []string{
		"d app 755 0:0", "f app/new 755 2:2 N", "f app/x 644 1:1 X", "f app/y 600 1:1 Y", "h app/z app/y",
	})
}
