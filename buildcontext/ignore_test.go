// SPDX-License-Identifier: Apache-2.0

package buildcontext

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"builder/internal/testutil"

	"github.com/moby/patternmatcher"
)

var patternLists = []string{
	"a", "a/b", "*", "**", "*.txt", "**/*.txt", "a/**", "a**", "**/a", "**a", "a/*", "a/*.o", "a/**/b", "**/a/**", "?", "a?c",
	"[ab]", "[^a]*", "[a-c]/x", "a.b", "a+b", "(a)", "a|b", "a$", "^a", "a^b*", "{a}", `a\*b`, `\d`, `a\`, `*\`, "[", "[]", "a[", "!", "! a",
	"***", "**/**", "a//b", "./a", "a/", "/a", "../a", "a/../b", "é*", "**/é", "*é", "a\xffb", "**/*.é", "*/*/*", "a/b/c/**/*.go", "**/*", "*/b", "**/b*",
	"a\n!a/b", "*\n!a", "*\n!a/b/c", "**\n!**/*.txt", "a\n!a/**\na/b", "a/*\n!a/b", "*\n!b\nb/c", "!a\na", "a\n!b\n!a/c", "**/a\n!a", "*\n!*/b", "a/b\n!a\n!a/b/c",
}

var pathLists = []string{
	"a", "b", "a/b", "a/b/c", "a.txt", "a/b.txt", "x/a", "x/a/y", "abc", "a*b", "a.b", "axb", "a+b", "a/b/c/d/e.go", "é", "x/é", "dé.é", "ab\nc",
	"x\ny/b.txt", "x\ny", "a\xffb", "\xff", "0", "5", "^a", "a^b", "(a)", "a$", "a|b", "b/c", "c/b", "bb", ".", "..a", `a\`, "a/b/x.txt", "[", "a/b/c/x.go",
}

func FuzzMatcher(f *testing.F) {
	for _, patterns := range patternLists {
		f.Add(patterns, strings.Join(pathLists, "\x00"))
	}
	f.Fuzz(compareMatchers)
}

// compareMatchers checks a matcher against moby/patternmatcher on a chain of
// directories, as a walk asks, and on whole paths.
func compareMatchers(t *testing.T, patterns, paths string) {
	if strings.ContainsAny(patterns, "\x00\ufeff") || !utf8.ValidString(patterns) {
		return // its scanner drops a byte order mark and reports the others to stderr
	}
	lines := strings.Split(patterns, "\n")
	want, wantErr := patternmatcher.New(lines)
	got, err := newMatcher(lines)
	if wantErr != nil {
		if err == nil {
			t.Errorf("patterns %q are accepted", lines)
		}
		return
	}
	if err != nil {
		// Bad expressions are found at once and not at the first match.
		if _, err := want.MatchesOrParentMatches("\x01"); err == nil && !want.Exclusions() {
			t.Errorf("patterns %q: %v", lines, err)
		}
		return
	}
	for p := range strings.SplitSeq(paths, "\x00") {
		if p == "" || filepath.Clean(p) != p || p[0] == '/' {
			continue
		}
		compareChain(t, lines, want, got, p)
	}
}

func compareChain(t *testing.T, lines []string, want *patternmatcher.PatternMatcher, got *matcher, p string) {
	t.Helper()
	var wantInfo patternmatcher.MatchInfo
	var info matchInfo
	pruned := ""
	for i := range len(p) + 1 {
		if i < len(p) && p[i] != '/' {
			continue
		}
		part := p[:i]
		w, wi, err := want.MatchesUsingParentResults(part, wantInfo)
		if err != nil {
			return
		}
		self := got.info()
		g, _ := got.match(part, info, self)
		// What is below an ignored directory is not asked about unless a
		// pattern may except it.
		if pruned != "" {
			if !w {
				t.Errorf("patterns %q: %q is not matched, but its directory %q was passed over", lines, part, pruned)
			}
			continue
		}
		if g != w {
			t.Errorf("patterns %q: match of %q is %v, want %v", lines, part, g, w)
			return
		}
		if g && !(got.negated && got.mayRescue(part)) {
			pruned = part
		}
		wantInfo, info = wi, self
	}
	w, err := want.MatchesOrParentMatches(p)
	if g, _ := got.matchPath(p); err == nil && g != w && !got.negated {
		t.Errorf("patterns %q: match of the path %q is %v, want %v", lines, p, g, w)
	}
}

func TestMatcher(t *testing.T) {
	for _, patterns := range patternLists {
		if utf8.ValidString(patterns) {
			compareMatchers(t, patterns, strings.Join(pathLists, "\x00"))
		}
	}
}

// TestMatcherKinds: the common patterns need no regular expression.
func TestMatcherKinds(t *testing.T) {
	for text, want := range map[string]patternKind{
		"node_modules": exact, "a/b": exact, "dist/**": prefix, "**/node_modules": suffix, "**": suffix,
		"*.log": oneElem, "build/*": oneElem, "build/*.o": oneElem, "**/*.pyc": anyDir, "a/**/b": viaRegexp, "[ab]": viaRegexp, "*/a": viaRegexp,
	} {
		m, err := newMatcher([]string{text})
		must(t, err)
		if m.patterns[0].kind != want {
			t.Errorf("%q is of kind %d, want %d", text, m.patterns[0].kind, want)
		}
	}
}

func TestMatcherAllocates(t *testing.T) {
	m, err := newMatcher([]string{".git", "**/node_modules", "**/*.pyc", "dist/**", "*.log", "docs/[a-c]*"})
	must(t, err)
	if n := testing.AllocsPerRun(100, func() { m.match("src/app/main.go", nil, nil) }); n != 0 {
		t.Errorf("%v allocations for a path", n)
	}
}

func TestReadIgnore(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "x.dockerignore")
	missing := filepath.Join(dir, ".dockerignore")
	read := func() IgnoreFile {
		t.Helper()
		got, err := ReadIgnore(os.Open, missing, name)
		must(t, err)
		return got
	}
	same(t, "without a file", read(), IgnoreFile{})
	must(t, os.WriteFile(name, []byte("\xef\xbb\xbf# comment\n\n  /a/ \n!b\n ! /c\n#d\n \t\n!\nlast"), 0o600))
	same(t, "all", read(), IgnoreFile{Name: "x.dockerignore", Patterns: []string{"a", "!b", "!c", "!", "last"}, Lines: []int{3, 4, 5, 8, 9}})
	must(t, os.WriteFile(missing, nil, 0o600))
	same(t, "an empty one before", read(), IgnoreFile{Name: ".dockerignore"})
	if _, err := ReadIgnore(os.Open, filepath.Join(name, "x")); err == nil {
		t.Error("no error for a directory that is none")
	}
}

func TestWhy(t *testing.T) {
	dir := t.TempDir()
	file := IgnoreFile{Name: ".dockerignore", Patterns: []string{"*", "!src", "src/**/*.o", "!src/keep.o"}, Lines: []int{1, 3, 4, 9}}
	var opts Options
	opts.SetIgnore(file)
	tree := open(t, dir, opts)
	for p, want := range map[string]*Rule{
		"README":       {Pattern: "*", Line: 1, Path: "README", Excludes: true},
		"/doc/a/b/":    {Pattern: "*", Line: 1, Path: "doc", Excludes: true},
		"src":          {Pattern: "!src", Line: 3, Path: "src"},
		"src/a.c":      {Pattern: "!src", Line: 3, Path: "src"},
		"src/lib/x.o":  {Pattern: "src/**/*.o", Line: 4, Path: "src/lib/x.o", Excludes: true},
		"src/keep.o":   {Pattern: "!src/keep.o", Line: 9, Path: "src/keep.o"},
		"src/../src/x": {Pattern: "!src", Line: 3, Path: "src"},
	} {
		want.File = ".dockerignore"
		same(t, p, tree.Why(p), want)
	}
	if r := open(t, dir, Options{Ignore: []string{"a"}}).Why("b"); r != nil {
		t.Errorf("b: %+v", r)
	}
	// What Why says is what Select does.
	build(t, dir, "f README 644", "f src/a.c 644", "f src/lib/x.o 644", "f src/keep.o 644", "d src/empty 755")
	must(t, tree.Forget())
	var got []string
	must(t, tree.List(t.Context(), func(f File) error {
		got = append(got, f.Path)
		return nil
	}))
	same(t, "list", got, []string{"src", "src/a.c", "src/empty", "src/keep.o", "src/lib"})
}

// TestIgnore selects everything of trees with ignored files. What was expected
// was checked with BuildKit's filter (fsutil.NewFilterFS).
func TestIgnore(t *testing.T) {
	testutil.Require(t, "root")
	src := []string{
		"f a.txt 644", "f b.md 644", "f keep/x.txt 644", "f keep/y.go 644", "f node_modules/m/index.js 644",
		"f sub/node_modules/m/index.js 644", "f sub/z.txt 644", "d empty 755", "l link a.txt",
	}
	for name, c := range map[string]struct {
		ignore string
		want   string
	}{
		"nothing":         {"", "a.txt b.md empty keep keep/x.txt keep/y.go link node_modules node_modules/m node_modules/m/index.js sub sub/node_modules sub/node_modules/m sub/node_modules/m/index.js sub/z.txt"},
		"directory":       {"node_modules", "a.txt b.md empty keep keep/x.txt keep/y.go link sub sub/node_modules sub/node_modules/m sub/node_modules/m/index.js sub/z.txt"},
		"anywhere":        {"**/node_modules", "a.txt b.md empty keep keep/x.txt keep/y.go link sub sub/z.txt"},
		"extension":       {"*.txt\n**/*.js", "b.md empty keep keep/x.txt keep/y.go link node_modules node_modules/m sub sub/node_modules sub/node_modules/m sub/z.txt"},
		"allow list":      {"*\n!keep", "keep keep/x.txt keep/y.go"},
		"deep exception":  {"*\n!keep/y.go", "keep keep/y.go"},
		"any exception":   {"**\n!**/*.txt", "a.txt keep keep/x.txt sub sub/z.txt"},
		"order":           {"*\n!keep\nkeep/y.go", "keep keep/x.txt"},
		"nothing is left": {"*", ""},
		"useless":         {"sub\n!sub/missing", "a.txt b.md empty keep keep/x.txt keep/y.go link node_modules node_modules/m node_modules/m/index.js"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, dst, index := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "index")
			build(t, dir, src...)
			age(t)
			var names []string
			for range 3 { // with and without an index
				tree := open(t, dir, Options{Ignore: strings.Split(c.ignore, "\n"), Index: index})
				_, err := copyTo(t, tree, dst, Request{Sources: []string{"."}, Dest: "/"}, CopyOptions{})
				must(t, err)
				must(t, tree.Close())
				names = nil
				for _, line := range list(t, dst, false) {
					names = append(names, strings.Fields(line)[1])
				}
				if got := strings.Join(names, " "); got != c.want {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
			}
		})
	}
}

// TestIgnoreWalksLittle: what is ignored is not walked, with and without
// exceptions that can't be in it.
func TestIgnoreWalksLittle(t *testing.T) {
	dir := t.TempDir()
	build(t, dir, "f keep/a 644", "f junk/b/c 644", "f junk/d 644")
	for _, ignore := range [][]string{{"junk"}, {"*", "!keep"}, {"**/junk", "!keep/x*"}} {
		tree := open(t, dir, Options{Ignore: ignore})
		key(t, tree, Request{Sources: []string{"."}, Dest: "/"})
		if s := tree.Stats(); s.Statted != 2 || s.Listed != 2 || s.Hashed != 1 {
			t.Errorf("with %q: %+v", ignore, s)
		}
	}
}
