// SPDX-License-Identifier: Apache-2.0

package buildcontext

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"builder/internal/copytree"
	"builder/internal/sys"

	"golang.org/x/sys/unix"
)

// Select finds what the request names. Directories that it needs are walked;
// file contents are not read.
//
// A source without wildcards that is not there is a [*NotFoundError]; one with
// wildcards that matches nothing selects nothing, as in BuildKit. A source
// that is a symbolic link is followed within the tree, links in directories
// are copied as they are. A file that a source names itself is selected even
// if a pattern of Exclude matches it (BuildKit's copier.copy looks at the
// patterns only below a source).
func (t *Tree) Select(ctx context.Context, req Request) (*Selection, error) {
	mode, err := copytree.ParseMode(req.Mode)
	if err != nil {
		return nil, err
	}
	if !path.IsAbs(req.Dest) {
		return nil, fmt.Errorf("destination %q is not absolute", req.Dest)
	}
	exclude, err := newMatcher(req.Exclude)
	if err != nil {
		return nil, fmt.Errorf("exclude: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &Selection{tree: t, modeStr: req.Mode, plan: copytree.Plan{
		Root:      t.root,
		Dest:      req.Dest,
		Owner:     req.Owner,
		KeepOwner: t.opts.KeepOwner,
		Mode:      mode,
		Unpack:    req.Unpack,
	}}
	for _, source := range req.Sources {
		if err := s.add(ctx, source, req.Parents, exclude); err != nil {
			return nil, err
		}
	}
	for _, f := range req.Inline {
		e := &copytree.Entry{Name: copytree.MakeName(f.Name), XattrsKnown: true}
		e.Stat.Mode, e.Stat.Size = unix.S_IFREG|0o644, int64(len(f.Data))
		data := f.Data
		if data == nil {
			data = []byte{}
		}
		s.plan.Sources = append(s.plan.Sources, copytree.Source{Name: path.Base(f.Name), Entry: e, Data: data})
	}
	return s, nil
}

// filter says what below a source is selected.
type filter struct {
	include *matcher // nil: all
	exclude *matcher
}

// add adds what one source names.
func (s *Selection) add(ctx context.Context, source string, parents bool, exclude *matcher) error {
	f := filter{exclude: exclude}
	base, required := source, ""
	if parents {
		var pattern string
		base, pattern = cutPivot(source)
		var err error
		if f.include, err = newMatcher([]string{pattern}); err != nil {
			return fmt.Errorf("source %q: %w", source, err)
		}
		if !hasWildcards(base) && !hasWildcards(pattern) {
			required = path.Join("/", base, pattern)
		}
	}
	paths, err := s.tree.glob(ctx, path.Join("/", base))
	if err != nil {
		return err
	}
	for _, p := range paths {
		src, err := s.tree.source(ctx, p, f)
		if err != nil {
			return err
		}
		if required != "" && src.IsDir() && len(src.Entry.Dir.Entries) == 0 {
			return s.tree.notFound(required)
		}
		s.plan.Sources = append(s.plan.Sources, src)
	}
	return nil
}

// cutPivot divides a source of COPY --parents where "/./" is in it: what is
// before it is not made in the destination. The pattern is relative to that.
func cutPivot(source string) (base, pattern string) {
	base, pattern, ok := strings.Cut(source, "/./")
	if !ok {
		base, pattern = "/", source
	}
	return base, strings.TrimPrefix(path.Join("/", pattern), "/")
}

// source finds the file or directory that the path p, which has no wildcards,
// leads to, and what of it the filter lets through.
func (t *Tree) source(ctx context.Context, p string, f filter) (copytree.Source, error) {
	src := copytree.Source{Name: path.Base(p)}
	e, n, parent, err := t.resolve(p)
	if err != nil {
		return src, err
	}
	src.Entry = e
	if n == nil {
		src.Parent = parent.Path
		return src, nil
	}
	if err := t.walk(ctx, n, f.descend(n.Path.String())); err != nil {
		return src, err
	}
	if n.weak && len(n.Entries) == 0 {
		return src, t.notFound(p)
	}
	if f.include != nil || !f.exclude.empty() {
		top := *e
		top.Dir = f.apply(n, "", f.include == nil, nil)
		src.Entry = &top
	}
	return src, nil
}

// descend returns a function that tells which directories below base, a path
// from the root of the tree, need not be walked; nil if all must be.
func (f filter) descend(base string) func(string) bool {
	if f.include == nil && f.exclude.empty() {
		return nil
	}
	prefix := len(base) + 1
	if base == "." {
		prefix = 0
	}
	return func(p string) bool {
		rel := p[prefix:]
		if f.include != nil && !f.include.maySelect(rel) {
			return false
		}
		excluded, _ := f.exclude.matchPath(rel)
		return !excluded || f.exclude.negated
	}
}

// apply returns what of the directory n, which is at rel below the source, is
// selected. included says that it matches an include pattern itself, and so
// does all in it then; info what is known about its exclusion.
func (f filter) apply(n *node, rel string, included bool, info matchInfo) *copytree.Dir {
	d := &copytree.Dir{Path: n.Path}
	for i, e := range n.Entries {
		p := path.Join(rel, e.Name.String())
		in := included
		if !in {
			in, _ = f.include.match(p, nil, nil)
		}
		self := f.exclude.info()
		out, _ := f.exclude.match(p, info, self)
		if !e.IsDir() {
			if in && !out {
				d.Entries = append(d.Entries, e)
			}
			continue
		}
		if out && !f.exclude.negated {
			continue
		}
		dir := *e
		dir.Dir = f.apply(n.subs[i], p, in, self)
		dir.Implied = !in || out
		if dir.Implied && len(dir.Dir.Entries) == 0 {
			continue
		}
		d.Entries = append(d.Entries, &dir)
	}
	return d
}

// glob returns the paths that p, which is absolute and may have wildcards,
// matches, in lexical order of each directory. Symbolic links are followed
// before the first wildcard only; "*" matches no slash. (ResolveWildcards in
// fsutil, which matches every path of the tree.)
func (t *Tree) glob(ctx context.Context, p string) ([]string, error) {
	if !hasWildcards(p) {
		return []string{p}, nil
	}
	elems := strings.Split(p[1:], "/")
	first := slices.IndexFunc(elems, hasWildcards)
	if _, err := filepath.Match(path.Join(elems[first:]...), ""); err != nil {
		return nil, fmt.Errorf("source %q: %w", p, err)
	}
	base := "/" + path.Join(elems[:first]...)
	_, n, _, err := t.resolve(base)
	if err != nil || n == nil {
		return nil, err
	}
	if n.weak {
		if err := t.walk(ctx, n, nil); err != nil {
			return nil, err
		}
		if len(n.Entries) == 0 {
			return nil, t.notFound(base)
		}
	}
	return t.match(ctx, n, base, elems[first:], nil)
}

// match appends to found the paths below n, which is at dir, that match.
func (t *Tree) match(ctx context.Context, n *node, dir string, elems []string, found []string) ([]string, error) {
	if err := t.walk(ctx, n, func(string) bool { return false }); err != nil {
		return nil, err
	}
	for i, e := range n.Entries {
		name := e.Name.String()
		if ok, _ := filepath.Match(elems[0], name); !ok {
			continue
		}
		if len(elems) == 1 {
			found = append(found, path.Join(dir, name))
			continue
		}
		if !e.IsDir() {
			continue
		}
		var err error
		if found, err = t.match(ctx, n.subs[i], path.Join(dir, name), elems[1:], found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// hasWildcards tells whether a source has more than letters. A backslash takes
// the meaning of the next byte, but stays in the name where there is no
// wildcard, as in BuildKit.
func hasWildcards(s string) bool {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '*', '?', '[':
			return true
		case '\\':
			i++
		}
	}
	return false
}

// maxLinks is how many symbolic links a source may lead through.
const maxLinks = 255

// resolve follows the absolute path p from the top of the tree, symbolic links
// included: their targets are in the tree too, and ignored files are not
// there. For a directory it returns its node, for others the node that they
// are in.
func (t *Tree) resolve(p string) (e *copytree.Entry, dir, parent *node, err error) {
	at := []*node{t.top}
	todo := strings.Split(p, "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = at[:max(len(at)-1, 1)]
			continue
		}
		here := at[len(at)-1]
		e, sub, _, err := t.lookup(here, name)
		switch {
		case err != nil:
			return nil, nil, nil, err
		case e == nil:
			return nil, nil, nil, t.notFound(p)
		case sub != nil:
			at = append(at, sub)
			continue
		case e.IsSymlink():
			if links++; links > maxLinks {
				return nil, nil, nil, fmt.Errorf("%q: too many symbolic links", p)
			}
			if path.IsAbs(e.Link) {
				at = at[:1]
			}
			todo = append(strings.Split(e.Link, "/"), todo...)
			continue
		case slices.ContainsFunc(todo, func(s string) bool { return s != "" && s != "." }):
			return nil, nil, nil, t.notFound(p)
		}
		return e, nil, here, nil
	}
	n := at[len(at)-1]
	return n.entry, n, nil, nil
}

// notFound makes the error for a path that is not in the tree, and finds out
// whether an ignore pattern is the reason.
func (t *Tree) notFound(p string) error {
	e := &NotFoundError{Path: p}
	rule := t.Why(p)
	if rule == nil || !rule.Excludes {
		return e
	}
	f, err := sys.OpenInRoot(t.root, p, unix.O_PATH, 0)
	if err != nil {
		return e
	}
	f.Close()
	e.Pattern, e.File, e.Line = rule.Pattern, rule.File, rule.Line
	return e
}
