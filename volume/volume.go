// SPDX-License-Identifier: Apache-2.0

// Package volume keeps directories that outlive the containers that use them.
//
//	NAME/volume.json  what it is: [Volume]
//	NAME/_data        its files
//	lock              held while volumes are made or removed
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
	"regexp"
	"sync"
	"syscall"
	"time"

	"builder/internal/atomicfile"
	"builder/internal/filelock"
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
)

// Volumes are the volumes of a state directory.
type Volumes struct{ dir string }

// Open returns the volumes that are kept in a directory.
func Open(dir string) Volumes { return Volumes{dir} }

var nameRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`) })

// CheckName says what is wrong with a name.
func CheckName(name string) error {
	if !nameRE().MatchString(name) || len(name) > 255 {
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

// Create makes a volume. One of that name that is there is returned as it is; an
// empty name is made up, of an anonymous one.
func (v Volumes) Create(want Volume) (Volume, error) {
	if want.Name == "" {
		var b [32]byte
		rand.Read(b[:])
		want.Name, want.Anonymous = hex.EncodeToString(b[:]), true
	}
	if err := CheckName(want.Name); err != nil {
		return want, err
	}
	lock, err := v.lock()
	if err != nil {
		return want, err
	}
	defer lock.Release()
	if have, err := v.Get(want.Name); !errors.Is(err, ErrNotFound) {
		return have, err
	}
	want.Created = time.Now()
	data, err := json.Marshal(want)
	if err != nil {
		return want, err
	}
	// What has its record is whole.
	dir := filepath.Join(v.dir, want.Name)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return want, err
	}
	if want.Device == "" {
		if err := os.Mkdir(filepath.Join(dir, "_data"), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return want, err
		}
	}
	if err := atomicfile.Write(filepath.Join(dir, "volume.json"), data, 0o600); err != nil {
		return want, err
	}
	return v.Get(want.Name)
}

// Get returns a volume. The error wraps [ErrNotFound] if there is none of the
// name.
func (v Volumes) Get(name string) (Volume, error) {
	var out Volume
	if err := CheckName(name); err != nil {
		return out, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	data, err := os.ReadFile(filepath.Join(v.dir, name, "volume.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return out, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		return out, fmt.Errorf("volume %s: %w", name, err)
	}
	if out.Dir = filepath.Join(v.dir, name, "_data"); out.Device != "" {
		out.Dir = out.Device
	}
	return out, nil
}

// List returns all volumes by name.
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
		if err != nil {
			return nil, err
		}
		out = append(out, vol)
	}
	return out, nil
}

// Remove removes a volume, unless used says that it is in use: then the error
// wraps [ErrInUse].
func (v Volumes) Remove(name string, used func(name string) (bool, error)) error {
	lock, err := v.lock()
	if err != nil {
		return err
	}
	defer lock.Release()
	if _, err := v.Get(name); err != nil {
		return err
	}
	in, err := used(name)
	if err != nil {
		return err
	}
	if in {
		return fmt.Errorf("%w: %s", ErrInUse, name)
	}
	// Its record goes first: without it there is no volume.
	if err := os.Remove(filepath.Join(v.dir, name, "volume.json")); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(v.dir, name))
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
	tmp := filepath.Join(v.dir, vol.Name, "fill")
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
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
