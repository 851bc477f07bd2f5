// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"syscall"

	"builder/buildcontext"
	"builder/cache"
	owners "builder/internal/owner"
	"builder/snapshot"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// runMount is one --mount of a RUN that shows files.
type runMount struct {
	*instructions.Mount
	from      *stage // nil for the build context, or for none
	target    string // absolute
	namespace string // BUILDKIT_CACHE_MOUNT_NS
}

func (p *plan) newRunMount(s *state, m *instructions.Mount, from *stage) (*runMount, error) {
	rm := &runMount{Mount: m, from: from, target: s.mountTarget(m.Target), namespace: p.opts.Args["BUILDKIT_CACHE_MOUNT_NS"]}
	if rm.target == "/" {
		return nil, fmt.Errorf("invalid mount target %q", rm.target)
	}
	return rm, nil
}

// mountTarget is the absolute path of a mount's target.
func (s *state) mountTarget(target string) string {
	if path.IsAbs(path.Clean(target)) {
		return path.Clean(target)
	}
	return path.Join("/", s.dir(), target)
}

// cacheID is the id of a cache mount.
func (m *runMount) cacheID() string {
	if m.CacheID != "" {
		return m.CacheID
	}
	return path.Clean(m.Target)
}

// ownRoot says that the cache's directory is made with an owner and mode of
// its own, in the place of what from= has.
func (m *runMount) ownRoot() bool {
	return path.Join("/", m.Source) == "/" && (m.UID != nil || m.GID != nil || m.Mode != nil)
}

// cacheName tells cache mounts apart: by namespace and id and, where one begins
// with something in it, by that.
func (m *runMount) cacheName(ctx context.Context, r *runner) (string, error) {
	name := m.namespace + "/" + m.cacheID()
	if m.from != nil {
		from, err := m.origin(ctx, r)
		if err != nil {
			return "", err
		}
		name += fmt.Sprintf("\x00from %s %s", from, path.Join("/", m.Source))
	}
	if m.ownRoot() {
		name += fmt.Sprintf("\x00owner %d:%d %o", number(m.UID), number(m.GID), m.rootMode())
	}
	return name, nil
}

// origin names where the first content of a cache mount comes from.
func (m *runMount) origin(ctx context.Context, r *runner) (string, error) {
	if m.from.tree != nil {
		return m.content(ctx, r)
	}
	return r.stages[m.from].name().here, nil
}

func (m *runMount) rootMode() os.FileMode {
	if m.Mode == nil {
		return 0o755
	}
	return os.FileMode(*m.Mode & 0o777)
}

// sharing is the mode of a cache mount.
func (m *runMount) sharing() cache.Sharing {
	if m.CacheSharing == "" {
		return cache.SharingShared
	}
	return cache.Sharing(m.CacheSharing)
}

// request selects what a bind mount shows.
func (m *runMount) request() buildcontext.Request {
	return buildcontext.Request{Sources: []string{path.Join("/", m.Source)}, Dest: bindRoot}
}

// bindRoot is where a bind mount's files are put in their snapshot.
const bindRoot = "/mount"

// key adds what BuildKit's key has. Which cache it is, and how it is shared,
// counts only for the one that is named by its target.
func (m *runMount) key(ctx context.Context, r *runner, h *cache.Hash) error {
	h.Add("mount", string(m.Type))
	h.Add("target", m.target)
	h.Add("readonly", strconv.FormatBool(m.ReadOnly))
	switch m.Type {
	case instructions.MountTypeTmpfs:
		h.Add("size", strconv.FormatInt(m.SizeLimit, 10))
		return nil
	case instructions.MountTypeCache:
		if m.cacheID() == m.target && m.sharing() == cache.SharingShared {
			h.Add("id", m.namespace+"/"+m.cacheID())
		}
		if m.ownRoot() {
			h.Add("owner", fmt.Sprintf("%d:%d %o", number(m.UID), number(m.GID), m.rootMode()))
			return nil
		}
		if m.from == nil {
			return nil
		}
	}
	content, err := m.content(ctx, r)
	if err != nil {
		return fmt.Errorf("--mount=type=%s,source=%s: %w", m.Type, m.Source, err)
	}
	h.Add("content", content)
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
	return r.memo(ctx, run.name(), m.request(), digest)
}

// resolve says what is to be mounted.
func (m *runMount) resolve(ctx context.Context, r *runner) (mountSpec, error) {
	spec := mountSpec{Type: string(m.Type), Target: m.target, ReadOnly: m.ReadOnly}
	switch m.Type {
	case instructions.MountTypeTmpfs:
		spec.Size = m.SizeLimit
	case instructions.MountTypeCache:
		name, err := m.cacheName(ctx, r)
		if err != nil {
			return spec, err
		}
		spec.Cache, spec.Sharing = name, m.sharing()
		spec.Source = path.Join("/", m.Source)
		if m.from != nil || m.ownRoot() {
			if spec.Source, err = m.cacheSource(ctx, r); err != nil {
				return spec, err
			}
			spec.fill = func(dir *os.File) error { return m.fillCache(ctx, r, dir) }
		}
	case instructions.MountTypeBind:
		id, source, err := m.bindSnapshot(ctx, r)
		if err != nil {
			return spec, err
		}
		spec.Snapshot, spec.Source = id, path.Join("/", source)
	}
	return spec, nil
}

// fillCache gives a new cache mount its first content, owner and mode.
func (m *runMount) fillCache(ctx context.Context, r *runner, dir *os.File) error {
	if m.ownRoot() {
		return errors.Join(owners.Chown(dir, number(m.UID), number(m.GID)), dir.Chmod(m.rootMode()))
	}
	sel, err := m.seed(ctx, r)
	if err != nil {
		return err
	}
	if _, err = sel.Copy(ctx, dir, buildcontext.CopyOptions{}); err != nil || sel.File() != "" {
		return err
	}
	return m.dress(ctx, r, dir)
}

// seed selects the first content of a cache mount.
func (m *runMount) seed(ctx context.Context, r *runner) (*buildcontext.Selection, error) {
	tree, err := r.tree(ctx, m.from)
	if err != nil {
		return nil, err
	}
	return tree.Select(ctx, buildcontext.Request{Sources: []string{path.Join("/", m.Source)}, Dest: "/"})
}

// cacheSource is what is mounted of a cache that has a first content: all, or
// the file that it is.
func (m *runMount) cacheSource(ctx context.Context, r *runner) (string, error) {
	if m.ownRoot() {
		return "/", nil
	}
	sel, err := m.seed(ctx, r)
	if err != nil {
		return "", err
	}
	return "/" + sel.File(), nil
}

// dress gives a directory the owner and mode of the mount's source.
func (m *runMount) dress(ctx context.Context, r *runner, dir *os.File) error {
	id, source, err := m.bindSnapshot(ctx, r)
	if err != nil {
		return err
	}
	root, err := r.env.RootFS.Snapshots().View(ctx, id)
	if err != nil {
		return err
	}
	defer root.Close()
	from, err := openPath(root, source)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	return errors.Join(owners.Chown(dir, int(st.Uid), int(st.Gid)), dir.Chmod(info.Mode()))
}

func number(id *uint64) int {
	if id == nil {
		return 0
	}
	return int(*id)
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
