// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"builder/internal/atomicfile"
	"builder/internal/sys"
	"builder/mount"
)

// Overlay keeps snapshots as directories that overlayfs stacks.
//
//	ROOT/ID/fs         the committed tree
//	ROOT/ID/meta.json  parents and when it was written
//	ROOT/.empty        what the empty file system is mounted from
//	ROOT/.durable      boots, and until when all they wrote is on disk
//	ROOT/.dirty        there if something was committed since
//	ROOT/.copies       there if they were made where nothing can be mounted
//
// Nothing is flushed to disk when a snapshot is committed. meta.json holds the
// boot and the time since boot at which it was; [Overlay.Sync] flushes the file
// system and notes until when everything is safe. After an unclean restart
// what was not safe is not found any more: a power cut costs cache, nothing
// else.
//
// Where this process may not mount, trees are put together of copies.
type Overlay struct {
	root      string
	userXattr bool

	copies bool                   // nothing is mounted
	temp   func() (string, error) // makes a directory for a view of copies
	mu     sync.Mutex
	kept   []keptTree
	usable func() error // see checkForm, once
	viewMu sync.Mutex
	views  map[ID]string
}

var _ Snapshotter = (*Overlay)(nil)

// meta is meta.json.
type meta struct {
	Parents []ID      `json:"parents,omitempty"`
	Created time.Time `json:"created"`
	Boot    string    `json:"boot"`
	Uptime  int64     `json:"uptime"` // nanoseconds since boot
}

const (
	emptyDir    = ".empty"
	durableFile = ".durable"
	dirtyFile   = ".dirty"
	copiesFile  = ".copies"
	metaFile    = "meta.json"
	fsDir       = "fs"
)

// NewOverlay opens the snapshots below root, making it if need be.
func NewOverlay(root string) (*Overlay, error) {
	return newOverlay(root, !sys.MayMount())
}

func newOverlay(root string, copies bool) (*Overlay, error) {
	o := &Overlay{root: root, userXattr: copies || os.Geteuid() != 0 || sys.InUserNamespace(), copies: copies}
	o.usable = sync.OnceValue(o.checkForm)
	if _, err := os.Lstat(filepath.Join(root, emptyDir)); err == nil {
		return o, nil
	}
	if err := os.MkdirAll(filepath.Join(root, emptyDir), 0o755); err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	return o, nil
}

// checkForm says whether the snapshots are of the form that this process makes:
// marks of overlayfs have other names where it may not be mounted.
func (o *Overlay) checkForm() error {
	mark := filepath.Join(o.root, copiesFile)
	_, err := os.Lstat(mark)
	if is := err == nil; is == o.copies {
		return nil
	}
	entries, err := os.ReadDir(o.root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if o.copies {
			return errors.New("the state directory has snapshots to be mounted, and nothing can be mounted here: use another one (--root, BUILDER_ROOT)")
		}
		return errors.New("the state directory was made where nothing can be mounted: use another one (--root, BUILDER_ROOT), or empty it there (builder rmi, builder prune)")
	}
	if o.copies {
		return os.WriteFile(mark, nil, 0o600)
	}
	return os.Remove(mark)
}

// Usable says why this process can't use the snapshots that there are: where
// nothing can be mounted they have another form. It makes the directory one of its
// own form if there are none.
func (o *Overlay) Usable() error { return o.usable() }

// SetTemp says how to make a directory that is gone when the process is, on the
// snapshots' file system.
func (o *Overlay) SetTemp(temp func() (string, error)) { o.temp = temp }

// Copies reports whether mounts are plain directories, of copies.
func (o *Overlay) Copies() bool { return o.copies }

// UserXattr reports whether overlay's marks are user.* attributes.
func (o *Overlay) UserXattr() bool { return o.userXattr }

func (o *Overlay) fs(id ID) string { return filepath.Join(o.root, string(id), fsDir) }

func validID(id ID) error {
	if id == "" || strings.HasPrefix(string(id), ".") || strings.ContainsAny(string(id), "/\x00") {
		return fmt.Errorf("invalid snapshot ID %q", id)
	}
	return nil
}

// chain returns the IDs from id downward.
func (o *Overlay) chain(id ID) ([]ID, error) {
	if id == "" {
		return nil, nil
	}
	m, err := o.meta(id)
	if err != nil {
		return nil, err
	}
	return append([]ID{id}, m.Parents...), nil
}

func (o *Overlay) meta(id ID) (meta, error) {
	var m meta
	if err := validID(id); err != nil {
		return m, err
	}
	data, err := os.ReadFile(filepath.Join(o.root, string(id), metaFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	if err != nil {
		return m, fmt.Errorf("read snapshot %s: %w", id, err)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		// A torn file is what a power cut leaves.
		return m, fmt.Errorf("%w: %s: %w", ErrNotFound, id, err)
	}
	if m.Boot != sys.BootID() && !o.durable(m) {
		return m, fmt.Errorf("%w: %s was not yet on disk when the machine went down", ErrNotFound, id)
	}
	return m, nil
}

// lowers returns the lower directories of a mount on top of id.
func (o *Overlay) lowers(id ID) ([]string, error) {
	ids, err := o.chain(id)
	if err != nil {
		return nil, err
	}
	dirs := make([]string, 0, len(ids)+1)
	for _, id := range ids {
		dirs = append(dirs, o.fs(id))
	}
	return dirs, nil
}

// Prepare implements [Snapshotter]. dir gets the subdirectories fs and work.
func (o *Overlay) Prepare(_ context.Context, parent ID, dir string) (Active, error) {
	if err := o.usable(); err != nil {
		return nil, fmt.Errorf("prepare snapshot: %w", err)
	}
	chain, err := o.chain(parent)
	if err != nil {
		return nil, fmt.Errorf("prepare snapshot: %w", err)
	}
	a := &activeOverlay{o: o, dir: dir, parents: chain}
	for _, sub := range []string{fsDir, "work"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("prepare snapshot: %w", err)
		}
	}
	if err := a.copyRootAttributes(); err != nil {
		return nil, fmt.Errorf("prepare snapshot: %w", err)
	}
	return a, nil
}

// Reopen finds an active snapshot that Prepare made in dir earlier, as it was
// when it was settled last.
func (o *Overlay) Reopen(dir string, parent ID) (Active, error) {
	if err := o.usable(); err != nil {
		return nil, fmt.Errorf("open snapshot: %w", err)
	}
	chain, err := o.chain(parent)
	if err != nil {
		return nil, fmt.Errorf("open snapshot: %w", err)
	}
	if o.copies {
		if err := os.RemoveAll(filepath.Join(dir, mergedDir)); err != nil {
			return nil, fmt.Errorf("open snapshot: %w", err)
		}
	}
	return &activeOverlay{o: o, dir: dir, parents: chain}, nil
}

// View implements [Snapshotter].
func (o *Overlay) View(ctx context.Context, id ID) (*os.File, error) { return o.ViewIn(ctx, id, nil) }

// ViewIn implements [Snapshotter].
func (o *Overlay) ViewIn(_ context.Context, id ID, ns *mount.UserNS) (*os.File, error) {
	if err := o.usable(); err != nil {
		return nil, fmt.Errorf("view snapshot: %w", err)
	}
	dirs, err := o.lowers(id)
	if err != nil {
		return nil, fmt.Errorf("view snapshot: %w", err)
	}
	if o.copies {
		return o.viewCopied(id, dirs)
	}
	// Without an upper directory overlayfs wants two lower ones.
	empty := filepath.Join(o.root, emptyDir)
	for len(dirs) < 2 {
		dirs = append(dirs, empty)
		if len(dirs) == 1 {
			// The same directory twice is refused as a loop.
			second := empty + "2"
			if err := os.MkdirAll(second, 0o755); err != nil {
				return nil, fmt.Errorf("view snapshot: %w", err)
			}
			dirs = append(dirs, second)
		}
	}
	return mount.Overlay{Lower: dirs, UserXattr: o.userXattr, UserNS: ns}.Open()
}

// Stat implements [Snapshotter].
func (o *Overlay) Stat(_ context.Context, id ID) (Info, error) {
	m, err := o.meta(id)
	if err != nil {
		return Info{}, err
	}
	return Info{ID: id, Parents: m.Parents, Created: m.Created}, nil
}

// Walk implements [Snapshotter]. Snapshots that a power cut damaged are
// passed over.
func (o *Overlay) Walk(ctx context.Context, f func(Info) error) error {
	entries, err := os.ReadDir(o.root)
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		info, err := o.Stat(ctx, ID(e.Name()))
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if err := f(info); err != nil {
			return err
		}
	}
	return nil
}

// Remove implements [Snapshotter].
func (o *Overlay) Remove(_ context.Context, id ID) error {
	if err := o.Detach(id); err != nil {
		return err
	}
	if err := os.RemoveAll(o.detached(id)); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	return nil
}

// removedPrefix begins the names of trees of snapshots that are none any more.
const removedPrefix = ".removed-"

func (o *Overlay) detached(id ID) string { return filepath.Join(o.root, removedPrefix+string(id)) }

// Detach removes a committed snapshot at once, and leaves its tree, which may
// take its time, to [Overlay.Sweep].
func (o *Overlay) Detach(id ID) error {
	if err := validID(id); err != nil {
		return err
	}
	err := os.Rename(filepath.Join(o.root, string(id)), o.detached(id))
	if errors.Is(err, fs.ErrExist) {
		// What a killed process left of a snapshot of the same ID.
		if err = os.RemoveAll(o.detached(id)); err == nil {
			err = os.Rename(filepath.Join(o.root, string(id)), o.detached(id))
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	return nil
}

// Remains returns the directories that are no snapshots and never will be:
// detached trees, and, as damaged, what a power cut left, by ID.
func (o *Overlay) Remains() (detached []string, damaged []ID, err error) {
	entries, err := os.ReadDir(o.root)
	if err != nil {
		return nil, nil, fmt.Errorf("list snapshots: %w", err)
	}
	for _, e := range entries {
		switch {
		case strings.HasPrefix(e.Name(), removedPrefix):
			detached = append(detached, filepath.Join(o.root, e.Name()))
		case !strings.HasPrefix(e.Name(), "."):
			if _, err := o.meta(ID(e.Name())); errors.Is(err, ErrNotFound) {
				damaged = append(damaged, ID(e.Name()))
			}
		}
	}
	return detached, damaged, nil
}

// Sweep removes the trees of snapshots that were detached. Others may use the
// snapshots meanwhile.
func (o *Overlay) Sweep() error {
	detached, _, err := o.Remains()
	if err != nil {
		return err
	}
	for _, dir := range detached {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove snapshot: %w", err)
		}
	}
	return nil
}

// Diff implements [Snapshotter].
func (o *Overlay) Diff(_ context.Context, id ID) (string, []string, error) {
	if err := o.usable(); err != nil {
		return "", nil, err
	}
	dirs, err := o.lowers(id)
	if err != nil {
		return "", nil, err
	}
	return dirs[0], dirs[1:], nil
}

// durable reports whether a record of another boot was on disk before the
// machine went down.
func (o *Overlay) durable(m meta) bool {
	marks, err := o.marks()
	return err == nil && marks[m.Boot] >= m.Uptime && marks[m.Boot] > 0
}

func (o *Overlay) marks() (map[string]int64, error) {
	data, err := os.ReadFile(filepath.Join(o.root, durableFile))
	if err != nil {
		return nil, err
	}
	var marks map[string]int64
	return marks, json.Unmarshal(data, &marks)
}

// Sync flushes the file system to disk and notes that everything committed
// before is safe. It may take seconds; nothing depends on it being called.
func (o *Overlay) Sync() error {
	now := int64(sys.Uptime())
	d, err := os.Open(o.root)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := sys.SyncFS(d); err != nil {
		return err
	}
	marks, err := o.marks()
	if err != nil || marks == nil {
		marks = map[string]int64{}
	}
	marks[sys.BootID()] = max(now, marks[sys.BootID()])
	data, err := json.Marshal(marks)
	if err != nil {
		return err
	}
	return atomicfile.WriteSync(filepath.Join(o.root, durableFile), data, 0o600)
}

// SyncIfDirty is [Overlay.Sync] if something was committed since the last one.
// It is meant to run beside a command: a command that ends first cuts it off,
// and the next one does it.
func (o *Overlay) SyncIfDirty() error {
	dirty := filepath.Join(o.root, dirtyFile)
	before, err := os.Stat(dirty)
	if err != nil {
		return nil
	}
	if err := o.Sync(); err != nil {
		return err
	}
	if now, err := os.Stat(dirty); err == nil && now.ModTime().Equal(before.ModTime()) {
		return os.Remove(dirty)
	}
	return nil
}

type activeOverlay struct {
	o       *Overlay
	dir     string
	parents []ID
	merged  *mergedTree // of copies
}

func (a *activeOverlay) Upper() string { return filepath.Join(a.dir, fsDir) }

func (a *activeOverlay) Mount() (*os.File, error) { return a.MountWith(Properties{}) }

func (a *activeOverlay) MountWith(p Properties) (*os.File, error) {
	if a.o.copies {
		return a.openCopied()
	}
	// The mark that a volatile mount leaves says that a power cut may have
	// done harm; it keeps others from mounting.
	if err := os.RemoveAll(filepath.Join(a.dir, "work", "work", "incompat")); err != nil {
		return nil, err
	}
	lower := make([]string, 0, len(a.parents)+1)
	for _, id := range a.parents {
		lower = append(lower, a.o.fs(id))
	}
	if len(lower) == 0 {
		lower = append(lower, filepath.Join(a.o.root, emptyDir))
	}
	return mount.Overlay{
		Lower: lower, Upper: a.Upper(), Work: filepath.Join(a.dir, "work"),
		Volatile: !p.Durable, UserXattr: a.o.userXattr, UserNS: p.UserNS,
	}.Open()
}

// Commit moves the upper directory to its place. The rename of the directory
// that holds it is the moment from which the snapshot exists.
func (a *activeOverlay) Commit(_ context.Context, id ID) (ID, error) {
	if id == "" {
		var b [16]byte
		rand.Read(b[:])
		id = ID(hex.EncodeToString(b[:]))
	}
	if err := validID(id); err != nil {
		return "", err
	}
	err := a.Settle()
	if err == nil {
		err = a.keepTree(id)
	}
	if err != nil {
		return "", fmt.Errorf("commit snapshot: %w", err)
	}
	m := meta{Parents: a.parents, Created: time.Now().UTC(), Boot: sys.BootID(), Uptime: int64(sys.Uptime())}
	data, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	// work holds a directory that volatile mounts mark as used.
	if err := os.RemoveAll(filepath.Join(a.dir, "work")); err != nil {
		return "", fmt.Errorf("commit snapshot: %w", err)
	}
	if err := os.WriteFile(filepath.Join(a.dir, metaFile), data, 0o600); err != nil {
		return "", fmt.Errorf("commit snapshot: %w", err)
	}
	if err := os.WriteFile(filepath.Join(a.o.root, dirtyFile), nil, 0o600); err != nil {
		return "", fmt.Errorf("commit snapshot: %w", err)
	}
	target := filepath.Join(a.o.root, string(id))
	err = os.Rename(a.dir, target)
	if errors.Is(err, fs.ErrExist) {
		if _, statErr := a.o.meta(id); statErr == nil {
			return "", fmt.Errorf("commit snapshot: %w: %s", ErrExists, id)
		}
		// What a power cut left of an earlier one is in the way.
		if err := os.RemoveAll(target); err != nil {
			return "", fmt.Errorf("commit snapshot: %w", err)
		}
		err = os.Rename(a.dir, target)
	}
	if err != nil {
		return "", fmt.Errorf("commit snapshot: %w", err)
	}
	return id, nil
}

// copyRootAttributes gives the upper directory the owner, mode and times of
// the directory it will hide: the root of a merged file system has the upper
// one's attributes.
func (a *activeOverlay) copyRootAttributes() error {
	if len(a.parents) == 0 {
		return nil
	}
	return sys.CopyDirAttributes(a.o.fs(a.parents[0]), a.Upper())
}
