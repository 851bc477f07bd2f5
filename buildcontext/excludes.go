// SPDX-License-Identifier: Apache-2.0

package buildcontext

import "slices"

// Excludes tells whether the ignore patterns keep a path, as an instruction
// names it, out of the tree. Only the patterns are looked at, as build checks
// do: where one is negated the answer is no, since it may bring something below
// the path back; and of the tree's root it is yes only where they name all that
// is in it.
func (t *Tree) Excludes(name string) bool {
	if t.ignore.negated || t.ignore.empty() {
		return false
	}
	if name == "." || name == "/" {
		all := []string{"*", "**", "**/*"}
		named := func(p pattern) bool { return slices.Contains(all, p.text) }
		if !slices.ContainsFunc(t.ignore.patterns, named) {
			return false
		}
	}
	excluded, _ := t.ignore.matchPath(name)
	return excluded
}
