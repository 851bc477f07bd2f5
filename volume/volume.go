// SPDX-License-Identifier: Apache-2.0

// Package volume keeps directories that outlive the containers that use them.
//
//	NAME/volume.json  what it is: [Volume]
//	NAME/_data        its files
//	.tmp/             what is being filled or removed
//	lock              held while volumes are made, filled or removed
//
// What has no record is no volume. In .tmp everything is a killed command's as
// soon as the lock is free.
package volume

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"builder/internal/atomicfile"
	"builder/internal/filelock"
	"builder/internal/names"
	"builder/internal/sys"
	"builder/layer"
)

// Volume is a named directory.
type Volume struct {
	Name    string            `json:"name"`
	Created time.Time         `json:"created"`
	Labels  map[string]string `json:"labels,omitempty"`
	Options map[string]string `json:"options,omitempty"`
	// Device is the directory of the machine that it is in place of one of
	// its own.
	Device string `json:"device,omitempty"`
	// Anonymous says that nobody has named it.
	Anonymous bool `json:"anonymous,omitempty"`

	// Dir is where its files are.
	Dir string `json:"-"`
}

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("no such volume")
	ErrInUse    = errors.New("volume is in use")
	ErrDamaged  = errors.New("its record is damaged: copy what is in its directory, and remove it")
)

// Names in a directory of volumes, and in that of one.
const (
	asideDir   = ".tmp"
	recordFile = "volume.json"
	dataDir    = "_data"
)

// Volumes are the volumes of a state directory.
type Volumes struct{ dir string }

// Open returns the volumes that are kept in a directory.
func Open(dir string) Volumes { return Volumes{dir} }

// CheckName says what is wrong with a name.
func CheckName(name string) error {
	if len(name) < 2 || !names.Valid(name) || len(name) > 255 {
		return fmt.Errorf("invalid volume name %q: want two or more letters, digits, _, . and -, beginning with a letter or digit; paths begin with a slash or a dot", name)
	}
	return nil
}

func (v Volumes) lock() (*filelock.Lock, error) {
	if err := os.MkdirAll(v.dir, 0o711); err != nil {
		return nil, err
	}
	return filelock.Acquire(context.Background(), filepath.Join(v.dir, "lock"), filelock.Exclusive, nil)
}

// Create makes a volume, which made tells. One of that name that is there is returned as it is; an
// empty name is made up, of an anonymous one. A new one has no files, whatever
// killed commands have left of one of that name; a directory of that name that
// has anything else in it is an error. A named one survives a power cut.
func (v Volumes) Create(want Volume) (vol Volume, made bool, err error) {
	if want.Name == "" {
		var b [32]byte
		rand.Read(b[:])
		want.Name, want.Anonymous = hex.EncodeToString(b[:]), true
	}
	if err := CheckName(want.Name); err != nil {
		return want, false, err
	}
	lock, err := v.lock()
	if err != nil {
		return want, false, err
	}
	defer lock.Release()
	if have, err := v.Get(want.Name); !errors.Is(err, ErrNotFound) {
		return have, false, err
	}
	_ = v.sweep() // what can't be removed is not in the way
	want.Created = time.Now()
	if err := v.make(want); err != nil {
		return want, false, fmt.Errorf("create volume %s: %w", want.Name, err)
	}
	vol, err = v.Get(want.Name)
	return vol, err == nil, err
}

// make makes the directory of a volume, which has no record yet.
func (v Volumes) make(want Volume) error {
	data, err := json.Marshal(want)
	if err != nil {
		return err
	}
	dir := v.path(want.Name)
	err = os.Mkdir(dir, 0o711)
	if errors.Is(err, fs.ErrExist) {
		if err = v.makeWay(want.Name); err == nil {
			err = os.Mkdir(dir, 0o711)
		}
	}
	if err != nil {
		return err
	}
	if want.Device == "" {
		if err := os.Mkdir(filepath.Join(dir, dataDir), 0o755); err != nil {
			return err
		}
	}
	// What has its record is whole. Files that outlive a power cut must not lose
	// it, or they'd be taken for remains; an anonymous one's name nobody gives again.
	record := filepath.Join(dir, recordFile)
	if want.Anonymous {
		return atomicfile.Write(record, data, 0o600)
	}
	if err := atomicfile.WriteSync(record, data, 0o600); err != nil {
		return err
	}
	return atomicfile.SyncDir(v.dir)
}

// makeWay removes what a killed command has left in the place of a volume.
func (v Volumes) makeWay(name string) error {
	left, err := isRemains(v.path(name))
	if err != nil {
		return err
	}
	if !left {
		return fmt.Errorf("%s is there and is no volume: move it away", v.path(name))
	}
	return v.discard(name)
}

// Get returns a volume. The error wraps [ErrNotFound] if there is none of the
// name, or [ErrDamaged] if nothing but its name and directory is known.
func (v Volumes) Get(name string) (Volume, error) {
	var out Volume
	if err := CheckName(name); err != nil {
		return out, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	data, err := os.ReadFile(filepath.Join(v.path(name), recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return out, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if err != nil {
		return out, fmt.Errorf("volume %s: %w", name, err)
	}
	if err := json.Unmarshal(data, &out); err != nil {
		return Volume{Name: name, Dir: filepath.Join(v.path(name), dataDir)}, fmt.Errorf("volume %s: %w: %w", name, ErrDamaged, err)
	}
	if out.Dir = filepath.Join(v.path(name), dataDir); out.Device != "" {
		out.Dir = out.Device
	}
	return out, nil
}

// List returns all volumes by name. Of a damaged one there is its name and
// directory.
func (v Volumes) List() ([]Volume, error) {
	entries, err := os.ReadDir(v.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var out []Volume
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		vol, err := v.Get(e.Name())
		if errors.Is(err, ErrNotFound) {
			continue // half made or half removed
		}
		if err != nil && !errors.Is(err, ErrDamaged) {
			return nil, err
		}
		out = append(out, vol)
	}
	return out, nil
}

// Remove removes a volume, unless used says that it is in use: then the error
// wraps [ErrInUse]. Nor is one removed in which something is mounted. When it is
// killed the volume is there as it was, or gone; it is gone as well if the error
// is about the removal of its files.
func (v Volumes) Remove(name string, used func(name string) (bool, error)) error {
	lock, err := v.lock()
	if err != nil {
		return err
	}
	defer lock.Release()
	if _, err := v.Get(name); err != nil && !errors.Is(err, ErrDamaged) {
		return err
	}
	in, err := used(name)
	if err != nil {
		return err
	}
	if in {
		return fmt.Errorf("%w: %s", ErrInUse, name)
	}
	if err := v.discard(name); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	_ = v.sweep() // of others, which are no part of this
	return nil
}

// Remains are the paths of what killed commands have left, and of what others
// have under way.
func (v Volumes) Remains() ([]string, error) {
	entries, err := os.ReadDir(v.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		path := v.path(e.Name())
		left := e.Name() == asideDir
		if e.IsDir() && CheckName(e.Name()) == nil {
			if left, err = isRemains(path); err != nil {
				return nil, err
			}
		}
		if left {
			out = append(out, path)
		}
	}
	return out, nil
}

// Sweep removes what killed commands have left, but for the files of volumes that
// have lost their record and that used says are in use. It waits for those that
// have something under way.
func (v Volumes) Sweep(used func(name string) (bool, error)) error {
	if left, err := v.Remains(); err != nil || len(left) == 0 {
		return err
	}
	lock, err := v.lock()
	if err != nil {
		return err
	}
	defer lock.Release()
	left, err := v.Remains()
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range left {
		name := filepath.Base(path)
		if name == asideDir {
			continue
		}
		in, err := used(name)
		if err == nil && !in {
			err = v.discard(name)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(append(errs, v.sweep())...); err != nil {
		return fmt.Errorf("remove what is left of volumes: %w", err)
	}
	return nil
}

func (v Volumes) path(name string) string { return filepath.Join(v.dir, name) }

// aside returns a path that nothing has, for what is no volume: not yet, or no
// longer.
func (v Volumes) aside() (string, error) {
	if err := os.Mkdir(v.path(asideDir), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return filepath.Join(v.path(asideDir), rand.Text()), nil
}

// discard removes a directory. The rename is all of it: what a kill leaves after
// that nobody takes for a volume.
func (v Volumes) discard(name string) error {
	if err := v.checkMounts(name); err != nil {
		return err
	}
	gone, err := v.aside()
	if err != nil {
		return err
	}
	defer os.Remove(v.path(asideDir)) // if it is empty
	if err := os.Rename(v.path(name), gone); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// sweep removes what is aside.
func (v Volumes) sweep() error {
	dir := v.path(asideDir)
	if err := os.Remove(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := v.checkMounts(asideDir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// checkMounts is an error if something is mounted on a directory or in it: a
// removal would begin with the files in there.
func (v Volumes) checkMounts(name string) error {
	dir, err := filepath.EvalSymlinks(v.dir)
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return err
	}
	mounts, err := sys.MountsIn(filepath.Join(dir, name))
	if err == nil && len(mounts) > 0 {
		err = fmt.Errorf("something is mounted on %s: unmount it", mounts[0])
	}
	return err
}

// isRemains reports whether a directory has no record, and nothing else that no
// volume has.
func isRemains(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // gone meanwhile
	}
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		// Earlier versions filled volumes in "fill".
		if n := e.Name(); n != dataDir && n != "fill" && !strings.HasPrefix(n, atomicfile.TempPrefix+recordFile) {
			return false, nil
		}
	}
	return true, nil
}

// Fill gives an empty volume what is in a directory: owners, modes and
// attributes too. One that isn't empty stays as it is. When it is killed the
// volume is still empty.
func (v Volumes) Fill(ctx context.Context, vol Volume, from *os.File) error {
	if vol.Device != "" {
		return nil
	}
	lock, err := v.lock()
	if err != nil {
		return err
	}
	defer lock.Release()
	if entries, err := os.ReadDir(vol.Dir); err != nil || len(entries) > 0 {
		return err
	}
	tmp, err := v.aside()
	if err != nil {
		return err
	}
	defer os.Remove(v.path(asideDir)) // if it is empty
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	if err := copyTree(ctx, tmp, from); err != nil {
		return errors.Join(fmt.Errorf("fill volume %s: %w", vol.Name, err), os.RemoveAll(tmp))
	}
	// This replaces the empty directory; [os.Rename] would not.
	return os.NewSyscallError("rename", syscall.Rename(tmp, vol.Dir))
}

func copyTree(ctx context.Context, to string, from *os.File) error {
	if err := sys.CopyDirAttributes(sys.FDPath(from), to); err != nil {
		return err
	}
	dir, err := os.Open(to)
	if err != nil {
		return err
	}
	defer dir.Close()
	r, w := io.Pipe()
	go func() {
		_, err := layer.WriteTree(ctx, w, from, layer.Options{Compression: layer.Uncompressed})
		w.CloseWithError(err)
	}()
	_, err = layer.Apply(ctx, dir, r, layer.ApplyOptions{})
	return errors.Join(err, r.Close())
}
