// SPDX-License-Identifier: Apache-2.0

package dockerfile

import (
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
)

func TestParseGitRef(t *testing.T) {
	yes, no := true, false
	const commit = "0123456789012345678901234567890123456789"
	for in, want := range map[string]*GitRef{
		"https://example.com/a.git":                       {Remote: "https://example.com/a.git"},
		"https://example.com/a.git#main":                  {Remote: "https://example.com/a.git", Ref: "main"},
		"https://example.com/a.git#main:sub/dir":          {Remote: "https://example.com/a.git", Ref: "main", Subdir: "sub/dir"},
		"https://example.com/a.git#:../../sub/":           {Remote: "https://example.com/a.git", Subdir: "sub"},
		"http://example.com/a.git?tag=v1&subdir=/x/../y":  {Remote: "http://example.com/a.git", Ref: "refs/tags/v1", Subdir: "y"},
		"https://example.com/a.git?branch=main":           {Remote: "https://example.com/a.git", Ref: "refs/heads/main"},
		"https://example.com/a.git?ref=v1#v1":             {Remote: "https://example.com/a.git", Ref: "v1"},
		"https://u:p@example.com/a.git":                   {Remote: "https://u:p@example.com/a.git"},
		"git@example.com:o/a.git#v2:d":                    {Remote: "git@example.com:o/a.git", Ref: "v2", Subdir: "d"},
		"git@example.com:a?submodules=false&keep-git-dir": {Remote: "git@example.com:a", Submodules: &no, KeepGitDir: &yes},
		"ssh://git@example.com:2222/a":                    {Remote: "ssh://git@example.com:2222/a"},
		"git://example.com/a":                             {Remote: "git://example.com/a"},
		"github.com/o/a#v1":                               {Remote: "https://github.com/o/a", Ref: "v1", LooksLocal: true},
		"https://example.com/a.git?commit=" + commit + "&fetch-by-commit=1&mtime=commit": {
			Remote: "https://example.com/a.git", Checksum: commit, FetchByCommit: true, CommitTime: true},
		"https://example.com/a.tar.gz": nil, "file:///a.git": nil, "/a.git": nil, "./git@x:y": nil, "a/b": nil,
		"ext::sh -c x": nil, "http://[bad.git": nil, "git@host": nil, "": nil,
	} {
		got, err := ParseGitRef(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", in, diff)
		}
	}
}

func TestParseGitRefErrors(t *testing.T) {
	const base = "https://u:secret@example.com/a.git"
	for in, want := range map[string]string{
		"?ref=a#b":                `ref conflicts: "b" and "a"`,
		"?tag=v1#v1":              `ref conflicts: "v1" and "refs/tags/v1"`,
		"?tag=v1&branch=main":     "ref conflicts",
		"?tag=v1&branch=":         `query "branch" has no value`,
		"?subdir=a#:b":            `subdir conflicts: "b" and "a"`,
		"?checksum=aa&commit=bb":  `checksum conflicts`,
		"?ref=":                   `query "ref" has no value`,
		"?ref=a&ref=b":            `query "ref" is given more than once`,
		"?keep-git-dir=maybe":     `keep-git-dir="maybe": want true or false`,
		"?submodules=2":           `submodules="2": want true or false`,
		"?fetch-by-commit=x":      `fetch-by-commit="x"`,
		"?mtime=now":              `mtime="now": want "checkout" or "commit"`,
		"?depth=1":                `unexpected query "depth"`,
		"#--upload-pack=touch+/x": `invalid ref "--upload-pack`,
	} {
		_, err := ParseGitRef(base + in)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, want %s and no password", in, err, want)
		}
	}
}

// FuzzGitURL compares with BuildKit's own parser, and holds what a reference
// promises to those who pass it to git.
func FuzzGitURL(f *testing.F) {
	for _, s := range []string{
		"https://example.com/a.git#main:sub", "git@example.com:o/a.git?tag=v1", "github.com/o/a", "ssh://h/p#-x", "http://h/a.git?ref=a&ref=b",
		"https://h/a.git?submodules&keep-git-dir=0&mtime=commit&checksum=ab&fetch-by-commit", "a@b:c?d=%zz#e", "https://u:p@h/a.git?#:..//x",
		"HTTPS://h/a.git", "https://h/a.git?branch=refs/heads/x#refs/heads/x", "ext::x", "file:///x.git",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseGitRef(s)
		want, isGit, wantErr := dfgitutil.ParseGitRef(s)
		if (got != nil || err != nil) != isGit {
			t.Fatalf("%q: %+v, %v; BuildKit says it is Git: %v", s, got, err, isGit)
		}
		if got == nil {
			if err != nil && wantErr == nil && !strings.Contains(err.Error(), "invalid ref") && !strings.Contains(err.Error(), "conflicts") {
				t.Fatalf("%q: BuildKit takes it for %+v: %v", s, want, err)
			}
			return
		}
		if strings.HasPrefix(got.Ref, "-") || strings.HasPrefix(got.Remote, "-") {
			t.Fatalf("%q: git would take %+v for an option", s, got)
		}
		if got.Subdir != strings.TrimPrefix(path.Join("/", got.Subdir), "/") {
			t.Fatalf("%q: directory %q is not clean", s, got.Subdir)
		}
		if wantErr != nil {
			t.Fatalf("%q: %+v, BuildKit fails: %v", s, got, wantErr)
		}
		remote := want.Remote
		if want.IndistinguishableFromLocal {
			remote = "https://" + remote
		}
		if u, err := url.Parse(s); err == nil && u.ForceQuery {
			remote = strings.TrimSuffix(remote, "?") // BuildKit keeps an empty query
		}
		w := &GitRef{
			Remote: remote, Ref: want.Ref, Subdir: strings.TrimPrefix(path.Join("/", want.SubDir), "/"), Checksum: want.Checksum,
			KeepGitDir: want.KeepGitDir, Submodules: want.Submodules, CommitTime: want.MTime == "commit", FetchByCommit: want.FetchByCommit,
			LooksLocal: want.IndistinguishableFromLocal,
		}
		if diff := cmp.Diff(w, got); diff != "" {
			t.Fatalf("%q: %s", s, diff)
		}
	})
}
