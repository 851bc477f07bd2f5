// SPDX-License-Identifier: Apache-2.0

package bake

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// version is a semantic version, of which the last parts may be missing.
type version struct {
	parts [3]uint64
	known int // parts that were given
	pre   string
}

const versionPattern = `v?([0-9]+|[xX*])(?:\.([0-9]+|[xX*]))?(?:\.([0-9]+|[xX*]))?(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?`

// newVersion makes a version of what versionPattern has matched.
func newVersion(groups []string) (version, error) {
	v := version{pre: groups[3]}
	for i, g := range groups[:3] {
		if g == "" || strings.ContainsAny(g, "xX*") {
			break
		}
		n, err := strconv.ParseUint(g, 10, 64)
		if err != nil {
			return v, err
		}
		v.parts[i], v.known = n, i+1
	}
	return v, nil
}

func parseVersion(s string) (version, error) {
	m := regexp.MustCompile(`^` + versionPattern + `$`).FindStringSubmatch(s)
	if m == nil || strings.ContainsAny(strings.Join(m[1:4], ""), "xX*") {
		return version{}, fmt.Errorf("%q is no version", s)
	}
	return newVersion(m[1:])
}

// comparePrefix compares the first n parts.
func (v version) comparePrefix(o version, n int) int {
	for i := range n {
		if c := cmp.Compare(v.parts[i], o.parts[i]); c != 0 {
			return c
		}
	}
	return 0
}

// compare follows the precedence of semantic versions.
func (v version) compare(o version) int {
	if c := v.comparePrefix(o, 3); c != 0 || v.pre == o.pre {
		return c
	}
	if v.pre == "" || o.pre == "" {
		return cmp.Compare(len(o.pre), len(v.pre))
	}
	a, b := strings.Split(v.pre, "."), strings.Split(o.pre, ".")
	for i := range min(len(a), len(b)) {
		if c := compareIdentifiers(a[i], b[i]); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

func compareIdentifiers(a, b string) int {
	n, errA := strconv.ParseUint(a, 10, 64)
	m, errB := strconv.ParseUint(b, 10, 64)
	switch {
	case errA == nil && errB == nil:
		return cmp.Compare(n, m)
	case errA == nil:
		return -1
	case errB == nil:
		return 1
	}
	return strings.Compare(a, b)
}

// constraint is an operator and the version that it compares with.
type constraint struct {
	op  string
	ver version
}

func (c constraint) allows(v version) bool {
	switch c.op {
	case "!=":
		return v.comparePrefix(c.ver, c.ver.known) != 0 || (c.ver.known == 3 && v.compare(c.ver) != 0)
	case ">":
		if c.ver.known < 3 {
			return v.comparePrefix(c.ver, c.ver.known) > 0
		}
		return v.compare(c.ver) > 0
	case "<=", "=<":
		if c.ver.known < 3 {
			return v.comparePrefix(c.ver, c.ver.known) <= 0
		}
		return v.compare(c.ver) <= 0
	case "<":
		return v.compare(c.ver) < 0
	case ">=", "=>":
		return v.compare(c.ver) >= 0
	case "^":
		return c.within(v, c.caret())
	case "", "=":
		if c.ver.known == 3 {
			return v.compare(c.ver) == 0
		}
	}
	if c.ver.parts == [3]uint64{} && c.ver.known == 3 { // ~0.0.0 is any
		return c.within(v, 0)
	}
	return c.within(v, min(c.ver.known, 2))
}

// within reports whether v is not before the constraint's version and has the
// same first n parts.
func (c constraint) within(v version, n int) bool {
	return v.compare(c.ver) >= 0 && v.comparePrefix(c.ver, n) == 0
}

// caret is how many parts ^ keeps: up to the first that isn't 0.
func (c constraint) caret() int {
	n := min(c.ver.known, 1)
	for n > 0 && n < c.ver.known && c.ver.parts[n-1] == 0 {
		n++
	}
	return n
}

// parseConstraints reads alternatives divided by ||, each constraints divided
// by commas or spaces, or a range A - B.
func parseConstraints(s string) ([][]constraint, error) {
	ranges := regexp.MustCompile(`(` + versionPattern + `)\s+-\s+(` + versionPattern + `)`)
	s = ranges.ReplaceAllString(s, ">=$1, <=$6")
	one := regexp.MustCompile(`^\s*(=|!=|>=|=>|<=|=<|>|<|~>|~|\^|)\s*` + versionPattern + `(?:\s*,\s*|\s+|$)`)
	var out [][]constraint
	for alternative := range strings.SplitSeq(s, "||") {
		rest := alternative
		var all []constraint
		for strings.TrimSpace(rest) != "" {
			m := one.FindStringSubmatch(rest)
			if m == nil {
				return nil, fmt.Errorf("improper constraint: %q", alternative)
			}
			ver, err := newVersion(m[2:])
			if err != nil {
				return nil, err
			}
			all = append(all, constraint{m[1], ver})
			rest = rest[len(m[0]):]
		}
		out = append(out, all)
	}
	return out, nil
}

// satisfies reports whether a version meets constraints. A pre-release does
// only where a constraint of the same alternative names one.
func satisfies(v version, alternatives [][]constraint) bool {
	for _, all := range alternatives {
		ok, pre := true, v.pre == ""
		for _, c := range all {
			ok = ok && c.allows(v)
			pre = pre || c.ver.pre != ""
		}
		if ok && pre {
			return true
		}
	}
	return false
}

// semverFunction tells whether a version meets a constraint.
func semverFunction() function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "version", Type: cty.String}, {Name: "constraint", Type: cty.String}},
		Type:   function.StaticReturnType(cty.Bool),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			v, err := parseVersion(args[0].AsString())
			if err != nil {
				return cty.NilVal, function.NewArgError(0, err)
			}
			alternatives, err := parseConstraints(args[1].AsString())
			if err != nil {
				return cty.NilVal, function.NewArgError(1, err)
			}
			return cty.BoolVal(satisfies(v, alternatives)), nil
		},
	})
}
