// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const aDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParseRef(t *testing.T) {
	for in, want := range map[string]struct {
		whole, familiar string
	}{
		"debian":                                 {"docker.io/library/debian:latest", "debian:latest"},
		"debian:12":                              {"docker.io/library/debian:12", "debian:12"},
		"a/b":                                    {"docker.io/a/b:latest", "a/b:latest"},
		"docker.io/debian":                       {"docker.io/library/debian:latest", "debian:latest"},
		"index.docker.io/library/debian":         {"docker.io/library/debian:latest", "debian:latest"},
		"registry-1.docker.io/a/b:c":             {"docker.io/a/b:c", "a/b:c"},
		"library/a/b":                            {"docker.io/library/a/b:latest", "library/a/b:latest"},
		"docker.io/library/localhost/x":          {"docker.io/library/localhost/x:latest", "library/localhost/x:latest"},
		"docker.io/localhost/x":                  {"docker.io/localhost/x:latest", "docker.io/localhost/x:latest"},
		"localhost/x":                            {"localhost/x:latest", "localhost/x:latest"},
		"localhost:5000/x":                       {"localhost:5000/x:latest", "localhost:5000/x:latest"},
		"localhost:5000":                         {"docker.io/library/localhost:5000", "localhost:5000"},
		"localhost":                              {"docker.io/library/localhost:latest", "localhost:latest"},
		"127.0.0.1/x":                            {"127.0.0.1/x:latest", "127.0.0.1/x:latest"},
		"[::1]:5000/x":                           {"[::1]:5000/x:latest", "[::1]:5000/x:latest"},
		"Host/x":                                 {"Host/x:latest", "Host/x:latest"},
		"example.com/library/x":                  {"example.com/library/x:latest", "example.com/library/x:latest"},
		"debian@" + aDigest:                      {"docker.io/library/debian@" + aDigest, "debian@" + aDigest},
		"debian:12@" + aDigest:                   {"docker.io/library/debian:12@" + aDigest, "debian:12@" + aDigest},
		"a__b--c/d.e_f":                          {"docker.io/a__b--c/d.e_f:latest", "a__b--c/d.e_f:latest"},
		"x:" + strings.Repeat("t", 128):          {"docker.io/library/x:" + strings.Repeat("t", 128), "x:" + strings.Repeat("t", 128)},
		"x:_a.B-1":                               {"docker.io/library/x:_a.B-1", "x:_a.B-1"},
		"example.com/" + strings.Repeat("a", 64): {"example.com/" + strings.Repeat("a", 64) + ":latest", "example.com/" + strings.Repeat("a", 64) + ":latest"},
	} {
		ref, err := ParseRef(in)
		if err != nil {
			t.Errorf("ParseRef(%q): %v", in, err)
			continue
		}
		if ref.String() != want.whole || ref.Familiar() != want.familiar {
			t.Errorf("ParseRef(%q) = %s, %s, want %s, %s", in, ref, ref.Familiar(), want.whole, want.familiar)
		}
	}
	for in, want := range map[string]string{
		"": "empty", "UPPER": "lower case", "a/B": "lower case", ":tag": "no repository", "a:": "not a tag", "a:b:c": "repository",
		"a:" + strings.Repeat("t", 129): "not a tag", "a:-x": "not a tag", "a@": "digest", "a@sha256:12": "digest", "a@" + aDigest + "0": "digest",
		"a//b": "repository", "a/": "repository", "-a": "repository", "a..b": "repository", "a___b": "repository", "/a": "repository",
		"host:port/x": "registry host", "-x.com/a": "registry host", "a b": "repository", "a\n": "repository", "ä": "repository",
		strings.Repeat("a", 64): "image ID", strings.Repeat("a", 256): "repository", "https://example.com/x": "registry host",
	} {
		_, err := ParseRef(in)
		if !errors.Is(err, ErrInvalidRef) || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseRef(%q): %v, want %q", in, err, want)
		}
	}
	if got := (Ref{}).String(); got != "" {
		t.Errorf("the zero reference is %q", got)
	}
}

// FuzzParseRef: what is read is written so that it is read the same.
func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"debian", "a/b:c", "localhost:5000/x@" + aDigest, "docker.io/library/a/b", "[::1]:1/x", "Host/x", "docker.io/localhost/x", "x:5000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseRef(s)
		if err != nil {
			if !errors.Is(err, ErrInvalidRef) {
				t.Errorf("ParseRef(%q): %v is no ErrInvalidRef", s, err)
			}
			return
		}
		if ref.Registry == "" || ref.Repository == "" || (ref.Tag == "" && ref.Digest == "") {
			t.Errorf("ParseRef(%q) = %+v", s, ref)
		}
		for _, written := range []string{ref.String(), ref.Familiar()} {
			again, err := ParseRef(written)
			if err != nil {
				t.Errorf("ParseRef(%q) is written %q: %v", s, written, err)
			} else if diff := cmp.Diff(ref, again); diff != "" {
				t.Errorf("ParseRef(%q) is written %q: (-was +read)\n%s", s, written, diff)
			}
		}
	})
}

// FuzzRefGrammar compares the grammar with the distribution project's, as regular
// expressions.
func FuzzRefGrammar(f *testing.F) {
	const component, label = `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`, `[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?`
	repository := regexp.MustCompile(`^` + component + `(?:/` + component + `)*$`)
	tag := regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	registry := regexp.MustCompile(`^(?:` + label + `(?:\.` + label + `)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?$`)
	for _, s := range []string{
		"", "a", "a/b", "a//b", "/a", "a/", "a.b", "a..b", "a_b", "a__b", "a___b", "a-b", "a--b---c", "a._b", "a-", "-a", "_a", "a_", "a.", "A", "a/B", "é",
		"1.2", "_1", ".1", "-1", "1.-_", "localhost", "localhost:", "localhost:1", "a:b", ":1", "a-.b", "-a.b", "a.b-", "a..b", "[::1]", "[::1]:5000", "[]", "[::1", "::1]", "[::1]5", "[g]", "a]:1", "[a]]",
		"a\n", "\xff", strings.Repeat("a", 128), strings.Repeat("a", 129),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, tt := range []struct {
			name      string
			got, want bool
		}{
			{"repository", isRepository(s), repository.MatchString(s)}, {"tag", isTag(s), tag.MatchString(s)}, {"registry", isRegistry(s), registry.MatchString(s)},
		} {
			if tt.got != tt.want {
				t.Errorf("%q is a %s: %t, want %t", s, tt.name, tt.got, tt.want)
			}
		}
	})
}
