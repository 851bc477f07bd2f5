// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"builder/cache"
	"builder/cdi"
	"builder/internal/sys"
	"builder/mount"
	"builder/snapshot"
)

// mountSpec says what is mounted for a process, in a form that can be kept.
type mountSpec struct {
	Type     string `json:"type"` // that of --mount, or script or volume
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	// Source is a path: in the snapshot or cache, or, of a volume, of the
	// machine.
	Source   string        `json:"source,omitempty"`
	Size     int64         `json:"size,omitempty"`     // tmpfs
	Cache    string        `json:"cache,omitempty"`    // its name
	Sharing  cache.Sharing `json:"sharing,omitempty"`  // of the cache
	Snapshot snapshot.ID   `json:"snapshot,omitempty"` // bind
	Script   []byte        `json:"script,omitempty"`   // the file Source in a directory
	ID       string        `json:"id,omitempty"`       // of a secret or agent
	Mode     uint32        `json:"mode,omitempty"`     // of the secret's file or agent's socket
	UID      int           `json:"uid,omitempty"`
	GID      int           `json:"gid,omitempty"`
	Scratch  bool          `json:"scratch,omitempty"` // volume: what is written is thrown away

	fill func(dir *os.File) error // gives a new cache its content; nil for none
}

// String names the mount in errors.
func (s mountSpec) String() string {
	switch s.Type {
	case "script":
		return "here-document"
	case "volume":
		return "--volume " + s.Source + ":" + s.Target
	}
	return fmt.Sprintf("--mount=type=%s,target=%s", s.Type, s.Target)
}

// mounter makes the mounts of one process and holds what they stand on.
type mounter struct {
	env     Env
	secrets map[string][]byte
	agents  map[string]Agent
	devices *cdi.Registry
	wait    func(cache string) // called when a cache is waited for
	caches  map[string]string  // cache mounts in use, with their directories
	undo    []func() error
}

// release gives everything up, whatever was made. It is called once.
func (m *mounter) release() error {
	var errs []error
	for _, f := range slices.Backward(m.undo) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

func (m *mounter) close(f *os.File) *os.File {
	m.undo = append(m.undo, f.Close)
	return f
}

// all makes mounts, those above others first.
func (m *mounter) all(ctx context.Context, specs []mountSpec) ([]mount.Mount, error) {
	slices.SortStableFunc(specs, func(a, b mountSpec) int { return strings.Compare(a.Target, b.Target) })
	if err := m.lockCaches(ctx, specs); err != nil {
		return nil, err
	}
	var out []mount.Mount
	for _, spec := range specs {
		made, err := m.mount(ctx, spec)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", spec, err)
		}
		out = append(out, made)
	}
	return out, nil
}

func (m *mounter) mount(ctx context.Context, spec mountSpec) (made mount.Mount, err error) {
	made = mount.Mount{Type: mount.Bind, Target: spec.Target, ReadOnly: spec.ReadOnly}
	switch spec.Type {
	case "tmpfs":
		made.Type, made.Size, made.NoSuid = mount.Tmpfs, spec.Size, true
	case "cache":
		made.Tree, err = m.openCache(ctx, spec)
	case "bind":
		made.Inside, made.Tree, err = m.openBind(ctx, spec)
	case "script":
		made.Source, err = m.writeScript(spec)
	case "secret":
		err = m.openSecret(spec, &made)
	case "ssh":
		err = m.openAgent(spec, &made)
	case "volume":
		err = m.openVolume(spec, &made)
	default:
		err = errors.New("unknown type of mount")
	}
	return made, err
}

// lockCaches opens the caches of a step that can be in one place only, where nothing
// is mounted: in an order that is the same for all, as others wait for them.
func (m *mounter) lockCaches(ctx context.Context, specs []mountSpec) error {
	if !m.env.RootFS.Snapshots().Copies() {
		return nil
	}
	caches := map[string]mountSpec{}
	for _, spec := range specs {
		if spec.Type != "cache" {
			continue
		}
		if _, twice := caches[spec.Cache]; twice {
			return fmt.Errorf("%s: a cache can't be in two places where nothing can be mounted", spec)
		}
		if spec.Sharing == cache.SharingShared {
			spec.Sharing = cache.SharingLocked
		}
		caches[spec.Cache] = spec
	}
	for _, name := range slices.Sorted(maps.Keys(caches)) {
		if _, err := m.useCache(ctx, caches[name]); err != nil {
			return fmt.Errorf("%s: %w", caches[name], err)
		}
	}
	return nil
}

// useCache opens a cache unless the step has it already, and returns its
// directory.
func (m *mounter) useCache(ctx context.Context, spec mountSpec) (string, error) {
	if name, used := m.caches[spec.Cache]; used {
		return name, nil
	}
	c, err := m.env.Cache.OpenMount(ctx, spec.Cache, spec.Sharing, func() { m.wait(spec.Cache) })
	if err != nil {
		return "", err
	}
	m.undo = append(m.undo, c.Release)
	if m.caches == nil {
		m.caches = map[string]string{}
	}
	m.caches[spec.Cache] = c.Dir
	if !c.Fresh || spec.fill == nil {
		return c.Dir, nil
	}
	dir, err := os.Open(c.Dir)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	if err := spec.fill(dir); err != nil {
		return "", errors.Join(err, os.RemoveAll(c.Dir))
	}
	return c.Dir, nil
}

// openCache opens what is shown of a cache mount. A step that mounts a cache
// twice has it once.
func (m *mounter) openCache(ctx context.Context, spec mountSpec) (*os.File, error) {
	name, err := m.useCache(ctx, spec)
	if err != nil {
		return nil, err
	}
	dir, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	sub, err := openPath(dir, spec.Source)
	if err != nil {
		return nil, err
	}
	return m.close(sub), nil
}

// openBind opens what a bind mount shows. A writable one gets a layer of its
// own for what is written, which is thrown away.
func (m *mounter) openBind(ctx context.Context, spec mountSpec) (root, sub *os.File, err error) {
	if spec.ReadOnly {
		root, err = m.env.RootFS.Snapshots().View(ctx, spec.Snapshot)
	} else {
		var active snapshot.Active
		if active, err = m.env.RootFS.Prepare(ctx, spec.Snapshot); err != nil {
			return nil, nil, err
		}
		m.undo = append(m.undo, func() error { return discard(active) })
		root, err = active.Mount()
	}
	if err != nil {
		return nil, nil, err
	}
	m.close(root)
	if sub, err = openPath(root, spec.Source); err != nil {
		return nil, nil, err
	}
	return root, m.close(sub), nil
}

// writeScript makes a directory with a here-document in it.
func (m *mounter) writeScript(spec mountSpec) (string, error) {
	dir, err := m.env.Store.TempDir()
	if err != nil {
		return "", err
	}
	m.undo = append(m.undo, func() error { return os.RemoveAll(dir) })
	f, err := os.OpenFile(filepath.Join(dir, spec.Source), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return "", err
	}
	_, err = f.Write(spec.Script)
	return dir, errors.Join(err, f.Chmod(0o755), f.Close(), os.Chmod(dir, 0o755))
}

// openVolume opens a directory or file of the machine.
func (m *mounter) openVolume(spec mountSpec, made *mount.Mount) error {
	made.Source, made.Recursive = spec.Source, true
	if !spec.Scratch {
		return nil
	}
	dir, err := m.env.Store.TempDir()
	if err != nil {
		return err
	}
	m.undo = append(m.undo, func() error { return os.RemoveAll(dir) })
	o := mount.Overlay{
		Lower: []string{spec.Source}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"),
		Volatile: true, UserXattr: m.env.RootFS.Snapshots().UserXattr(),
	}
	if err := errors.Join(os.Mkdir(o.Upper, 0o755), os.Mkdir(o.Work, 0o755), sys.CopyDirAttributes(spec.Source, o.Upper)); err != nil {
		return err
	}
	root, err := o.Open()
	if err != nil {
		return err
	}
	made.Tree = m.close(root)
	return nil
}

// openPath opens a path below root, whatever it is, without reading it.
func openPath(root *os.File, name string) (*os.File, error) {
	f, err := sys.OpenInRoot(root, path.Join("/", name), sys.PathOnly, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%q: not found", path.Join("/", name))
	}
	return f, err
}
