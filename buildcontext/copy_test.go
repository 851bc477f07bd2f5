// SPDX-License-Identifier: Apache-2.0

package buildcontext

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"builder/internal/testutil"

	"golang.org/x/sys/unix"
)

// copyCase is a COPY from one described tree to another. What was expected was
// checked with BuildKit's own copier (fsutil/copy of July 2026, called as
// docopy in its file backend calls it), unless the case says otherwise.
type copyCase struct {
	name   string
	src    []string
	dst    []string
	opts   Options
	req    Request
	want   []string // nil: as wantErr says
	err    string   // part of the error
	isTime bool     // compare times too
}

func (c copyCase) run(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	build(t, src, c.src...)
	build(t, dst, c.dst...)
	_, err := copyTo(t, open(t, src, c.opts), dst, c.req, CopyOptions{})
	if c.err != "" {
		if err == nil || !strings.Contains(err.Error(), c.err) {
			t.Fatalf("error is %v, want %q", err, c.err)
		}
		return
	}
	must(t, err)
	same(t, "result", list(t, dst, c.isTime), c.want)
}

func runCases(t *testing.T, cases []copyCase) {
	testutil.Require(t, "root")
	for _, c := range cases {
		t.Run(c.name, c.run)
	}
}

func TestCopyDestination(t *testing.T) {
	src := []string{"f a 644 0:0 A", "f dir/b 600 0:0 B", "d dir/empty 700", "f dir/sub/c 755 0:0 C", "d dir 711"}
	runCases(t, []copyCase{{
		name: "file to a name", src: src, req: Request{Sources: []string{"a"}, Dest: "/x"},
		want: []string{"f x 644 0:0 A"},
	}, {
		name: "file to a directory that is missing", src: src, req: Request{Sources: []string{"a"}, Dest: "/x/"},
		want: []string{"d x 755 0:0", "f x/a 644 0:0 A"},
	}, {
		name: "slash and dot is a slash", src: src, req: Request{Sources: []string{"a"}, Dest: "/x/."},
		want: []string{"d x 755 0:0", "f x/a 644 0:0 A"},
	}, {
		name: "file to a directory that is there", src: src, dst: []string{"d x 700 5:6"},
		req:  Request{Sources: []string{"a"}, Dest: "/x"},
		want: []string{"d x 700 5:6", "f x/a 644 0:0 A"},
	}, {
		name: "parents are made", src: src, req: Request{Sources: []string{"a"}, Dest: "/x/y/z"},
		want: []string{"d x 755 0:0", "d x/y 755 0:0", "f x/y/z 644 0:0 A"},
	}, {
		name: "parents that are made have the owner", src: src,
		req:  Request{Sources: []string{"a"}, Dest: "/x/y/", Owner: &Owner{UID: 7, GID: 8}},
		want: []string{"d x 755 7:8", "d x/y 755 7:8", "f x/y/a 644 7:8 A"},
	}, {
		name: "root", src: src, req: Request{Sources: []string{"a"}, Dest: "/"},
		want: []string{"f a 644 0:0 A"},
	}, {
		name: "contents of a directory", src: src, req: Request{Sources: []string{"dir"}, Dest: "/x"},
		// The directory itself is not copied, nor its mode.
		want: []string{"d x 755 0:0", "f x/b 600 0:0 B", "d x/empty 700 0:0", "d x/sub 755 0:0", "f x/sub/c 755 0:0 C"},
	}, {
		name: "all to the root", src: src, req: Request{Sources: []string{"."}, Dest: "/"},
		want: []string{"f a 644 0:0 A", "d dir 711 0:0", "f dir/b 600 0:0 B", "d dir/empty 700 0:0", "d dir/sub 755 0:0", "f dir/sub/c 755 0:0 C"},
	}, {
		name: "several sources", src: src, req: Request{Sources: []string{"a", "dir/b"}, Dest: "/x/"},
		want: []string{"d x 755 0:0", "f x/a 644 0:0 A", "f x/b 600 0:0 B"},
	}, {
		// BuildKit has no check for a slash: each source is copied by itself.
		name: "several files to one name", src: src, req: Request{Sources: []string{"a", "dir/b"}, Dest: "/x"},
		want: []string{"f x 600 0:0 B"},
	}, {
		name: "file, then directory to one name", src: src, req: Request{Sources: []string{"a", "dir"}, Dest: "/x"},
		err: `copy to "/x": cannot copy a directory over what is not one`,
	}, {
		name: "the last of the same name stays", src: append(src, "f other/a 600 0:0 A2"),
		req:  Request{Sources: []string{"a", "other/a"}, Dest: "/x/"},
		want: []string{"d x 755 0:0", "f x/a 600 0:0 A2"},
	}, {
		name: "file replaces file, link and FIFO", src: []string{"f s/a 644 0:0 1", "f s/b 644 0:0 2", "f s/c 644 0:0 3"},
		dst:  []string{"f a 4755 3:4 old", "l b /etc/passwd", "p c 600"},
		req:  Request{Sources: []string{"s"}, Dest: "/"},
		want: []string{"f a 644 0:0 1", "f b 644 0:0 2", "f c 644 0:0 3"},
	}, {
		name: "file over directory", src: src, dst: []string{"d x/a 755"}, req: Request{Sources: []string{"a"}, Dest: "/x/"},
		err: `copy to "/x/a": cannot replace a directory with a file`,
	}, {
		name: "link over directory", src: []string{"l s/a b"}, dst: []string{"d x/a 755"}, req: Request{Sources: []string{"s"}, Dest: "/x/"},
		err: `copy to "/x/a": cannot replace a directory with a file`,
	}, {
		name: "directory over file", src: src, dst: []string{"f x/sub 644"}, req: Request{Sources: []string{"dir"}, Dest: "/x/"},
		err: `copy to "/x/sub": cannot copy a directory over what is not one`,
	}, {
		name: "directory over a link to a directory", src: src, dst: []string{"d y 755", "l x/sub ../y"},
		req: Request{Sources: []string{"dir"}, Dest: "/x/"},
		err: `copy to "/x/sub": cannot copy a directory over what is not one`,
	}, {
		name: "file as directory", src: src, dst: []string{"f x 644"}, req: Request{Sources: []string{"a"}, Dest: "/x/"},
		err: `copy to "/x": not a directory`,
	}, {
		name: "below a file", src: src, dst: []string{"f x 644"}, req: Request{Sources: []string{"a"}, Dest: "/x/y"},
		err: "not a directory",
	}, {
		name: "merge", src: []string{"f s/d/new 644 0:0 N", "d s/d 711"},
		dst: []string{"d x 700 5:6", "d x/d 700 5:6", "f x/d/old 600 5:6 O"},
		req: Request{Sources: []string{"s"}, Dest: "/x"},
		// What was selected has the source's attributes, the top its own.
		want: []string{"d x 700 5:6", "d x/d 711 0:0", "f x/d/new 644 0:0 N", "f x/d/old 600 5:6 O"},
	}, {
		name: "group of a set-group-id directory", src: src, dst: []string{"d x 2755 0:9"},
		req: Request{Sources: []string{".", "a"}, Dest: "/x/new"},
		// Files and directories are 0:0; only what is made for the
		// destination inherits.
		want: []string{
			"d x 2755 0:9", "d x/new 2755 0:9", "f x/new/a 644 0:0 A", "d x/new/dir 711 0:0", "f x/new/dir/b 600 0:0 B",
			"d x/new/dir/empty 700 0:0", "d x/new/dir/sub 755 0:0", "f x/new/dir/sub/c 755 0:0 C",
		},
	}})
}

func TestCopyTimes(t *testing.T) {
	src := []string{"f d/a 644 0:0 A", "f d/e/b 644 0:0 B", "l d/l a", "t d/a 1", "t d/e 2", "t d/e/b 3", "t d/l 4", "t d 5"}
	runCases(t, []copyCase{{
		name: "directory", src: src, dst: []string{"d x 755", "f x/old 644"}, req: Request{Sources: []string{"d"}, Dest: "/x"}, isTime: true,
		want: []string{"d x 755 0:0 @5", "f x/a 644 0:0 A @1", "d x/e 755 0:0 @2", "f x/e/b 644 0:0 B @3", "l x/l a 0:0 @4", "f x/old 644 0:0 @3600"},
	}, {
		name: "made for a directory", src: src, req: Request{Sources: []string{"d/e"}, Dest: "/p/x"}, isTime: true,
		want: []string{"d p 755 0:0 @now", "d p/x 755 0:0 @2", "f p/x/b 644 0:0 B @3"},
	}})
}

func TestCopyEpoch(t *testing.T) {
	testutil.Require(t, "root")
	src, dst := t.TempDir(), t.TempDir()
	build(t, src, "f a 644 0:0 A", "t a 1")
	epoch := time.Unix(old+77, 0)
	req := Request{Sources: []string{"a"}, Inline: []Inline{{"i", []byte("in")}}, Dest: "/p/q/"}
	res, err := copyTo(t, open(t, src, Options{}), dst, req, CopyOptions{Epoch: &epoch})
	must(t, err)
	same(t, "made", res.Made, []string{"/p", "/p/q"})
	same(t, "result", list(t, dst, true), []string{"d p 755 0:0 @77", "d p/q 755 0:0 @77", "f p/q/a 644 0:0 A @1", "f p/q/i 644 0:0 in @77"})
}

func TestCopyAttributes(t *testing.T) {
	src := []string{
		"f s/suid 4755 1:2 S", "f s/plain 640 1:2 P", "d s/sticky 1777 1:2", "d s/sgid 2755 1:2", "l s/link plain 1:2", "p s/fifo 640 1:2",
	}
	runCases(t, []copyCase{{
		name: "owner is root", src: src, req: Request{Sources: []string{"s"}, Dest: "/"},
		want: []string{"p fifo 640 0:0", "l link plain 0:0", "f plain 640 0:0 P", "d sgid 2755 0:0", "d sticky 1777 0:0", "f suid 4755 0:0 S"},
	}, {
		name: "owner is kept", src: src, opts: Options{KeepOwner: true}, req: Request{Sources: []string{"s"}, Dest: "/"},
		want: []string{"p fifo 640 1:2", "l link plain 1:2", "f plain 640 1:2 P", "d sgid 2755 1:2", "d sticky 1777 1:2", "f suid 4755 1:2 S"},
	}, {
		name: "owner is set", src: src, opts: Options{KeepOwner: true}, req: Request{Sources: []string{"s"}, Dest: "/x", Owner: &Owner{UID: 3, GID: 4}},
		want: []string{
			"d x 755 3:4", "p x/fifo 640 3:4", "l x/link plain 3:4", "f x/plain 640 3:4 P",
			"d x/sgid 2755 3:4", "d x/sticky 1777 3:4", "f x/suid 4755 3:4 S",
		},
	}, {
		// An octal mode is everything's, directories and those made for
		// the destination included.
		name: "octal mode", src: src, req: Request{Sources: []string{"s"}, Dest: "/x", Mode: "640"},
		want: []string{
			"d x 640 0:0", "p x/fifo 640 0:0", "l x/link plain 0:0", "f x/plain 640 0:0 P",
			"d x/sgid 640 0:0", "d x/sticky 640 0:0", "f x/suid 640 0:0 S",
		},
	}, {
		name: "octal mode with special bits", src: src, req: Request{Sources: []string{"s/plain"}, Dest: "/x/", Mode: "06711"},
		want: []string{"d x 711 0:0", "f x/plain 6711 0:0 P"},
	}, {
		name: "symbolic mode", src: src, req: Request{Sources: []string{"s"}, Dest: "/x", Mode: "u=rwX,go=rX"},
		want: []string{
			"d x 755 0:0", "p x/fifo 644 0:0", "l x/link plain 0:0", "f x/plain 644 0:0 P",
			"d x/sgid 755 0:0", "d x/sticky 1755 0:0", "f x/suid 755 0:0 S",
		},
	}, {
		name: "bad mode", src: src, req: Request{Sources: []string{"s"}, Dest: "/x", Mode: "0888"},
		err: "invalid chmod parameter: '0888'. it should be octal string and between 0 and 07777",
	}, {
		name: "extended attributes", src: []string{
			"f s/a 755 0:0 A", "x s/a user.k=v", "f s/cap 755 0:0 C",
			`x s/cap "security.capability=\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"`,
			"x s/a trusted.t=host", "f s/b 644 0:0 B",
		}, opts: Options{KeepOwner: true}, req: Request{Sources: []string{"s"}, Dest: "/", Owner: &Owner{UID: 5, GID: 5}},
		want: []string{
			`f a 755 5:5 A user.k="v"`, "f b 644 5:5 B",
			`f cap 755 5:5 C security.capability="\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"`,
		},
	}, {
		name: "a user's directory has no attributes", src: []string{
			"f s/a 755 0:0 A", "x s/a user.k=v",
			`x s/a "security.capability=\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"`,
		}, req: Request{Sources: []string{"s"}, Dest: "/"},
		want: []string{"f a 755 0:0 A"},
	}, {
		name: "sockets become files, devices stay", src: []string{"s s/sock 666", "c s/null 600 1:3"}, req: Request{Sources: []string{"s"}, Dest: "/"},
		want: []string{"c null 600 1:3", "f sock 666 0:0"},
	}})
}

func TestCopyNames(t *testing.T) {
	long := strings.Repeat("n", 255)
	runCases(t, []copyCase{{
		name: "odd names",
		src: []string{
			`f "s/a b" 644 0:0 1`, `f "s/new\nline" 644 0:0 2`, "f s/" + long + " 644 0:0 3", "f s/ünï 644 0:0 4", `f "s/\xff" 644 0:0 5`,
			`f "s/-rf" 644 0:0 6`, `f "s/..." 644 0:0 7`, `f "s/a\\b" 644 0:0 8`, `f "s/\"" 644 0:0 9`,
		},
		req: Request{Sources: []string{"s"}, Dest: "/"},
		want: []string{
			`f "\"" 644 0:0 9`, "f -rf 644 0:0 6", "f ... 644 0:0 7", `f "a b" 644 0:0 1`, `f a\b 644 0:0 8`, `f "new\nline" 644 0:0 2`,
			"f " + long + " 644 0:0 3", "f ünï 644 0:0 4", "f \xff 644 0:0 5",
		},
	}, {
		name: "destination with spaces", src: []string{"f a 644 0:0 A"}, req: Request{Sources: []string{"a"}, Dest: "/x y/ü "},
		want: []string{`d "x y" 755 0:0`, `f "x y/ü " 644 0:0 A`},
	}})
}

func TestCopyHardLinks(t *testing.T) {
	src := []string{"f s/a 644 0:0 A", "h s/b s/a", "h s/sub/c s/a", "h other s/a", "f s/single 644 0:0 S", "h gone s/single"}
	runCases(t, []copyCase{{
		name: "within a directory", src: src, req: Request{Sources: []string{"s"}, Dest: "/"},
		want: []string{"f a 644 0:0 A", "h b a", "f single 644 0:0 S", "d sub 755 0:0", "h sub/c a"},
	}, {
		name: "not between sources", src: src, req: Request{Sources: []string{"s/a", "other", "s"}, Dest: "/x/"},
		want: []string{"d x 755 0:0", "f x/a 644 0:0 A", "h x/b x/a", "f x/other 644 0:0 A", "f x/single 644 0:0 S", "d x/sub 755 0:0", "h x/sub/c x/a"},
	}, {
		name: "replacing", src: src, dst: []string{"f b 600 0:0 old", "l sub/c nowhere"}, req: Request{Sources: []string{"s"}, Dest: "/"},
		want: []string{"f a 644 0:0 A", "h b a", "f single 644 0:0 S", "d sub 755 0:0", "h sub/c a"},
	}, {
		name: "the first is excluded", src: src, req: Request{Sources: []string{"s"}, Dest: "/", Exclude: []string{"a"}},
		want: []string{"f b 644 0:0 A", "f single 644 0:0 S", "d sub 755 0:0", "h sub/c b"},
	}})
}

// TestCopyLinksInDestination: links in the container lead where they would
// lead a process in it.
func TestCopyLinksInDestination(t *testing.T) {
	canary := t.TempDir()
	build(t, canary, "f secret 600 0:0 host", "d dir 755")
	before := list(t, canary, true)
	src := []string{"f a 644 0:0 A", "f d/b 644 0:0 B"}
	up := strings.Repeat("../", 40)
	runCases(t, []copyCase{{
		name: "absolute", src: src, dst: []string{"d real 755", "l x /real"}, req: Request{Sources: []string{"a"}, Dest: "/x/"},
		want: []string{"d real 755 0:0", "f real/a 644 0:0 A", "l x /real 0:0"},
	}, {
		name: "relative, directory", src: src, dst: []string{"d p/real 755", "l p/x real"}, req: Request{Sources: []string{"d"}, Dest: "/p/x"},
		want: []string{"d p 755 0:0", "d p/real 755 0:0", "f p/real/b 644 0:0 B", "l p/x real 0:0"},
	}, {
		name: "of a parent", src: src, dst: []string{"l x real", "d real 755"}, req: Request{Sources: []string{"a"}, Dest: "/x/y/z"},
		want: []string{"d real 755 0:0", "d real/y 755 0:0", "f real/y/z 644 0:0 A", "l x real 0:0"},
	}, {
		name: "file through a link to a file", src: src, dst: []string{"f real 600 0:0 old", "l x real"}, req: Request{Sources: []string{"a"}, Dest: "/x"},
		want: []string{"f real 644 0:0 A", "l x real 0:0"},
	}, {
		name: "a link in the directory is replaced", src: src, dst: []string{"f real 600 0:0 old", "l x/a ../real"}, req: Request{Sources: []string{"a"}, Dest: "/x"},
		want: []string{"f real 600 0:0 old", "d x 755 0:0", "f x/a 644 0:0 A"},
	}, {
		name: "dangling, file", src: src, dst: []string{"l x /made/here"}, req: Request{Sources: []string{"a"}, Dest: "/x"},
		want: []string{"d made 755 0:0", "f made/here 644 0:0 A", "l x /made/here 0:0"},
	}, {
		name: "dangling, directory", src: src, dst: []string{"l x made"}, req: Request{Sources: []string{"a"}, Dest: "/x/"},
		want: []string{"d made 755 0:0", "f made/a 644 0:0 A", "l x made 0:0"},
	}, {
		name: "looping", src: src, dst: []string{"l x y", "l y x"}, req: Request{Sources: []string{"a"}, Dest: "/x/"},
		err: `copy to "/x": too many symbolic links`,
	}, {
		name: "self", src: src, dst: []string{"l x x/y"}, req: Request{Sources: []string{"d"}, Dest: "/x"},
		err: "too many symbolic links",
	}, {
		name: "up and out", src: src, dst: []string{"l x " + up + canary}, req: Request{Sources: []string{"a"}, Dest: "/x/secret"},
		want: append(dirsOf(canary), "f "+canary[1:]+"/secret 644 0:0 A", "l x "+up+canary+" 0:0"),
	}, {
		name: "dots in the destination", src: src, req: Request{Sources: []string{"a"}, Dest: "/" + up + canary + "/secret"},
		want: append(dirsOf(canary), "f "+canary[1:]+"/secret 644 0:0 A"),
	}, {
		name: "to the host by way of the root", src: src, dst: []string{"l x /"}, req: Request{Sources: []string{"d"}, Dest: "/x" + canary + "/dir"},
		want: append(dirsOf(canary), "d "+canary[1:]+"/dir 755 0:0", "f "+canary[1:]+"/dir/b 644 0:0 B", "l x / 0:0"),
	}})
	same(t, "the host's files", list(t, canary, true), before)
}

// dirsOf lists the directories of an absolute path, made for a destination.
func dirsOf(p string) []string {
	var out []string
	for i, r := range p[1:] + "/" {
		if r == '/' {
			out = append(out, "d "+p[1:i+1]+" 755 0:0")
		}
	}
	return out
}

func TestCopyInline(t *testing.T) {
	runCases(t, []copyCase{{
		name: "to a directory", req: Request{Inline: []Inline{{"a", []byte("1")}, {"b", nil}}, Dest: "/x/"},
		want: []string{"d x 755 0:0", "f x/a 644 0:0 1", "f x/b 644 0:0"},
	}, {
		name: "to a name", req: Request{Inline: []Inline{{"a", []byte("1")}}, Dest: "/x", Mode: "755", Owner: &Owner{UID: 2, GID: 3}}, opts: Options{KeepOwner: true},
		want: []string{"f x 755 2:3 1"},
	}, {
		name: "after sources", src: []string{"f a 600 0:0 A"}, req: Request{Sources: []string{"a"}, Inline: []Inline{{"a", []byte("1")}}, Dest: "/x/"},
		want: []string{"d x 755 0:0", "f x/a 644 0:0 1"},
	}})
}

// TestCopyLarge copies files beyond the size that is copied in one piece, with
// and without holes.
func TestCopyLarge(t *testing.T) {
	testutil.Require(t, "root")
	src, dst := t.TempDir(), t.TempDir()
	sizes := map[string]int64{"exact": 256 << 10, "over": 256<<10 + 1, "large": 3<<20 + 5}
	for name, size := range sizes {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i >> 8)
		}
		must(t, os.WriteFile(filepath.Join(src, name), data, 0o644))
	}
	f, err := os.Create(filepath.Join(src, "holes"))
	must(t, err)
	must(t, f.Truncate(64<<20))
	_, err = f.WriteAt([]byte("middle"), 32<<20)
	must(t, err)
	must(t, f.Close())
	tree := open(t, src, Options{})
	want := key(t, tree, Request{Sources: []string{"."}, Dest: "/"})
	_, err = copyTo(t, tree, dst, Request{Sources: []string{"."}, Dest: "/"}, CopyOptions{})
	must(t, err)
	if got := key(t, open(t, dst, Options{}), Request{Sources: []string{"."}, Dest: "/"}); got != want {
		t.Error("copied files differ")
	}
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(dst, "holes"), &st))
	if st.Blocks > 2048 {
		t.Errorf("the holes were filled: %d blocks", st.Blocks)
	}
}

// TestCopyFlat copies a directory of more files than one worker takes at once.
func TestCopyFlat(t *testing.T) {
	testutil.Require(t, "root")
	src, dst := t.TempDir(), t.TempDir()
	for i := range 1500 {
		must(t, os.WriteFile(filepath.Join(src, fmt.Sprint(i)), []byte(fmt.Sprint(i)), 0o644))
	}
	tree := open(t, src, Options{})
	res, err := copyTo(t, tree, dst, Request{Sources: []string{"."}, Dest: "/"}, CopyOptions{Workers: 4})
	must(t, err)
	if res.Files != 1500 || tree.Stats().Hashed != 1500 {
		t.Errorf("copied %d, hashed %d of 1500 files", res.Files, tree.Stats().Hashed)
	}
	same(t, "copy", list(t, dst, false), list(t, src, false))
}

// TestCopyChanged: a file that was written to after its digest was computed is
// copied as it is, and the key is then that of what was copied.
func TestCopyChanged(t *testing.T) {
	testutil.Require(t, "root")
	src, dst := t.TempDir(), t.TempDir()
	build(t, src, "f d/a 644 0:0 first", "f d/b 644 0:0 same")
	req := Request{Sources: []string{"."}, Dest: "/"}
	tree := open(t, src, Options{})
	s, err := tree.Select(t.Context(), req)
	must(t, err)
	before, err := s.Digest(t.Context())
	must(t, err)
	must(t, os.WriteFile(filepath.Join(src, "d/a"), []byte("2nd.."), 0o644))
	setTime(t, filepath.Join(src, "d/a"), time.Unix(old+3600, 0)) // only the change time tells
	root, err := os.Open(dst)
	must(t, err)
	defer root.Close()
	res, err := s.Copy(t.Context(), root, CopyOptions{})
	must(t, err)
	if len(res.Changed) != 1 || res.Changed[0].Path != "d/a" {
		t.Fatalf("changed: %+v", res.Changed)
	}
	after, err := s.Digest(t.Context())
	must(t, err)
	if after == before {
		t.Error("the key is that of the old bytes")
	}
	same(t, "result", list(t, dst, false), []string{"d d 755 0:0", "f d/a 644 0:0 2nd..", "f d/b 644 0:0 same"})
	must(t, tree.Forget())
	if again := key(t, tree, req); again != after.Encoded() {
		t.Error("the key of what was copied is not that of the tree as it is now")
	}
}

// TestCopyGone: what a selection can't be copied from any more is an error
// that says so.
func TestCopyGone(t *testing.T) {
	testutil.Require(t, "root")
	for name, spoil := range map[string]func(dir string) error{
		"file removed": func(dir string) error { return os.Remove(dir + "/d/a") },
		"file replaced": func(dir string) error {
			return errors.Join(os.Remove(dir+"/d/a"), os.Symlink("/etc/passwd", dir+"/d/a"))
		},
		"file is a FIFO":  func(dir string) error { return errors.Join(os.Remove(dir+"/d/a"), unix.Mkfifo(dir+"/d/a", 0o600)) },
		"directory gone":  func(dir string) error { return os.RemoveAll(dir + "/d") },
		"directory moved": func(dir string) error { return errors.Join(os.Rename(dir+"/d", dir+"/e"), os.Symlink("e", dir+"/d")) },
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := t.TempDir(), t.TempDir()
			build(t, src, "f d/a 644 0:0 A")
			s, err := open(t, src, Options{}).Select(t.Context(), Request{Sources: []string{"."}, Dest: "/"})
			must(t, err)
			_, err = s.Digest(t.Context())
			must(t, err)
			must(t, spoil(src))
			root, err := os.Open(dst)
			must(t, err)
			defer root.Close()
			if _, err := s.Copy(t.Context(), root, CopyOptions{}); !errors.Is(err, ErrChanged) {
				t.Fatalf("error is %v", err)
			}
			if _, err := os.Stat(dst + "/d/a"); err == nil {
				if b, _ := os.ReadFile(dst + "/d/a"); strings.Contains(string(b), "root") {
					t.Error("a host file was copied")
				}
			}
		})
	}
}
