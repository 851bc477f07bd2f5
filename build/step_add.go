// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"unicode"

	"builder/buildcontext"
	"builder/dockerfile"
	"builder/progress"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"
)

// dispatchAdd makes the step of an ADD. Sources are copied in the order in
// which they stand, those of the build context that follow each other at once.
func (p *plan) dispatchAdd(st *stage, cmd command, c *instructions.AddCommand) error {
	op := &copyOp{chown: c.Chown, link: c.Link && c.Chmod == ""}
	request := func(unpack bool) buildcontext.Request {
		return buildcontext.Request{Dest: st.state.abs(c.DestPath), Exclude: c.ExcludePatterns, Mode: c.Chmod, Unpack: unpack}
	}
	var local *copyPart // that the next local source belongs to
	addLocal := func() *copyPart {
		if local == nil {
			local = &copyPart{req: request(c.Unpack == nil || *c.Unpack)}
			op.parts = append(op.parts, local)
		}
		return local
	}
	for _, src := range c.SourcePaths {
		u, err := newURLSource(src)
		if err != nil {
			return err
		}
		if err := checkChecksum(c, u != nil); err != nil {
			return err
		}
		if u == nil {
			p.checkSource(st.state, "Add", src)
			part := addLocal()
			part.req.Sources = append(part.req.Sources, src)
			continue
		}
		if err := u.setFlags(c); err != nil {
			return err
		}
		local = nil
		part := &copyPart{url: u, req: request(c.Unpack != nil && *c.Unpack && u.git == nil)}
		part.req.Sources = []string{u.selects()}
		op.parts = append(op.parts, part)
	}
	if len(c.SourceContents) > 0 {
		addLocal().addInline(c.SourceContents)
	}
	return p.addCopy(st, cmd, op, "ADD", c.SourcesAndDest)
}

func checkChecksum(c *instructions.AddCommand, remote bool) error {
	switch {
	case c.Checksum == "":
		return nil
	case len(c.SourcePaths) != 1:
		return errors.New("checksum can't be specified for multiple sources")
	case !remote:
		return errors.New("checksum requires HTTP(S) or Git sources")
	}
	return nil
}

// urlSource is what an ADD fetches: a file, or the tree of a Git repository.
type urlSource struct {
	url      string
	checksum digest.Digest // of a file, "" if none was given
	name     string        // of a file
	git      *dockerfile.GitRef

	mu   sync.Mutex
	tree *buildcontext.Tree // once it is fetched
}

// newURLSource reads a source of ADD; nil if it is a path in the context.
func newURLSource(src string) (*urlSource, error) {
	git, err := dockerfile.ParseGitRef(src)
	if err != nil {
		return nil, err
	}
	if git != nil && !git.LooksLocal {
		return &urlSource{url: src, git: git}, nil
	}
	if !strings.HasPrefix(src, "http://") && !strings.HasPrefix(src, "https://") {
		return nil, nil
	}
	u, err := url.Parse(src)
	if err != nil {
		return nil, fmt.Errorf("source URL: %w", err)
	}
	s := &urlSource{url: src, name: path.Base(u.Path)}
	switch {
	case s.name == "." || s.name == "/":
		s.name = "__unnamed__"
	case s.name == "..", strings.ContainsFunc(s.name, unicode.IsControl):
		return nil, fmt.Errorf("source URL %s: %q is no name for a file", u.Redacted(), s.name)
	}
	return s, nil
}

func (u *urlSource) kind() string {
	if u.git != nil {
		return "git ref"
	}
	return "URL"
}

// setFlags takes what the instruction's flags say about the source.
func (u *urlSource) setFlags(c *instructions.AddCommand) error {
	if u.git == nil {
		if c.Checksum == "" {
			return nil
		}
		d, err := digest.Parse(c.Checksum)
		if err == nil && d.Algorithm() != digest.SHA256 {
			err = fmt.Errorf("%s is not supported, want sha256", d.Algorithm())
		}
		if err != nil {
			return fmt.Errorf("--checksum=%s: %w", c.Checksum, err)
		}
		u.checksum = d
		return nil
	}
	if keep := c.KeepGitDir; keep != nil {
		if u.git.KeepGitDir != nil && *u.git.KeepGitDir != *keep {
			return errors.New("inconsistent keep-git-dir configuration: --keep-git-dir and the source's query differ")
		}
		u.git.KeepGitDir = keep
	}
	if c.Checksum != "" {
		if u.git.Checksum != "" && u.git.Checksum != c.Checksum {
			return fmt.Errorf("checksum mismatch: --checksum=%s and the source's %s", c.Checksum, u.git.Checksum)
		}
		u.git.Checksum = c.Checksum
	}
	return nil
}

// selects is the source's pattern in the tree that is fetched: all that is in
// it, or its only file, whose name may have wildcards.
func (u *urlSource) selects() string {
	if u.git != nil {
		return "/"
	}
	return "/*"
}

// resolve finds what identifies the content of the source.
func (u *urlSource) resolve(ctx context.Context, r *runner, s *step) (string, error) {
	if r.env.Remote == nil {
		return "", errors.New("this build can't fetch")
	}
	if u.git != nil {
		id, err := r.env.Remote.ResolveGit(ctx, *u.git, r.teller(s))
		return "git " + id, err
	}
	d, err := r.env.Remote.ResolveFile(ctx, u.url, u.checksum, r.teller(s))
	return "file " + d.String() + " " + u.name, err
}

// fetch fetches the source, once. The files are nobody's: 0:0, as a directory
// of the user's.
func (u *urlSource) fetch(ctx context.Context, r *runner, s *step) (*buildcontext.Tree, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.tree != nil {
		return u.tree, nil
	}
	dir, err := r.env.Store.TempDir()
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, "tree")
	if u.git != nil {
		err = r.env.Remote.FetchGit(ctx, *u.git, dir, r.teller(s))
	} else if err = os.Mkdir(dir, 0o755); err == nil {
		err = r.env.Remote.FetchFile(ctx, u.url, u.checksum, filepath.Join(dir, u.name), r.teller(s))
	}
	if err != nil {
		return nil, err
	}
	if u.tree, err = buildcontext.Open(dir, buildcontext.Options{}); err != nil {
		return nil, err
	}
	r.temp.add(u.tree)
	return u.tree, nil
}

// teller passes events on as those of a step.
func (r *runner) teller(s *step) func(progress.Event) {
	return func(e progress.Event) { r.event(s.name, e) }
}
