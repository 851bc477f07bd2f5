// SPDX-License-Identifier: Apache-2.0

// Package image holds the values that images are spoken of with: references,
// platforms, configs, manifests. It does no I/O.
package image

import (
	"errors"
	"fmt"
	"strings"

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
	if !isRegistry(r.Registry) {
		return bad(fmt.Sprintf("%q is not a registry host", r.Registry))
	}
	r.Repository = rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		r.Repository, r.Tag = rest[:i], rest[i+1:]
		if !isTag(r.Tag) {
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
	case len(r.Repository) > 255 || !isRepository(r.Repository):
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

// The grammar is that of the distribution project (reference/regexp.go), by hand:
// every command that names an image would wait for regular expressions to be compiled.

// isRepository says whether s is path components joined by "/": lower-case letters and
// digits, in words that are joined by ".", "_", "__" or dashes.
func isRepository(s string) bool {
	for component := range strings.SplitSeq(s, "/") {
		for rest := component; ; {
			rest = strings.TrimLeft(rest, lower+digits)
			if len(rest) == len(component) {
				return false // it is empty, or begins otherwise
			}
			if rest == "" {
				break
			}
			component = strings.TrimLeft(rest, rest[:1])
			switch n := len(rest) - len(component); {
			case rest[0] == '-', rest[0] == '.' && n == 1, rest[0] == '_' && n <= 2:
			default:
				return false
			}
			rest = component
		}
	}
	return true
}

// isTag says whether s is up to 128 letters, digits, "_", "." and "-", of which the last
// two don't begin it.
func isTag(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsRune(".-", rune(s[0])) && strings.Trim(s, lower+upper+digits+"_.-") == ""
}

// isRegistry says whether s is a host's name or, in brackets, its IPv6 address, and
// perhaps a port.
func isRegistry(s string) bool {
	host, port, hasPort := s, "", false
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host, port, hasPort = s[:i], s[i+1:], true
	}
	if hasPort && (port == "" || strings.Trim(port, digits) != "") {
		return false
	}
	if address, ok := strings.CutPrefix(host, "["); ok {
		address, ok = strings.CutSuffix(address, "]")
		return ok && address != "" && strings.Trim(address, digits+"abcdefABCDEF:") == ""
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' || strings.Trim(label, lower+upper+digits+"-") != "" {
			return false
		}
	}
	return true
}

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits = "0123456789"
)

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
