// SPDX-License-Identifier: Apache-2.0

package buildcontext

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"builder/internal/copytree"
	"builder/internal/sys"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// errNoDigest says that BuildKit's digest of some files is not worked out.
var errNoDigest = errors.New("no digest of BuildKit's form")

// BuildKitDigest returns the digest that BuildKit's cache has for what the
// sources select of a build context (cache/contenthash and solver/llbsolver/ops
// in its repository): every file is read. It is "" where one of the sources
// selects nothing, or files of a kind that it is not worked out for.
func (t *Tree) BuildKitDigest(ctx context.Context, sources []string) (digest.Digest, error) {
	var sums []string
	for _, src := range withoutNested(sources) {
		sum, err := t.sourceDigest(ctx, src)
		var missing *NotFoundError
		if errors.Is(err, errNoDigest) || errors.As(err, &missing) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		sums = append(sums, sum)
	}
	return digest.FromString(strings.Join(sums, "\x00")), nil
}

// withoutNested are the absolute sources, sorted, each once, without those that
// are in another one. Patterns stay.
func withoutNested(sources []string) []string {
	var plain, patterns, out []string
	for _, s := range sources {
		s = path.Join("/", s)
		if isPattern(s) {
			patterns = append(patterns, s)
		} else {
			plain = append(plain, s)
		}
	}
	for _, s := range plain {
		if !slices.Contains(out, s) && !slices.ContainsFunc(plain, func(dir string) bool {
			return s != dir && strings.HasPrefix(s, strings.TrimSuffix(dir, "/")+"/")
		}) {
			out = append(out, s)
		}
	}
	out = append(out, patterns...)
	slices.Sort(out)
	return out
}

func isPattern(s string) bool { return strings.ContainsAny(s, `*?[\`) }

// sourceDigest is that of one source.
func (t *Tree) sourceDigest(ctx context.Context, src string) (string, error) {
	sel, err := t.Select(ctx, Request{Sources: []string{src}, Dest: "/"})
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	b := &buildKitHasher{tree: t, plan: &sel.plan}
	if len(sel.plan.Sources) == 0 {
		return "", errNoDigest
	}
	if !isPattern(src) {
		s := sel.plan.Sources[0]
		if s.IsDir() {
			return b.dir(s.Entry)
		}
		return b.file(s.Parent, s.Entry)
	}
	return b.matches(src, sel.plan.Sources)
}

// buildKitHasher computes digests of files, a header of theirs first, and of
// directories, from the digests of what is in them.
type buildKitHasher struct {
	tree *Tree
	plan *copytree.Plan
}

func sumOf(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }

// header is the digest of an entry before its bytes, in the form of docker's
// old tarsum. A directory has nothing else.
func (b *buildKitHasher) header(e *copytree.Entry) (hash.Hash, error) {
	h := sha256.New()
	mode := e.Stat.Mode & 0o7777
	size := int64(0)
	var typeflag byte
	switch e.Stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		typeflag, size = '0', e.Stat.Size
	case unix.S_IFDIR:
		typeflag = '5'
	case unix.S_IFLNK:
		typeflag, mode = '2', 0o777
	default:
		return nil, errNoDigest
	}
	owner := b.plan.OwnerOf(e)
	for _, field := range [][2]string{
		{"name", ""}, {"mode", strconv.FormatUint(uint64(mode), 10)},
		{"uid", strconv.FormatUint(uint64(owner.UID), 10)}, {"gid", strconv.FormatUint(uint64(owner.GID), 10)},
		{"size", strconv.FormatInt(size, 10)}, {"typeflag", string(typeflag)}, {"linkname", e.Link},
		{"uname", ""}, {"gname", ""}, {"devmajor", "0"}, {"devminor", "0"},
	} {
		h.Write([]byte(field[0] + field[1]))
	}
	for _, x := range e.Xattrs {
		h.Write([]byte(x.Name + x.Value))
	}
	return h, nil
}

// file is the digest of what is no directory.
func (b *buildKitHasher) file(dir copytree.Name, e *copytree.Entry) (string, error) {
	h, err := b.header(e)
	if err != nil || !e.IsRegular() {
		return sumOr(h, err)
	}
	f, err := sys.OpenInRoot(b.tree.root, dir.Join(e.Name).String(), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", dir.Join(e.Name), err)
	}
	defer f.Close()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", dir.Join(e.Name), err)
	}
	return sumOf(h), nil
}

func sumOr(h hash.Hash, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return sumOf(h), nil
}

// top is the digest of a directory itself. The top of a context has none of
// its own.
func (b *buildKitHasher) top(e *copytree.Entry) (string, error) {
	if e.Dir.Path.String() == "." {
		return sumOf(sha256.New()), nil
	}
	return sumOr(b.header(e))
}

// dir is the digest of a directory with what is in it.
func (b *buildKitHasher) dir(e *copytree.Entry) (string, error) {
	h := sha256.New()
	sum, err := b.top(e)
	if err != nil {
		return "", err
	}
	h.Write([]byte("\x00" + sum))
	for _, child := range e.Dir.Entries {
		if child.IsDir() {
			sum, err = b.dir(child)
		} else {
			sum, err = b.file(e.Dir.Path, child)
		}
		if err != nil {
			return "", err
		}
		h.Write([]byte("\x00" + child.Name.String() + sum))
	}
	return sumOf(h), nil
}

// pathSum is the digest of a file, or of a directory itself, by its path.
type pathSum struct{ path, sum string }

// matches is the digest of what a pattern matches: of every file by its path.
func (b *buildKitHasher) matches(pattern string, sources []copytree.Source) (string, error) {
	var all []pathSum
	for _, s := range sources {
		at := s.Parent.Join(s.Entry.Name).String()
		if s.IsDir() {
			at = s.Entry.Dir.Path.String()
		}
		name := "/" + at
		if dir := path.Dir(pattern); !isPattern(dir) {
			name = path.Join(dir, s.Name)
		} else if path.Base(name) != s.Name {
			return "", errNoDigest
		}
		var sum string
		var err error
		switch {
		case s.IsDir() && name == "/"+at:
			all, err = b.flat(all, name, s.Entry)
		case s.IsDir(): // by a link, and whole
			sum, err = b.dir(s.Entry)
		default:
			sum, err = b.file(s.Parent, s.Entry)
		}
		if err != nil {
			return "", err
		}
		if sum != "" {
			all = append(all, pathSum{name, sum})
		}
	}
	if len(all) == 1 && path.Base(pattern) == path.Base(all[0].path) {
		return all[0].sum, nil
	}
	h := sha256.New()
	prefix := plainPrefix(pattern)
	for _, p := range all {
		h.Write([]byte(strings.ReplaceAll(strings.TrimPrefix(p.path, prefix), "/", "\x00") + p.sum))
	}
	return sumOf(h), nil
}

// plainPrefix is the directory of a pattern that is none itself; "" at the top.
func plainPrefix(pattern string) string {
	for isPattern(pattern) {
		pattern = path.Dir(pattern)
	}
	return strings.TrimSuffix(pattern, "/")
}

func (b *buildKitHasher) flat(all []pathSum, name string, e *copytree.Entry) ([]pathSum, error) {
	sum, err := b.top(e)
	if err != nil {
		return nil, err
	}
	all = append(all, pathSum{name, sum})
	for _, child := range e.Dir.Entries {
		at := name + "/" + child.Name.String()
		if child.IsDir() {
			if all, err = b.flat(all, at, child); err != nil {
				return nil, err
			}
			continue
		}
		if sum, err = b.file(e.Dir.Path, child); err != nil {
			return nil, err
		}
		all = append(all, pathSum{at, sum})
	}
	return all, nil
}
