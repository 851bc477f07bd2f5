// SPDX-License-Identifier: Apache-2.0

package dockerfile

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// FrontendVersion is the version of docker/dockerfile whose grammar is known
// here: that of the parser.
const FrontendVersion = "1.28"

// syntaxArg is the build argument that replaces the "# syntax=" directive.
const syntaxArg = "BUILDKIT_SYNTAX"

// errFrontend says that a file is for another frontend.
type errFrontend struct{ image, by string }

func (e *errFrontend) Error() string {
	return fmt.Sprintf("%s asks for the frontend %q: BuildKit would run that image, builder has its own frontend alone, for Dockerfiles", e.by, e.image)
}

// Hint is what the user can do.
func (e *errFrontend) Hint() string {
	return "if the file is a Dockerfile all the same, --build-arg " + syntaxArg + "=docker/dockerfile:1 has it read as one"
}

// syntax reads the directive that says which frontend a file is for, or the
// build argument in its place. docker/dockerfile, its upstream and copies of
// them in other registries are this package; note says where it may fall short
// of what is asked for. Anything else is an error.
func (f *File) syntax(args map[string]string) (note string, err error) {
	by := "build argument " + syntaxArg
	frontend, given := args[syntaxArg]
	var location []parser.Range
	if given {
		frontend, _, _ = strings.Cut(strings.TrimSpace(frontend), " ")
		if frontend == "" {
			return "", f.At(nil, errors.New(by+" is empty: want the name of a frontend, such as docker/dockerfile:1"))
		}
	} else {
		by = "syntax directive"
		if frontend, _, location, given = parser.DetectSyntax(f.Source); !given {
			return "", nil
		}
	}
	tag, ok := ownTag(frontend)
	if !ok {
		return "", f.At(location, &errFrontend{frontend, by})
	}
	switch {
	case isNewer(tag):
		return fmt.Sprintf("%s is newer than the %s that builder knows: what came later is an error or isn't seen", frontend, FrontendVersion), nil
	case tag == "labs" || strings.HasSuffix(tag, "-labs"):
		return fmt.Sprintf("%s is of the labs channel: builder knows %s without experiments", frontend, FrontendVersion), nil
	}
	return "", nil
}

// ownTag tells whether an image is the Dockerfile frontend, and its tag.
func ownTag(image string) (tag string, ok bool) {
	name, _, _ := strings.Cut(image, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, tag = name[:i], name[i+1:]
	}
	for _, own := range []string{"docker/dockerfile", "docker/dockerfile-upstream"} {
		if name == own || strings.HasSuffix(name, "/"+own) {
			return tag, true
		}
	}
	return tag, false
}

// isNewer tells whether a tag is of a version later than FrontendVersion. Tags
// that are no version move, and are taken for one that is known.
func isNewer(tag string) bool {
	version, _, _ := strings.Cut(tag, "-")
	have := strings.Split(FrontendVersion, ".")
	for i, part := range strings.Split(version, ".") {
		n, err := strconv.Atoi(part)
		if err != nil || i == len(have) {
			return false
		}
		if known, _ := strconv.Atoi(have[i]); n != known {
			return n > known
		}
	}
	return false
}
