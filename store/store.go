// SPDX-License-Identifier: Apache-2.0

// Package store is the state directory's content-addressed part: blobs by
// digest and the table of image names, on disk as an OCI image layout
// (image-spec, image-layout.md) that other tools read in place.
//
// Any number of processes share one store. A blob is written to a temporary
// file and renamed to its digest, so it is there whole or not at all; the name
// table is replaced under a lock. What a killed process left lies under tmp/
// and is removed by the next one that finds its lock free.
package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"builder/internal/atomicfile"
	"builder/internal/filelock"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Errors that callers tell apart.
var (
	// ErrNotFound says that no blob has the digest, or no image the name.
	ErrNotFound = errors.New("not found")
	// ErrCorrupt says that stored bytes are not those that their digest names.
	ErrCorrupt = errors.New("corrupt")
	// ErrBusy says that other processes use the store.
	ErrBusy = errors.New("the store is in use by another process")
)

// formatVersion is that of the state directory. A directory of a later version
// is refused, not guessed at.
const formatVersion = 1

// Store is an open state directory. Its methods may be called from many
// goroutines at once.
type Store struct {
	root    string
	shared  *filelock.Lock
	minFree atomic.Int64 // bytes that stay free on the disk; 0 for none

	mu    sync.Mutex
	lease *filelock.Lock
	tmp   string
	seq   int
}

// Open opens the state directory root, making it if need be. The store is held
// shared until [Store.Close]: while any process has it open nothing in it is
// collected.
func Open(root string) (*Store, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	s := &Store{root: root}
	err = s.checkMade()
	if errors.Is(err, fs.ErrNotExist) {
		err = s.init()
	}
	if err != nil {
		return nil, fmt.Errorf("open state directory %s: %w", root, err)
	}
	// Who waits for the store to be left goes first, for a moment.
	gate, err := filelock.Acquire(context.Background(), s.Path("locks", "gate"), filelock.Shared, nil)
	if err == nil {
		s.shared, err = filelock.Acquire(context.Background(), s.Path("locks", "store"), filelock.Shared, nil)
		err = errors.Join(err, gate.Release())
	}
	if err != nil {
		return nil, fmt.Errorf("open state directory %s: %w", root, err)
	}
	return s, nil
}

func checkVersion(data []byte) error {
	v, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || v < 1 {
		return fmt.Errorf("its version file says %q, which is no version", data)
	}
	if v > formatVersion {
		return fmt.Errorf("it has format version %d and this builder knows versions up to %d: use a newer builder, or another directory with --root", v, formatVersion)
	}
	return nil
}

// checkMade checks a directory that is whole.
func (s *Store) checkMade() error {
	version, err := os.ReadFile(s.Path("version"))
	if err != nil {
		return err
	}
	return checkVersion(version)
}

func (s *Store) init() error {
	entries, err := os.ReadDir(s.root)
	if err == nil {
		for _, e := range entries {
			switch e.Name() {
			case "blobs", "locks", "tmp", "oci-layout", "index.json", "lost+found":
			case "version": // another process has just made it
				return s.checkMade()
			default:
				if !strings.HasPrefix(e.Name(), ".tmp-") {
					return fmt.Errorf("it is not empty and no state directory of builder (it holds %q): choose another one with --root", e.Name())
				}
			}
		}
	}
	for _, dir := range []string{"", "blobs/sha256", "locks", "tmp"} {
		mode := fs.FileMode(0o700)
		if err := os.MkdirAll(s.Path(dir), mode); err != nil {
			return err
		}
	}
	layout := fmt.Sprintf(`{"imageLayoutVersion":"%s"}`, ocispec.ImageLayoutVersion)
	if err := atomicfile.Write(s.Path("oci-layout"), []byte(layout), 0o644); err != nil {
		return err
	}
	if err := s.initIndex(); err != nil {
		return err
	}
	// Last, so that a directory with a version file is a whole one.
	return atomicfile.WriteSync(s.Path("version"), []byte(strconv.Itoa(formatVersion)+"\n"), 0o644)
}

// initIndex makes an empty name table. Another process may be doing the same,
// and be naming an image already: the lock of the names keeps us from
// replacing its table.
func (s *Store) initIndex() error {
	lock, err := s.Lock(context.Background(), "names", filelock.Exclusive, nil)
	if err != nil {
		return err
	}
	defer lock.Release()
	if _, err := os.Stat(s.Path("index.json")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.writeIndex(nil)
}

// Close gives the store up and removes this process's temporary files.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.lease != nil {
		err = errors.Join(os.RemoveAll(s.tmp), s.lease.ReleaseAndRemove())
		s.lease = nil
	}
	return errors.Join(err, s.shared.Release())
}

// Path joins elements to the state directory's path.
func (s *Store) Path(elem ...string) string {
	return filepath.Join(append([]string{s.root}, elem...)...)
}

// TempDir makes and returns a new directory for things under way, on the same
// file system as everything else. It is gone when the store is closed, or
// after this process has died.
func (s *Store) TempDir() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease == nil {
		if err := s.takeLease(); err != nil {
			return "", fmt.Errorf("make temporary directory: %w", err)
		}
	}
	s.seq++
	dir := filepath.Join(s.tmp, strconv.Itoa(s.seq))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("make temporary directory: %w", err)
	}
	return dir, nil
}

// takeLease makes tmp/X, owned by the lock tmp/X.lock, which is held first:
// a directory whose lock is free has no living owner.
func (s *Store) takeLease() error {
	f, err := os.CreateTemp(s.Path("tmp"), "*.lock")
	if err != nil {
		return err
	}
	name := f.Name()
	f.Close()
	s.lease, err = filelock.Acquire(context.Background(), name, filelock.Exclusive, nil)
	if err != nil {
		return err
	}
	s.tmp = strings.TrimSuffix(name, ".lock")
	return os.Mkdir(s.tmp, 0o700)
}

// Reap removes what dead processes left under tmp/, and what has come of blobs
// that nobody went on to fetch for a day. It is meant to run beside
// the work of a command; errors are left for the next one to meet.
func (s *Store) Reap() {
	s.reapComing(time.Now())
	entries, err := os.ReadDir(s.Path("tmp"))
	if err != nil {
		return
	}
	for _, e := range entries {
		name, isLock := strings.CutSuffix(e.Name(), ".lock")
		dir := s.Path("tmp", name)
		if !isLock {
			if _, err := os.Lstat(dir + ".lock"); err == nil {
				continue // its lock's turn comes
			}
		}
		lock, err := filelock.TryAcquire(dir+".lock", filelock.Exclusive)
		if err != nil {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			lock.Release()
			continue
		}
		lock.ReleaseAndRemove()
	}
}

// Exclusive runs f while no other process has the store open. It waits for the
// others to leave, as long as wait says, and nobody else comes in meanwhile;
// then it fails with [ErrBusy].
func (s *Store) Exclusive(wait time.Duration, f func() error) error {
	if s.shared == nil {
		return ErrBusy // it was left
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	s.shared.Release()
	err := s.alone(ctx, f)
	if errors.Is(err, filelock.ErrLocked) || errors.Is(err, context.DeadlineExceeded) {
		err = ErrBusy
	}
	shared, lockErr := filelock.Acquire(context.Background(), s.Path("locks", "store"), filelock.Shared, nil)
	s.shared = shared
	return errors.Join(err, lockErr)
}

func (s *Store) alone(ctx context.Context, f func() error) error {
	gate, err := filelock.TryAcquire(s.Path("locks", "gate"), filelock.Exclusive)
	if err != nil {
		return err // another one waits already, or somebody comes in
	}
	defer gate.Release()
	excl, err := filelock.TryAcquire(s.Path("locks", "store"), filelock.Exclusive)
	if errors.Is(err, filelock.ErrLocked) {
		excl, err = filelock.Acquire(ctx, s.Path("locks", "store"), filelock.Exclusive, nil)
	}
	if err != nil {
		return err
	}
	defer excl.Release()
	return f()
}

// ErrNoRoom says that something would take disk that is to stay free.
var ErrNoRoom = errors.New("not enough free disk space")

// KeepFree has large writes fail before they begin if fewer bytes would be left
// on the disk: see [Store.Room].
func (s *Store) KeepFree(n int64) { s.minFree.Store(n) }

// Room returns an error that wraps [ErrNoRoom] if n bytes can't be written
// without breaking what [Store.KeepFree] said. If that said nothing it does
// nothing.
func (s *Store) Room(n int64) error {
	keep := s.minFree.Load()
	if keep == 0 {
		return nil
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(s.root, &st); err != nil {
		return &fs.PathError{Op: "statfs", Path: s.root, Err: err}
	}
	if free := int64(st.Bavail) * st.Bsize; free-n < keep {
		return fmt.Errorf("%w: %d bytes are to be written, %d are free, and %d are to stay so", ErrNoRoom, n, free, keep)
	}
	return nil
}

// Leave lets others collect while this process still works with what a lock or
// a record of its own protects, such as a container's file system. Nothing else
// may be relied on from then on.
func (s *Store) Leave() error {
	err := s.shared.Release()
	s.shared = nil
	return err
}

// Lock takes the named lock of the state directory, waiting for its holder
// until ctx ends. wait, if not nil, is called once if there is one.
func (s *Store) Lock(ctx context.Context, name string, mode filelock.Mode, wait func()) (*filelock.Lock, error) {
	path := s.Path("locks", name)
	l, err := filelock.Acquire(ctx, path, mode, wait)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		l, err = filelock.Acquire(ctx, path, mode, wait)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return l, nil
}

func (s *Store) blobPath(d digest.Digest) string {
	return s.Path("blobs", d.Algorithm().String(), d.Encoded())
}
