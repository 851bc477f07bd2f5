// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path"
	"strings"
)

// node is an entry of the build context.
type node struct {
	path string
	dir  bool
}

// names are of entries; each is used once in a directory.
var names = []string{
	"a", "b", "c", "f.txt", "g.txt", "h.log", "Z", "ab", "abc", "dir", "sub", "with space", ".hidden", ".d", "ünï", "[br]", "st*r", "q?m", "-dash",
	"$dollar", "per%cent", "plus+", "#hash", "b!ng", "{brace}", "a,b", "a:b", "x=y", "~tilde", "...", "very-long-name-0123456789-0123456789-0123456789",
}

// makeTree makes the build context and returns the commands that do.
func (g *generator) makeTree() []string {
	var setup []string
	dirs := []string{""}
	seen := map[string]bool{}
	var files []string
	for range 5 + g.IntN(9) {
		p := path.Join(pick(g, dirs), pick(g, names))
		if seen[p] {
			continue
		}
		seen[p] = true
		q := quote(p)
		n := node{path: p}
		switch kind := g.IntN(20); {
		case kind < 6:
			n.dir = true
			dirs = append(dirs, p)
			setup = append(setup, "mkdir "+q)
		case kind < 9:
			setup = append(setup, "ln -s -- "+word(g.target(p))+" "+q)
		case kind < 11 && len(files) > 0:
			setup = append(setup, "ln "+quote(pick(g, files))+" "+q)
		case kind == 11:
			setup = append(setup, "mkfifo "+q)
		default:
			files = append(files, p)
			setup = append(setup, fmt.Sprintf("echo %d > %s", g.IntN(1000), q))
		}
		g.tree = append(g.tree, n)
	}
	setup = append(setup, g.attributes()...)
	if g.chance(25) {
		setup = append(setup, "tar --sort=name --mtime=@1200000000 --format=gnu --exclude=t.tar -cf ../t.tar .", "mv ../t.tar .")
		g.tree = append(g.tree, node{path: "t.tar"})
	}
	return setup
}

// target is what a symbolic link at a path says.
func (g *generator) target(p string) string {
	if len(g.tree) == 0 || g.chance(20) {
		return pick(g, []string{"nowhere", ".", "..", "/etc", "../../..", "/", path.Base(p)})
	}
	t := pick(g, g.tree).path
	switch g.IntN(3) {
	case 0:
		return "/" + t
	case 1:
		return strings.Repeat("../", strings.Count(p, "/")) + t
	}
	return path.Base(t)
}

// attributes are commands that change modes, times, owners and extended
// attributes.
func (g *generator) attributes() []string {
	var setup []string
	for _, n := range g.tree {
		q := quote(n.path)
		switch g.IntN(12) {
		case 0, 1:
			mode := pick(g, []string{"600", "755", "4755", "444", "640", "2711"})
			if n.dir {
				mode = pick(g, []string{"700", "1777", "2755", "711", "500"})
			}
			setup = append(setup, fmt.Sprintf("[ -L %s ] || chmod %s %s", q, mode, q))
		case 2:
			setup = append(setup, fmt.Sprintf("touch -hd @%d %s", 1000000000+g.IntN(1000000), q))
		case 3:
			setup = append(setup, "chown -h 5:6 "+q)
		case 4:
			setup = append(setup, fmt.Sprintf("[ -L %s ] || [ -p %s ] || setfattr -n user.k -v v %s", q, q, q))
		}
	}
	return setup
}

// quote is a path below the context as a word of the shell.
func quote(p string) string { return "./" + word(p) }

// word is a text as a word of the shell.
func word(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
