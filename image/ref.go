// SPDX-License-Identifier: Apache-2.0

// Package image holds the values that images are spoken of with: references,
// platforms, configs, manifests. It does no I/O.
package image

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// ErrInvalidRef says that a string is not an image reference.
var ErrInvalidRef = errors.New("invalid image reference")

// DefaultRegistry is the registry of references that name none.
const DefaultRegistry = "docker.io"

// Ref is a normalised image reference: REGISTRY/REPOSITORY[:TAG][@DIGEST],
// docker's way of filling in what a short name leaves out. The zero value
// means no reference.
type Ref struct {
	Registry   string        // host[:port], docker.io by default
	Repository string        // path, "library/debian"
	Tag        string        // "" if only a digest is given, else "latest" by default
	Digest     digest.Digest // "" if none is given
}

// The grammar is that of the distribution project: lower-case path components
// of letters and digits joined by ".", "_", "__" or dashes; a tag of up to 128
// word characters, dots and dashes. Compiled on first use: a build that names
// no image doesn't pay for it.
var (
	repositoryRE = sync.OnceValue(func() *regexp.Regexp {
		const component = `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
		return regexp.MustCompile(`^` + component + `(?:/` + component + `)*$`)
	})
	tagRE = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	})
	hostRE = sync.OnceValue(func() *regexp.Regexp {
		const label = `[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?`
		return regexp.MustCompile(`^(?:` + label + `(?:\.` + label + `)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?$`)
	})
)

// ParseRef parses and normalises a reference. "debian" becomes
// docker.io/library/debian:latest; a first component with a dot, a colon or
// the name localhost is a registry. The error wraps [ErrInvalidRef].
func ParseRef(s string) (Ref, error) {
	bad := func(why string) (Ref, error) {
		return Ref{}, fmt.Errorf("%w %q: %s", ErrInvalidRef, s, why)
	}
	if s == "" {
		return bad("it is empty")
	}
	var r Ref
	rest, dgst, hasDigest := strings.Cut(s, "@")
	if hasDigest {
		r.Digest = digest.Digest(dgst)
		if err := r.Digest.Validate(); err != nil {
			return bad("what follows @ must be a digest such as sha256:<64 hex digits>")
		}
	}
	r.Registry = DefaultRegistry
	if host, path, ok := strings.Cut(rest, "/"); ok && isHost(host) {
		r.Registry, rest = host, path
	}
	if r.Registry == "index.docker.io" || r.Registry == "registry-1.docker.io" {
		r.Registry = DefaultRegistry
	}
	if !hostRE().MatchString(r.Registry) {
		return bad(fmt.Sprintf("%q is not a registry host", r.Registry))
	}
	r.Repository = rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		r.Repository, r.Tag = rest[:i], rest[i+1:]
		if !tagRE().MatchString(r.Tag) {
			return bad(fmt.Sprintf("%q is not a tag", r.Tag))
		}
	} else if !hasDigest {
		r.Tag = "latest"
	}
	switch {
	case r.Repository == "":
		return bad("it names no repository")
	case strings.ToLower(r.Repository) != r.Repository:
		return bad("repository names are lower case")
	case len(r.Repository) > 255 || !repositoryRE().MatchString(r.Repository):
		return bad(fmt.Sprintf("%q is not a repository name", r.Repository))
	}
	if len(s) == 64 && isHex(s) {
		return bad("64 hex digits are an image ID, not a name")
	}
	if r.Registry == DefaultRegistry && !strings.Contains(r.Repository, "/") {
		r.Repository = "library/" + r.Repository
	}
	return r, nil
}

func isHost(s string) bool {
	return s == "localhost" || strings.ContainsAny(s, ".:") || strings.ToLower(s) != s
}

func isHex(s string) bool {
	return strings.Trim(s, "0123456789abcdef") == ""
}

// String is the whole reference.
func (r Ref) String() string {
	if r == (Ref{}) {
		return ""
	}
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// Name is REGISTRY/REPOSITORY.
func (r Ref) Name() string { return r.Registry + "/" + r.Repository }

// Familiar is the reference as people write it: without the registry and
// "library/" that a short name stands for.
func (r Ref) Familiar() string {
	s := r.FamiliarName()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// FamiliarName is [Ref.Name] as people write it.
func (r Ref) FamiliarName() string {
	path, ok := strings.CutPrefix(r.Name(), DefaultRegistry+"/")
	if !ok {
		return r.Name()
	}
	if short, ok := strings.CutPrefix(path, "library/"); ok && !strings.Contains(short, "/") {
		return short
	}
	if first, _, ok := strings.Cut(path, "/"); ok && isHost(first) {
		return r.Name() // without its registry it would be read as another's
	}
	return path
}
