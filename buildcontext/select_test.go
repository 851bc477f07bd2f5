// SPDX-License-Identifier: Apache-2.0

package buildcontext

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"builder/internal/testutil"
)

func TestSelectSources(t *testing.T) {
	src := []string{
		"f a.txt 644 0:0 1", "f b.txt 644 0:0 2", "f c.go 644 0:0 3", "f d1/x.txt 644 0:0 4", "f d1/sub/y.txt 644 0:0 5", "f d2/x.txt 644 0:0 6",
		"f d2/sub/z.txt 644 0:0 7", "l link d1", "l flink d1/x.txt", "l abs /d2/sub", "l up ../../../a.txt", "l d1/back ..", `f "[x]" 644 0:0 8`,
	}
	x := func(lines ...string) []string { return append([]string{"d x 755 0:0"}, lines...) }
	get := func(sources ...string) Request { return Request{Sources: sources, Dest: "/x/"} }
	runCases(t, []copyCase{{
		name: "star", src: src, req: get("*.txt"), want: x("f x/a.txt 644 0:0 1", "f x/b.txt 644 0:0 2"),
	}, {
		// Directories give their contents, merged.
		name: "star for directories", src: src, req: get("d?"),
		want: x("l x/back .. 0:0", "d x/sub 755 0:0", "f x/sub/y.txt 644 0:0 5", "f x/sub/z.txt 644 0:0 7", "f x/x.txt 644 0:0 6"),
	}, {
		name: "star in the middle", src: src, req: get("d*/x.txt"), want: x("f x/x.txt 644 0:0 6"),
	}, {
		name: "class", src: src, req: get("[ac].*"), want: x("f x/a.txt 644 0:0 1", "f x/c.go 644 0:0 3"),
	}, {
		name: "negated class", src: src, req: get("[^a-b].*"), want: x("f x/c.go 644 0:0 3"),
	}, {
		name: "escaped by a class", src: src, req: get("[[]x]"), want: x("f x/[x] 644 0:0 8"),
	}, {
		name: "escaped in a pattern", src: src, req: get(`\[*`), want: x("f x/[x] 644 0:0 8"),
	}, {
		// Without --parents "**" is just "*" twice.
		name: "two stars", src: src, req: get("**/y.txt"), want: nil,
	}, {
		name: "nothing matches", src: src, req: get("*.missing"), want: nil,
	}, {
		name: "nothing matches, then something", src: src, req: get("*.missing", "a.txt"), want: x("f x/a.txt 644 0:0 1"),
	}, {
		name: "bad pattern", src: src, req: get("a[*"), err: `source "/a[*": syntax error in pattern`,
	}, {
		name: "wildcards below what is missing", src: src, req: get("missing/*"), err: `"/missing": not found`,
	}, {
		name: "wildcards below a file", src: src, req: get("a.txt/*"), want: nil,
	}, {
		name: "missing", src: src, req: get("a.txt", "nope/../missing"), err: `"/missing": not found`,
	}, {
		name: "below a file", src: src, req: get("a.txt/x"), err: `"/a.txt/x": not found`,
	}, {
		name: "a file with a slash", src: src, req: get("a.txt/"), want: x("f x/a.txt 644 0:0 1"),
	}, {
		name: "absolute is the same", src: src, req: get("/d2/sub/"), want: x("f x/z.txt 644 0:0 7"),
	}, {
		name: "dots don't leave the tree", src: src, req: get("../../d2/./sub/../../a.txt"), want: x("f x/a.txt 644 0:0 1"),
	}, {
		name: "a link to a directory is followed", src: src, req: get("link"),
		want: x("l x/back .. 0:0", "d x/sub 755 0:0", "f x/sub/y.txt 644 0:0 5", "f x/x.txt 644 0:0 4"),
	}, {
		name: "a link to a file is followed and keeps its name", src: src, req: get("flink"), want: x("f x/flink 644 0:0 4"),
	}, {
		name: "an absolute link stays in the tree", src: src, req: get("abs"), want: x("f x/z.txt 644 0:0 7"),
	}, {
		name: "a link up stays in the tree", src: src, req: get("up"), want: x("f x/up 644 0:0 1"),
	}, {
		name: "a link on the way", src: src, req: get("link/sub"), want: x("f x/y.txt 644 0:0 5"),
	}, {
		name: "a link on the way to a pattern", src: src, req: get("link/s*"), want: x("f x/y.txt 644 0:0 5"),
	}, {
		name: "a pattern doesn't follow links", src: src, req: get("l*k/x.txt"), want: nil,
	}, {
		name: "a link that a pattern matched is followed", src: src, req: get("ab*"), want: x("f x/z.txt 644 0:0 7"),
	}, {
		name: "back by a link", src: src, req: get("d1/back/d2/sub"), want: x("f x/z.txt 644 0:0 7"),
	}, {
		name: "looping links", src: []string{"l a b", "l b a"}, req: get("a"), err: `"/a": too many symbolic links`,
	}, {
		name: "dangling link", src: []string{"l a /missing"}, req: get("a"), err: `"/a": not found`,
	}, {
		name: "relative destination", src: src, req: Request{Sources: []string{"."}, Dest: "x"}, err: `destination "x" is not absolute`,
	}})
}

func TestSelectExclude(t *testing.T) {
	src := []string{"f s/a.txt 644 0:0 1", "f s/b.go 644 0:0 2", "f s/d/a.txt 644 0:0 3", "f s/d/e/f.go 644 0:0 4", "d s/empty 755"}
	runCases(t, []copyCase{{
		name: "name", src: src, req: Request{Sources: []string{"s"}, Dest: "/", Exclude: []string{"a.txt"}},
		want: []string{"f b.go 644 0:0 2", "d d 755 0:0", "f d/a.txt 644 0:0 3", "d d/e 755 0:0", "f d/e/f.go 644 0:0 4", "d empty 755 0:0"},
	}, {
		name: "anywhere", src: src, req: Request{Sources: []string{"s"}, Dest: "/", Exclude: []string{"**/*.txt", "empty"}},
		want: []string{"f b.go 644 0:0 2", "d d 755 0:0", "d d/e 755 0:0", "f d/e/f.go 644 0:0 4"},
	}, {
		name: "directory", src: src, req: Request{Sources: []string{"s"}, Dest: "/", Exclude: []string{"d"}},
		want: []string{"f a.txt 644 0:0 1", "f b.go 644 0:0 2", "d empty 755 0:0"},
	}, {
		name: "directory with an exception", src: src, req: Request{Sources: []string{"s"}, Dest: "/", Exclude: []string{"d", "!d/e"}},
		want: []string{"f a.txt 644 0:0 1", "f b.go 644 0:0 2", "d d 755 0:0", "d d/e 755 0:0", "f d/e/f.go 644 0:0 4", "d empty 755 0:0"},
	}, {
		name: "relative to the source", src: src, req: Request{Sources: []string{"."}, Dest: "/", Exclude: []string{"a.txt", "s/d", "s/empty"}},
		want: []string{"d s 755 0:0", "f s/a.txt 644 0:0 1", "f s/b.go 644 0:0 2"},
	}, {
		name: "not what the source names itself", src: src, req: Request{Sources: []string{"s/*.txt"}, Dest: "/x/", Exclude: []string{"*.txt", "**"}},
		want: []string{"d x 755 0:0", "f x/a.txt 644 0:0 1"},
	}, {
		name: "all", src: src, req: Request{Sources: []string{"s"}, Dest: "/x", Exclude: []string{"*"}},
		want: []string{"d x 755 0:0"},
	}, {
		name: "bad pattern", src: src, req: Request{Sources: []string{"s"}, Dest: "/x", Exclude: []string{"["}},
		err: "syntax error in pattern",
	}})
}

func TestSelectParents(t *testing.T) {
	src := []string{
		"d a 711 3:3", "d a/b 700 3:3", "d a/b/c 2755 3:3", "f a/b/c/x 644 3:3 1", "f a/b/c/y 644 3:3 2", "f a/b2/c/x 644 3:3 3",
		"d a/other 755", "l a/link b", "f top 644 0:0 T",
	}
	get := func(sources ...string) Request { return Request{Sources: sources, Dest: "/o/", Parents: true} }
	o := func(lines ...string) []string { return append([]string{"d o 755 0:0"}, lines...) }
	runCases(t, []copyCase{{
		name: "file", src: src, req: get("a/b/c/x"),
		// Directories on the way have the source's attributes.
		want: o("d o/a 711 0:0", "d o/a/b 700 0:0", "d o/a/b/c 2755 0:0", "f o/a/b/c/x 644 0:0 1"),
	}, {
		name: "owner and mode are of all that is made", src: src,
		req:  Request{Sources: []string{"a/b/c/x"}, Dest: "/o/", Parents: true, Owner: &Owner{UID: 1, GID: 2}, Mode: "u+w,g-rx"},
		want: []string{"d o 755 1:2", "d o/a 701 1:2", "d o/a/b 700 1:2", "d o/a/b/c 2705 1:2", "f o/a/b/c/x 604 1:2 1"},
	}, {
		name: "pivot", src: src, req: get("a/b/./c/y"), want: o("d o/c 2755 0:0", "f o/c/y 644 0:0 2"),
	}, {
		name: "first pivot counts", src: src, req: get("a/./b/./c"),
		want: o("d o/b 700 0:0", "d o/b/c 2755 0:0", "f o/b/c/x 644 0:0 1", "f o/b/c/y 644 0:0 2"),
	}, {
		name: "leading dot is no pivot", src: src, req: get("./a/b/c/x"),
		want: o("d o/a 711 0:0", "d o/a/b 700 0:0", "d o/a/b/c 2755 0:0", "f o/a/b/c/x 644 0:0 1"),
	}, {
		name: "any depth", src: src, req: get("a/**/x"),
		want: o("d o/a 711 0:0", "d o/a/b 700 0:0", "d o/a/b/c 2755 0:0", "f o/a/b/c/x 644 0:0 1", "d o/a/b2 755 0:0", "d o/a/b2/c 755 0:0", "f o/a/b2/c/x 644 0:0 3"),
	}, {
		name: "wildcards before the pivot", src: src, req: get("a/b*/./c/x"), want: o("d o/c 755 0:0", "f o/c/x 644 0:0 3"),
	}, {
		name: "links are not followed after the pivot", src: src, req: get("a/link/c"), err: `"/a/link/c": not found`,
	}, {
		name: "links are followed before the pivot", src: src, req: get("a/link/./c/y"), want: o("d o/c 2755 0:0", "f o/c/y 644 0:0 2"),
	}, {
		name: "missing", src: src, req: get("a/b/none"), err: `"/a/b/none": not found`,
	}, {
		name: "nothing matches", src: src, req: get("a/n*"), want: o(),
	}, {
		name: "excluded", src: src, req: Request{Sources: []string{"a"}, Dest: "/o/", Parents: true, Exclude: []string{"**/x", "a/b2", "a/link"}},
		want: o("d o/a 711 0:0", "d o/a/b 700 0:0", "d o/a/b/c 2755 0:0", "f o/a/b/c/y 644 0:0 2", "d o/a/other 755 0:0"),
	}, {
		name: "all excluded", src: src, req: Request{Sources: []string{"top"}, Dest: "/o/", Parents: true, Exclude: []string{"top"}}, err: `"/top": not found`,
	}, {
		// A directory on the way that is there gets the mode, and
		// neither owner nor --chmod (copyDirectoryOnly).
		name: "directory on the way is there", src: src, dst: []string{"d o/a 777 9:9", "d o/a/b 777 9:9"},
		req:  Request{Sources: []string{"a/b/c"}, Dest: "/o/", Parents: true, Owner: &Owner{UID: 1, GID: 1}, Mode: "a+x"},
		want: o("d o/a 711 9:9", "d o/a/b 700 9:9", "d o/a/b/c 2755 1:1", "f o/a/b/c/x 755 1:1 1", "f o/a/b/c/y 755 1:1 2"),
	}})
}

func TestNotFound(t *testing.T) {
	dir := t.TempDir()
	build(t, dir, "f secret/a.txt 644", "f b.txt 644", "l link secret/a.txt")
	tree := open(t, dir, Options{Ignore: []string{"secret", "*.log", "!x.log"}, IgnoreFile: "web.dockerignore"})
	for source, want := range map[string]string{
		"missing":      `"/missing": not found`,
		"missing.log":  `"/missing.log": not found`,
		"secret":       `"/secret": not found: it is excluded by "secret" in web.dockerignore`,
		"secret/a.txt": `"/secret/a.txt": not found: it is excluded by "secret" in web.dockerignore`,
		"secret/none":  `"/secret/none": not found`,
		"link":         `"/link": not found`,
	} {
		_, err := tree.Select(t.Context(), Request{Sources: []string{source}, Dest: "/"})
		var nf *NotFoundError
		if !errors.As(err, &nf) || !errors.Is(err, fs.ErrNotExist) || err.Error() != want {
			t.Errorf("%s: %v, want %s", source, err, want)
		}
	}
}

func TestOpen(t *testing.T) {
	outside := t.TempDir()
	build(t, outside, "f Dockerfile 644 0:0 host")
	dir := t.TempDir()
	build(t, dir, "f Dockerfile 644 0:0 mine", "l link Dockerfile", "l out "+outside+"/Dockerfile", "d dir 755", "p fifo 600", "l up ../../../../../etc/passwd")
	tree := open(t, dir, Options{Ignore: []string{"*"}})
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	defer unix.Close(watch)
	_, err = unix.InotifyAddWatch(watch, dir+"/fifo", unix.IN_OPEN)
	must(t, err)
	for name, want := range map[string]string{"Dockerfile": "mine", "link": "mine", "/dir/../Dockerfile": "mine", "out": "", "dir": "", "fifo": "", "up": "", "none": ""} {
		f, err := tree.Open(name)
		if err != nil {
			if want != "" {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		data, err := io.ReadAll(f)
		f.Close()
		if err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	if n, err := unix.Read(watch, make([]byte, 4096)); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("the FIFO was opened: %d bytes of events, %v", n, err)
	}
	if _, err := Open(filepath.Join(dir, "Dockerfile"), Options{}); err == nil {
		t.Error("a file was opened as a tree")
	}
	if _, err := Open(dir, Options{Ignore: []string{"["}}); err == nil {
		t.Error("a bad pattern was accepted")
	}
}

func TestOpenFile(t *testing.T) {
	dir := t.TempDir()
	build(t, dir, "f a 644 0:0 A")
	f, err := os.Open(dir)
	must(t, err)
	tree, err := OpenFile(f, Options{})
	must(t, err)
	must(t, f.Close())
	key(t, tree, Request{Sources: []string{"a"}, Dest: "/"})
	must(t, tree.Close())
	must(t, tree.Close())
}

// TestDigest: what counts for the key and what doesn't.
func TestDigest(t *testing.T) {
	testutil.Require(t, "root")
	base := []string{"f d/a 644 0:0 A", "f d/b 755 0:0 A", "l d/l a", "d d/e 755", "f d/h1 644 0:0 H", "h d/h2 d/h1", "p d/p 600"}
	sum := func(opts Options, req Request, lines ...string) string {
		t.Helper()
		dir := t.TempDir()
		build(t, dir, lines...)
		return key(t, open(t, dir, opts), req)
	}
	req := Request{Sources: []string{"d"}, Dest: "/x"}
	with := func(change func(*Request)) Request {
		r := req
		change(&r)
		return r
	}
	edit := func(from, to string) []string {
		out := slices.Clone(base)
		i := slices.Index(out, from)
		out[i] = to
		return out
	}
	want := sum(Options{}, req, base...)
	for name, got := range map[string]string{
		"the same":                   sum(Options{}, req, base...),
		"times":                      sum(Options{}, req, append(base, "t d/a 5", "t d/e 6", "t d 7")...),
		"the source's owner":         sum(Options{}, req, edit("f d/a 644 0:0 A", "f d/a 644 4:5 A")...),
		"what is beside the source":  sum(Options{}, req, append(base, "f other 644")...),
		"a further name beside it":   sum(Options{}, req, append(base, "h other d/a")...),
		"the directory's own mode":   sum(Options{}, req, append(base, "d d 700")...),
		"the directory's own name":   sum(Options{}, with(func(r *Request) { r.Sources = []string{"l2"} }), append(base, "l l2 d")...),
		"attributes of a user's own": sum(Options{}, req, append(base, "x d/a user.k=v")...),
		"owner that it has anyway":   sum(Options{KeepOwner: true}, req, base...),
	} {
		if got != want {
			t.Errorf("%s is in the key", name)
		}
	}
	seen := map[string]string{want: "nothing"}
	for name, got := range map[string]string{
		"bytes":               sum(Options{}, req, edit("f d/a 644 0:0 A", "f d/a 644 0:0 B")...),
		"mode":                sum(Options{}, req, edit("f d/a 644 0:0 A", "f d/a 600 0:0 A")...),
		"name":                sum(Options{}, req, edit("f d/a 644 0:0 A", "f d/A 644 0:0 A")...),
		"link target":         sum(Options{}, req, edit("l d/l a", "l d/l b")...),
		"type":                sum(Options{}, req, edit("p d/p 600", "f d/p 600")...),
		"directory's mode":    sum(Options{}, req, edit("d d/e 755", "d d/e 700")...),
		"file in a directory": sum(Options{}, req, append(base, "f d/e/a 644")...),
		"missing file":        sum(Options{}, req, base[1:]...),
		"broken hard link":    sum(Options{}, req, edit("h d/h2 d/h1", "f d/h2 644 0:0 H")...),
		"another hard link":   sum(Options{}, req, append(base, "h d/h3 d/h1")...),
		"owner kept":          sum(Options{KeepOwner: true}, req, edit("f d/a 644 0:0 A", "f d/a 644 4:5 A")...),
		"attribute kept":      sum(Options{KeepOwner: true}, req, append(base, "x d/a user.k=v")...),
		"owner set":           sum(Options{}, with(func(r *Request) { r.Owner = &Owner{UID: 4} }), base...),
		"group set":           sum(Options{}, with(func(r *Request) { r.Owner = &Owner{GID: 4} }), base...),
		"owner set to root":   sum(Options{}, with(func(r *Request) { r.Owner = &Owner{} }), base...),
		"mode set":            sum(Options{}, with(func(r *Request) { r.Mode = "a+x" }), base...),
		"destination":         sum(Options{}, with(func(r *Request) { r.Dest = "/x/" }), base...),
		"unpacking":           sum(Options{}, with(func(r *Request) { r.Unpack = true }), base...),
		"one file of it":      sum(Options{}, with(func(r *Request) { r.Sources = []string{"d/a"} }), base...),
		"its other name":      sum(Options{}, with(func(r *Request) { r.Sources = []string{"d/l"} }), base...),
		"twice":               sum(Options{}, with(func(r *Request) { r.Sources = []string{"d", "d"} }), base...),
		"parents":             sum(Options{}, with(func(r *Request) { r.Parents = true }), base...),
		"exclusion":           sum(Options{}, with(func(r *Request) { r.Exclude = []string{"h*"} }), base...),
		"inline":              sum(Options{}, with(func(r *Request) { r.Inline = []Inline{{"a", nil}} }), base...),
		"inline bytes":        sum(Options{}, with(func(r *Request) { r.Inline = []Inline{{"a", []byte("b")}} }), base...),
		"inline name":         sum(Options{}, with(func(r *Request) { r.Inline = []Inline{{"ab", nil}} }), base...),
	} {
		if other, ok := seen[got]; ok {
			t.Errorf("%s has the key of %s", name, other)
		}
		seen[got] = name
	}
}

func TestEntries(t *testing.T) {
	dir := t.TempDir()
	build(t, dir, "f d/a 644 0:0 A", "f d/e/b 644 0:0 B", "f c 644 0:0 C")
	tree := open(t, dir, Options{})
	entries := func() (names []string, sums map[string][32]byte) {
		s, err := tree.Select(t.Context(), Request{Sources: []string{"d", "c"}, Inline: []Inline{{"i", nil}}, Dest: "/x/"})
		must(t, err)
		sums = map[string][32]byte{}
		must(t, s.Entries(t.Context(), func(p string, sum [32]byte) bool {
			names = append(names, p)
			sums[p] = sum
			return true
		}))
		return names, sums
	}
	names, before := entries()
	same(t, "names", names, []string{"a", "e", "e/b", "c", "i"})
	must(t, os.WriteFile(filepath.Join(dir, "d/e/b"), []byte("new"), 0o600))
	must(t, tree.Forget())
	_, after := entries()
	for p := range before {
		if changed := before[p] != after[p]; changed != (p == "e/b") {
			t.Errorf("%s changed: %v", p, changed)
		}
	}
	s, err := tree.Select(t.Context(), everything)
	must(t, err)
	n := 0
	must(t, s.Entries(t.Context(), func(string, [32]byte) bool { n++; return n < 2 }))
	if n != 2 {
		t.Errorf("%d entries after it was enough", n)
	}
}

// FuzzSelect selects what any request names from a small tree and copies it:
// no panic, nothing written beside the root, and the same digest again.
func FuzzSelect(f *testing.F) {
	testutil.Require(f, "root")
	for _, s := range []string{"a", "d/*", "../x", "**/f", "d/./e", "[", `\`, "l", "*", "d/e/../..", "\xff", "loop"} {
		for _, p := range patternLists[:8] {
			f.Add(s, "/x/"+s, p, p, true)
			f.Add(s, "/"+p, "", p, false)
		}
	}
	base := f.TempDir()
	src := filepath.Join(base, "src")
	build(f, src, "f a 644", "f d/e/f 644 0:0 F", "f d/g.txt 600", "l l d/e", "l loop loop", "l out ../../canary", "l d/abs /d")
	build(f, base, "f canary/secret 600 0:0 host")
	canary := list(f, filepath.Join(base, "canary"), true)
	f.Fuzz(func(t *testing.T, source, dest, exclude, ignore string, parents bool) {
		req := Request{Sources: strings.Split(source, "\n"), Dest: dest, Exclude: strings.Split(exclude, "\n"), Parents: parents}
		for _, s := range append([]string{dest}, req.Sources...) {
			if strings.Contains(s, "\x00") {
				return // the parser refuses it
			}
		}
		tree, err := Open(src, Options{Ignore: strings.Split(ignore, "\n")})
		if err != nil {
			return
		}
		defer tree.Close()
		root := filepath.Join(t.TempDir(), "root")
		build(t, root, "d x 755", "l link ../../../canary", "l d "+filepath.Join(base, "canary"))
		_, err = copyTo(t, tree, root, req, CopyOptions{})
		same(t, "canary", list(t, filepath.Join(base, "canary"), true), canary)
		if err != nil {
			return
		}
		before := key(t, tree, req)
		must(t, tree.Forget())
		if after := key(t, tree, req); after != before {
			t.Errorf("digest %s, then %s", before, after)
		}
	})
}
