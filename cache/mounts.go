// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"builder/internal/filelock"
	"builder/internal/sys"
)

// Sharing says who may use a cache mount at the same time (BuildKit's words).
type Sharing string

// Shared cache mounts have any number of users; locked ones have one at a
// time, the others wait; of private ones a new one is made while all are used.
const (
	SharingShared  Sharing = "shared"
	SharingLocked  Sharing = "locked"
	SharingPrivate Sharing = "private"
)

// Mount is a cache mount in use.
type Mount struct {
	Dir   string // the directory to mount
	Fresh bool   // it has just been made and is empty
	lock  *filelock.Lock
}

// Release lets others use the mount.
func (m *Mount) Release() error { return m.lock.Release() }

// OpenMount returns the cache mount of an ID, made if there is none, in use
// until it is released. A locked one waits for its user until ctx ends; wait
// is called once if so.
func (c *Cache) OpenMount(ctx context.Context, id string, sharing Sharing, wait func()) (*Mount, error) {
	// IDs are free text: only their hash becomes a path.
	sum := sha256.Sum256([]byte(id))
	name := hex.EncodeToString(sum[:16])
	if sharing == SharingPrivate {
		return c.privateMount(name)
	}
	mode := filelock.Shared
	if sharing == SharingLocked {
		mode = filelock.Exclusive
	}
	lock, err := c.s.Lock(ctx, "mount-"+name, mode, wait)
	if err != nil {
		return nil, fmt.Errorf("cache mount %q: %w", id, err)
	}
	return c.makeMount(name, lock)
}

func (c *Cache) privateMount(name string) (*Mount, error) {
	pool, err := filepath.Glob(c.s.Path("cache", "mounts", name+".*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range append([]string{c.s.Path("cache", "mounts", name)}, pool...) {
		lock, err := c.tryLock(filepath.Base(dir))
		if err == nil {
			return c.makeMount(filepath.Base(dir), lock)
		}
		if !errors.Is(err, filelock.ErrLocked) {
			return nil, err
		}
	}
	var b [8]byte
	rand.Read(b[:])
	name += "." + hex.EncodeToString(b[:])
	lock, err := c.tryLock(name)
	if err != nil {
		return nil, err
	}
	return c.makeMount(name, lock)
}

func (c *Cache) tryLock(name string) (*filelock.Lock, error) {
	if err := os.MkdirAll(c.s.Path("locks"), 0o700); err != nil {
		return nil, err
	}
	return filelock.TryAcquire(c.s.Path("locks", "mount-"+name), filelock.Exclusive)
}

func (c *Cache) makeMount(name string, lock *filelock.Lock) (*Mount, error) {
	m := &Mount{Dir: c.s.Path("cache", "mounts", name), lock: lock}
	if err := os.MkdirAll(filepath.Dir(m.Dir), 0o700); err != nil {
		lock.Release()
		return nil, err
	}
	// Not the directory's own time: that is the mount's users' to see.
	sys.Touch(c.s.Path("locks", "mount-"+name))
	err := os.Mkdir(m.Dir, 0o755)
	m.Fresh = err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		lock.Release()
		return nil, fmt.Errorf("make cache mount: %w", err)
	}
	return m, nil
}
