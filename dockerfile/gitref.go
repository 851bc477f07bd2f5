// SPDX-License-Identifier: Apache-2.0

package dockerfile

import (
	"fmt"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// GitRef names a tree in a Git repository, as ADD and build contexts do.
type GitRef struct {
	// Remote is what git is given: an http, https, ssh or git URL, or
	// user@host:path.
	Remote string
	// Ref is a branch, a tag, a full name as refs/heads/main, or a whole
	// commit ID; "" for the default branch.
	Ref string
	// Subdir is the directory whose contents are meant, clean and without
	// a slash at its ends; "" for the top.
	Subdir string
	// Checksum is a commit ID, or its beginning, that Ref must have.
	Checksum string
	// KeepGitDir keeps .git, and Submodules (the default) fetches those;
	// nil where the reference doesn't say.
	KeepGitDir, Submodules *bool
	// CommitTime gives files the commit's time instead of that of the checkout.
	CommitTime bool
	// FetchByCommit takes Checksum, which must be a whole commit ID, for
	// what Ref has, without asking.
	FetchByCommit bool
	// LooksLocal says that the reference began with "github.com/", which
	// is a path too. Only build contexts may be named that way.
	LooksLocal bool
}

var (
	hasScheme = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9]+://`) })
	scpStyle  = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^([a-zA-Z0-9-_]+@[a-zA-Z0-9-.]+:.*?)(?:\?(.*?))?(?:#(.*))?$`)
	})
)

// ParseGitRef reads a reference to a Git repository in any of BuildKit's
// forms: an https or http URL that ends in ".git", an ssh or git URL,
// user@host:path, github.com/owner/name; each with an optional
// "#ref:subdir" and query. It returns nil without an error for what is
// something else: a path, another URL.
func ParseGitRef(s string) (*GitRef, error) {
	g := &GitRef{}
	var query url.Values
	var fragment string
	switch m := scpStyle().FindStringSubmatch(s); {
	case strings.HasPrefix(s, "./"), strings.HasPrefix(s, "../"):
		return nil, nil
	case strings.HasPrefix(s, "github.com/"), hasScheme().MatchString(s):
		g.LooksLocal = strings.HasPrefix(s, "github.com/")
		u := gitURL(s, g.LooksLocal)
		if u == nil {
			return nil, nil
		}
		query, fragment = u.Query(), u.Fragment
		u.Fragment, u.RawFragment, u.RawQuery, u.ForceQuery = "", "", "", false
		g.Remote = u.String()
	case m != nil:
		g.Remote, fragment = m[1], m[3]
		var err error
		if query, err = url.ParseQuery(m[2]); err != nil {
			return nil, nil
		}
	default:
		return nil, nil
	}
	ref, subdir, _ := strings.Cut(fragment, ":")
	g.Ref, g.Subdir = ref, cleanSubdir(subdir)
	if err := g.readQuery(query); err != nil {
		return nil, fmt.Errorf("git reference %q: %w", redactURL(s), err)
	}
	if strings.HasPrefix(g.Ref, "-") || strings.HasPrefix(g.Remote, "-") {
		return nil, fmt.Errorf("git reference %q: invalid ref %q", redactURL(s), g.Ref)
	}
	return g, nil
}

// gitURL reads a URL of a repository; nil if it is none.
func gitURL(s string, short bool) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		return nil
	}
	if short {
		u.Scheme = "https"
		return u
	}
	switch u.Scheme {
	case "ssh", "git":
		return u
	case "http", "https":
		if strings.HasSuffix(u.Path, ".git") {
			return u
		}
	}
	return nil
}

func redactURL(s string) string {
	if u, err := url.Parse(s); err == nil && u.User != nil {
		return u.Redacted()
	}
	return s
}

func cleanSubdir(s string) string { return strings.TrimPrefix(path.Join("/", s), "/") }

// readQuery reads the query form. What it says twice must be the same.
func (g *GitRef) readQuery(query url.Values) error {
	for _, key := range slices.Sorted(maps.Keys(query)) {
		if len(query[key]) > 1 {
			return fmt.Errorf("query %q is given more than once", key)
		}
		if err := g.readOption(key, query.Get(key)); err != nil {
			return err
		}
	}
	return nil
}

func (g *GitRef) readOption(key, value string) (err error) {
	switch key {
	case "submodules":
		g.Submodules, err = queryBool(key, value)
		return err
	case "keep-git-dir":
		g.KeepGitDir, err = queryBool(key, value)
		return err
	case "fetch-by-commit":
		b, err := queryBool(key, value)
		g.FetchByCommit = b != nil && *b
		return err
	}
	if value == "" {
		return fmt.Errorf("query %q has no value", key)
	}
	switch key {
	case "ref":
		return set("ref", &g.Ref, value)
	case "tag":
		return set("ref", &g.Ref, "refs/tags/"+strings.TrimPrefix(value, "refs/tags/"))
	case "branch":
		return set("ref", &g.Ref, "refs/heads/"+strings.TrimPrefix(value, "refs/heads/"))
	case "subdir":
		return set("subdir", &g.Subdir, cleanSubdir(value))
	case "checksum", "commit":
		return set("checksum", &g.Checksum, value)
	case "mtime":
		if value != "checkout" && value != "commit" {
			return fmt.Errorf(`mtime=%q: want "checkout" or "commit"`, value)
		}
		g.CommitTime = value == "commit"
		return nil
	}
	return fmt.Errorf("unexpected query %q", key)
}

// set sets what may have been set before, but only to the same.
func set(name string, field *string, value string) error {
	if *field != "" && *field != value {
		return fmt.Errorf("%s conflicts: %q and %q", name, *field, value)
	}
	*field = value
	return nil
}

// queryBool reads a query's boolean: without a value it is true.
func queryBool(key, value string) (*bool, error) {
	if value == "" {
		value = "true"
	}
	b, err := strconv.ParseBool(value)
	if err != nil {
		return nil, fmt.Errorf("%s=%q: want true or false", key, value)
	}
	return &b, nil
}
