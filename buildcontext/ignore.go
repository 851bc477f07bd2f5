// SPDX-License-Identifier: Apache-2.0

package buildcontext

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/moby/patternmatcher/ignorefile"
)

// IgnoreFile is a file of ignore patterns.
type IgnoreFile struct {
	Name     string // its base name
	Patterns []string
	Lines    []int // of each pattern in the file
}

// maxIgnore bounds an ignore file, in bytes.
const maxIgnore = 16 << 20

// ReadIgnore reads the ignore patterns that belong to a Dockerfile from the
// first of some files that is there: mostly <Dockerfile>.dockerignore and
// .dockerignore. open opens them. If none is there the result is empty.
func ReadIgnore(open func(name string) (*os.File, error), names ...string) (IgnoreFile, error) {
	for _, name := range names {
		f, err := open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return IgnoreFile{}, fmt.Errorf("read ignore patterns: %w", err)
		}
		defer f.Close()
		ignore, err := parseIgnore(f)
		if err != nil {
			return IgnoreFile{}, fmt.Errorf("read ignore patterns of %q: %w", name, err)
		}
		ignore.Name = filepath.Base(name)
		return ignore, nil
	}
	return IgnoreFile{}, nil
}

func parseIgnore(r io.Reader) (IgnoreFile, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxIgnore+1))
	if err != nil {
		return IgnoreFile{}, err
	}
	if len(data) > maxIgnore {
		return IgnoreFile{}, fmt.Errorf("it has more than %d bytes", maxIgnore)
	}
	ignore := IgnoreFile{}
	if ignore.Patterns, err = ignorefile.ReadAll(bytes.NewReader(data)); err != nil {
		return IgnoreFile{}, err
	}
	// What ReadAll takes for a pattern: neither blank nor a comment.
	n := 0
	for line := range bytes.Lines(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))) {
		n++
		if line[0] != '#' && len(bytes.TrimSpace(line)) > 0 {
			ignore.Lines = append(ignore.Lines, n)
		}
	}
	return ignore, nil
}

// Rule is an ignore pattern that decided about a path.
type Rule struct {
	Pattern string // with its "!"
	File    string
	Line    int // 0 if unknown
	// Path is what the pattern matched: the path that was asked about, or a
	// directory above it.
	Path string
	// Excludes is false for a pattern that takes the path in again.
	Excludes bool
}

// Why tells which ignore pattern decided about a path; nil if none matches.
func (t *Tree) Why(name string) *Rule {
	name = Clean(name)
	m := t.ignore
	matched, by := m.matchPath(name)
	if by < 0 {
		return nil
	}
	p := &m.patterns[by]
	rule := &Rule{Pattern: p.text, File: t.opts.IgnoreFile, Excludes: matched, Path: name}
	if p.negate {
		rule.Pattern = "!" + p.text
	}
	if by < len(t.opts.IgnoreLines) {
		rule.Line = t.opts.IgnoreLines[by]
	}
	for i := range name {
		if name[i] == '/' && p.matches(name[:i]) {
			rule.Path = name[:i]
			break
		}
	}
	return rule
}

// matcher matches paths against a list of patterns as moby/patternmatcher
// does, but for many paths at once: it allocates nothing where no pattern is
// negated, is safe for concurrent use, and tries a regular expression only
// where comparing strings can't tell. A test compares the two.
type matcher struct {
	patterns []pattern
	negated  bool // a pattern begins with "!"
}

// pattern is one line of an ignore file.
type pattern struct {
	text   string // cleaned, without "!"
	negate bool
	kind   patternKind
	// A path that doesn't begin with head and end with tail can't match.
	// What else is needed depends on the kind.
	head, tail string
	re         *regexp.Regexp
}

type patternKind uint8

const (
	exact     patternKind = iota // the path is text
	prefix                       // it begins with head
	suffix                       // it ends with tail, or is tail without its slash
	oneElem                      // head, something without a slash, tail
	anyDir                       // "**/*" and tail, which has no slash
	viaRegexp                    // the expression matches
)

// matchInfo tells which patterns matched a directory or one above it. Nil is
// the information about the top.
type matchInfo []bool

func newMatcher(lines []string) (*matcher, error) {
	m := &matcher{}
	for _, line := range lines {
		text := strings.TrimSpace(line)
		if text == "" {
			continue
		}
		text = filepath.Clean(text)
		p := pattern{text: text}
		if text[0] == '!' {
			if len(text) == 1 {
				return nil, errors.New(`illegal exclusion pattern: "!"`)
			}
			p.negate, p.text = true, text[1:]
			m.negated = true
		}
		if _, err := filepath.Match(p.text, "."); err != nil {
			return nil, fmt.Errorf("pattern %q: %w", line, err)
		}
		if err := p.compile(); err != nil {
			return nil, fmt.Errorf("pattern %q: %w", line, filepath.ErrBadPattern)
		}
		m.patterns = append(m.patterns, p)
	}
	return m, nil
}

// compile finds out what kind of pattern p is. The kinds and the regular
// expression, oddities included, are those of patternmatcher: "\" before a
// letter reaches the expression as it is, so do "^", "|", "{" and "}", and "." of
// "(.*/)?" matches no newline.
func (p *pattern) compile() error {
	expr := []byte("^")
	p.kind = exact
	for i, rest := 0, p.text; rest != ""; i++ {
		r, n := utf8.DecodeRuneInString(rest)
		rest = rest[n:]
		switch {
		case r == '*' && strings.HasPrefix(rest, "*"):
			rest = strings.TrimPrefix(rest[1:], "/")
			switch {
			case rest != "":
				expr = append(expr, "(.*/)?"...)
				p.kind = viaRegexp
			case p.kind == exact:
				p.kind = prefix
			default:
				expr = append(expr, ".*"...)
				p.kind = viaRegexp
			}
			if i == 0 {
				p.kind = suffix
			}
		case r == '*':
			expr = append(expr, "[^/]*"...)
			p.kind = viaRegexp
		case r == '?':
			expr = append(expr, "[^/]"...)
			p.kind = viaRegexp
		case strings.ContainsRune(".+()$", r):
			expr = append(expr, '\\', byte(r))
		case r == '\\' && rest != "":
			r, n = utf8.DecodeRuneInString(rest)
			rest = rest[n:]
			expr = utf8.AppendRune(append(expr, '\\'), r)
			p.kind = viaRegexp
		case r == '[' || r == ']':
			expr = append(expr, byte(r))
			p.kind = viaRegexp
		default:
			expr = utf8.AppendRune(expr, r)
		}
	}
	switch p.kind {
	case prefix:
		p.head = p.text[:len(p.text)-2]
	case suffix:
		p.tail = p.text[2:]
	case viaRegexp:
		p.shorten()
		var err error
		p.re, err = regexp.Compile(string(expr) + "$")
		return err
	}
	return nil
}

// special are the bytes that make more of a pattern than its letters.
const special = `*?[]\^|{}`

// shorten finds the literal ends of a pattern that needs a regular expression,
// and the common forms that then need none.
func (p *pattern) shorten() {
	first, last := strings.IndexAny(p.text, special), strings.LastIndexAny(p.text, special)
	for i := range len(p.text) {
		if p.text[i] >= utf8.RuneSelf || p.text[i] == '\n' {
			return // bytes and runes differ where a name is not UTF-8
		}
	}
	if strings.ContainsAny(p.text, `[]\^|{}`) {
		if !strings.ContainsAny(p.text, "|{") { // either may make the head optional
			p.head = p.text[:first]
		}
		return
	}
	p.head, p.tail = p.text[:first], p.text[last+1:]
	switch middle := p.text[first : last+1]; {
	case middle == "*" && !strings.Contains(p.tail, "/"):
		p.kind = oneElem
	case middle == "**/*" && p.head == "" && !strings.Contains(p.tail, "/"):
		p.kind = anyDir
	case strings.Contains(middle, "**"):
		// "a/**/b" matches "a/b": the slash after "**" may stand for
		// the one before it.
		p.tail = strings.TrimPrefix(p.tail, "/")
	}
}

// matches tells whether p, whatever its sign, matches the path itself.
func (p *pattern) matches(path string) bool {
	switch p.kind {
	case exact:
		return path == p.text
	case prefix:
		return strings.HasPrefix(path, p.head)
	case suffix:
		return strings.HasSuffix(path, p.tail) || p.tail[0] == '/' && path == p.tail[1:]
	}
	if !strings.HasPrefix(path, p.head) || !strings.HasSuffix(path, p.tail) {
		return false
	}
	switch {
	case p.kind == oneElem:
		return len(path) >= len(p.head)+len(p.tail) &&
			strings.IndexByte(path[len(p.head):len(path)-len(p.tail)], '/') < 0
	case p.kind == anyDir && strings.IndexByte(path, '\n') < 0:
		return true
	}
	return p.re.MatchString(path)
}

// empty tells whether nothing is matched by m.
func (m *matcher) empty() bool { return len(m.patterns) == 0 }

// match tells whether path, the elements of which are divided by slashes, is
// matched, given what is known of the directory that it is in, and by which
// pattern. What is known of path is put into self, unless that is nil; it is
// needed only where patterns are negated, as nobody asks about the contents of
// a directory that matches otherwise.
func (m *matcher) match(path string, parent, self matchInfo) (matched bool, by int) {
	by = -1
	for i := range m.patterns {
		p := &m.patterns[i]
		hit := parent != nil && parent[i]
		if !hit {
			if p.negate != matched {
				continue
			}
			hit = p.matches(path)
		}
		if !hit {
			continue
		}
		if self != nil {
			self[i] = true
		}
		matched, by = !p.negate, i
		if !m.negated {
			break
		}
	}
	return matched, by
}

// info returns an empty information, nil where none is needed.
func (m *matcher) info() matchInfo {
	if !m.negated {
		return nil
	}
	return make(matchInfo, len(m.patterns))
}

// matchPath is match for a path of which nothing is known yet: every directory
// above it is tried too.
func (m *matcher) matchPath(path string) (matched bool, by int) {
	var parent matchInfo
	for i := range len(path) + 1 {
		if i < len(path) && path[i] != '/' {
			continue
		}
		self := m.info()
		matched, by = m.match(path[:i], parent, self)
		if matched && !m.negated {
			return matched, by
		}
		parent = self
	}
	return matched, by
}

// mayRescue tells whether a negated pattern may match something in the
// directory dir, which is matched itself. It says so too where it can't know.
func (m *matcher) mayRescue(dir string) bool {
	for i := range m.patterns {
		if p := &m.patterns[i]; p.negate && p.mayMatchBelow(dir) {
			return true
		}
	}
	return false
}

// maySelect tells whether one of the patterns may match dir, a directory above
// it or something in it.
func (m *matcher) maySelect(dir string) bool {
	for i := range m.patterns {
		if p := &m.patterns[i]; p.mayMatchBelow(dir) || p.text == dir || below(dir, p.text) {
			return true
		}
	}
	return false
}

// mayMatchBelow tells whether p may match something below dir of which it does
// not match a directory that it is in.
func (p *pattern) mayMatchBelow(dir string) bool {
	n := strings.IndexAny(p.text, special)
	switch {
	case n < 0:
		return below(p.text, dir)
	case strings.ContainsAny(p.text, "|{"):
		return true // in an expression they may make its beginning optional
	}
	head := p.text[:n]
	if len(head) > len(dir) {
		return strings.HasPrefix(head, dir) && head[len(dir)] == '/'
	}
	return strings.HasPrefix(dir, head)
}

// below tells whether path is in the directory dir or deeper.
func below(path, dir string) bool {
	return len(path) > len(dir) && path[len(dir)] == '/' && path[:len(dir)] == dir
}
