// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"

	"builder/buildcontext"
	"builder/cache"
	"builder/internal/sys"
	"builder/mount"
	"builder/progress"
	"builder/snapshot"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// runMount is one --mount of a RUN.
type runMount struct {
	*instructions.Mount
	from   *stage // nil for the build context, or for none
	target string // absolute
}

// newRunMount returns nil for a mount that is not made: a secret or an agent
// that nobody gave and that the step can do without.
func newRunMount(s *state, m *instructions.Mount, from *stage) (*runMount, error) {
	rm := &runMount{Mount: m, from: from, target: path.Clean(m.Target)}
	switch m.Type {
	case instructions.MountTypeSecret, instructions.MountTypeSSH:
		if m.Required {
			return nil, fmt.Errorf("RUN --mount=type=%s: %q is required, and giving one to a build is not supported yet", m.Type, m.CacheID)
		}
		return nil, nil
	case instructions.MountTypeBind, instructions.MountTypeCache, instructions.MountTypeTmpfs:
	default:
		return nil, fmt.Errorf("RUN --mount=type=%s is not supported", m.Type)
	}
	if !path.IsAbs(rm.target) {
		rm.target = path.Join("/", s.dir(), m.Target)
	}
	if rm.target == "/" {
		return nil, fmt.Errorf("invalid mount target %q", rm.target)
	}
	return rm, nil
}

// id names a cache mount.
func (m *runMount) id() string {
	if m.CacheID != "" {
		return m.CacheID
	}
	return path.Clean(m.Target)
}

// request selects what a bind mount shows.
func (m *runMount) request() buildcontext.Request {
	return buildcontext.Request{Sources: []string{path.Join("/", m.Source)}, Dest: bindRoot}
}

// bindRoot is where a bind mount's files are put in their snapshot.
const bindRoot = "/mount"

func (m *runMount) key(ctx context.Context, r *runner, _ *step, h *cache.Hash) error {
	h.Add("mount", string(m.Type))
	h.Add("target", m.target)
	h.Add("readonly", strconv.FormatBool(m.ReadOnly))
	switch m.Type {
	case instructions.MountTypeTmpfs:
		h.Add("size", strconv.FormatInt(m.SizeLimit, 10))
	case instructions.MountTypeCache:
		h.Add("id", m.id())
		h.Add("sharing", string(m.CacheSharing))
		h.Add("source", path.Join("/", m.Source))
		if m.from != nil {
			from, err := m.origin(ctx, r)
			if err != nil {
				return err
			}
			h.Add("from", from)
		}
	case instructions.MountTypeBind:
		content, err := m.content(ctx, r)
		if err != nil {
			return fmt.Errorf("--mount=type=bind,source=%s: %w", m.Source, err)
		}
		h.Add("content", content)
	}
	return nil
}

func (m *runMount) content(ctx context.Context, r *runner) (string, error) {
	digest := func() (string, error) {
		tree, err := r.tree(ctx, m.from)
		if err != nil {
			return "", err
		}
		sel, err := tree.Select(ctx, m.request())
		if err != nil {
			return "", err
		}
		d, err := sel.Digest(ctx)
		return d.String(), err
	}
	if m.from == nil || m.from.tree != nil {
		return digest()
	}
	run, err := r.wait(ctx, m.from)
	if err != nil {
		return "", err
	}
	return r.memo(run.ident, m.request(), digest)
}

// origin names where the first content of a cache mount comes from.
func (m *runMount) origin(ctx context.Context, r *runner) (string, error) {
	if m.from.tree != nil {
		return m.content(ctx, r)
	}
	return r.stages[m.from].ident, nil
}

// open makes the mount. done gives it up.
func (m *runMount) open(ctx context.Context, r *runner, s *step) (made mount.Mount, done func() error, err error) {
	made = mount.Mount{Type: mount.Bind, Target: m.target, ReadOnly: m.ReadOnly}
	switch m.Type {
	case instructions.MountTypeTmpfs:
		made.Type, made.Size = mount.Tmpfs, m.SizeLimit
		return made, nil, nil
	case instructions.MountTypeCache:
		made.Tree, done, err = m.openCache(ctx, r, s)
	case instructions.MountTypeBind:
		made.Tree, done, err = m.openBind(ctx, r)
	}
	return made, done, err
}

func (m *runMount) openCache(ctx context.Context, r *runner, s *step) (*os.File, func() error, error) {
	sharing := cache.Sharing(m.CacheSharing)
	if sharing == "" {
		sharing = cache.SharingShared
	}
	cm, err := r.env.Cache.OpenMount(ctx, m.id(), sharing, func() {
		r.event(s.name, progress.Event{Status: &progress.Status{ID: "mount", Action: "waiting for the user of cache mount " + m.id()}})
	})
	if err != nil {
		return nil, nil, err
	}
	if cm.Fresh {
		if err := m.fillCache(ctx, r, cm.Dir); err != nil {
			return nil, cm.Release, errors.Join(err, os.RemoveAll(cm.Dir))
		}
	}
	dir, err := os.Open(cm.Dir)
	if err != nil {
		return nil, cm.Release, err
	}
	defer dir.Close()
	sub, err := openPath(dir, subSource(m.Source, m.from))
	if err != nil {
		return nil, cm.Release, err
	}
	return sub, func() error { return errors.Join(sub.Close(), cm.Release()) }, nil
}

// subSource is the part of a cache mount that is shown: with from=, source is
// where in that stage the first content comes from.
func subSource(source string, from *stage) string {
	if from != nil {
		return "/"
	}
	return source
}

// fillCache gives a new cache mount its first content, owner and mode.
func (m *runMount) fillCache(ctx context.Context, r *runner, dir string) error {
	root, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if m.from != nil {
		tree, err := r.tree(ctx, m.from)
		if err != nil {
			return err
		}
		sel, err := tree.Select(ctx, buildcontext.Request{Sources: []string{path.Join("/", m.Source)}, Dest: "/"})
		if err != nil {
			return err
		}
		if _, err := sel.Copy(ctx, root, buildcontext.CopyOptions{}); err != nil {
			return err
		}
	} else if sub := path.Join("/", m.Source); sub != "/" {
		made, err := sys.MkdirAllInRoot(root, sub, 0o755, nil)
		if err != nil {
			return err
		}
		made.Close()
	}
	if m.UID == nil && m.GID == nil && m.Mode == nil {
		return nil
	}
	mode := os.FileMode(0o755)
	if m.Mode != nil {
		mode = os.FileMode(*m.Mode & 0o777)
	}
	return errors.Join(root.Chown(number(m.UID), number(m.GID)), root.Chmod(mode))
}

func number(id *uint64) int {
	if id == nil {
		return 0
	}
	return int(*id)
}

// openBind opens what a bind mount shows. A writable one gets a layer of its
// own for what is written, which is thrown away.
func (m *runMount) openBind(ctx context.Context, r *runner) (*os.File, func() error, error) {
	id, source, err := m.bindSnapshot(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	var root *os.File
	var undo func() error
	if m.ReadOnly {
		root, err = r.env.RootFS.Snapshots().View(ctx, id)
	} else {
		var active snapshot.Active
		if active, err = r.env.RootFS.Prepare(ctx, id); err != nil {
			return nil, nil, err
		}
		undo = func() error { return discard(active) }
		root, err = active.Mount()
	}
	if err != nil {
		return nil, undo, err
	}
	sub, err := openPath(root, source)
	if err != nil {
		root.Close()
		return nil, undo, err
	}
	return sub, func() error {
		err := errors.Join(sub.Close(), root.Close())
		if undo != nil {
			err = errors.Join(err, undo())
		}
		return err
	}, nil
}

// bindSnapshot returns the snapshot that a bind mount shows and the path in
// it. Of the build context a copy of what is mounted is made and kept like a
// step's result: so the step sees owners and ignored files as BuildKit's does,
// and not what is changed in the directory meanwhile.
func (m *runMount) bindSnapshot(ctx context.Context, r *runner) (snapshot.ID, string, error) {
	if m.from != nil && m.from.tree == nil {
		id, err := r.stages[m.from].snap(ctx)
		return id, m.Source, err
	}
	tree, err := r.tree(ctx, m.from)
	if err != nil {
		return "", "", err
	}
	sel, err := tree.Select(ctx, m.request())
	if err != nil {
		return "", "", err
	}
	d, err := sel.Digest(ctx)
	if err != nil {
		return "", "", err
	}
	h := cache.NewHash("bind")
	h.Add("content", d.String())
	if res, ok := r.cached(ctx, h.Sum()); ok {
		return res.snap, bindRoot, nil
	}
	id, err := r.copyOf(ctx, sel)
	if err != nil {
		return "", "", err
	}
	rec := &cache.Record{Key: h.Sum(), Snapshot: string(id), Instruction: "bind " + m.Source, Created: r.env.Now(), Fields: h.Fields()}
	return id, bindRoot, r.env.Cache.Put(rec)
}

// copyOf commits a selection as a snapshot on nothing.
func (r *runner) copyOf(ctx context.Context, sel *buildcontext.Selection) (snapshot.ID, error) {
	active, err := r.env.RootFS.Prepare(ctx, "")
	if err != nil {
		return "", err
	}
	root, err := active.Mount()
	if err != nil {
		return "", err
	}
	res, err := sel.Copy(ctx, root, buildcontext.CopyOptions{Epoch: r.opts.Epoch})
	root.Close()
	if err == nil && len(res.Changed) > 0 {
		err = fmt.Errorf("%s changed while it was copied for a bind mount", res.Changed[0].Path)
	}
	if err != nil {
		return "", errors.Join(err, discard(active))
	}
	return active.Commit(ctx, "")
}

// openPath opens a path below root, whatever it is, without reading it.
func openPath(root *os.File, name string) (*os.File, error) {
	f, err := sys.OpenInRoot(root, path.Join("/", name), sys.PathOnly, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%q: not found", path.Join("/", name))
	}
	return f, err
}
