// SPDX-License-Identifier: Apache-2.0

package main

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
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"builder/internal/atomicfile"
	"builder/internal/filelock"
	"builder/snapshot"
	"builder/store"
)

// record is what is kept of a container, in containers/ID/container.json.
//
//	containers/ID/container.json  this record
//	containers/ID/fs, work        its file system on top of the image's
//	containers/ID/lock            held as long as it runs
//
// Whether a container runs is told by its lock and never by the record: a
// record can't know that its writer was killed.
type record struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Image    string    `json:"image"` // as the user named it
	ImageID  string    `json:"imageID"`
	Snapshot string    `json:"snapshot"` // what it stands on
	Args     []string  `json:"args"`
	Created  time.Time `json:"created"`
	Pid      int       `json:"pid,omitempty"`
	Finished time.Time `json:"finished"`
	ExitCode int       `json:"exitCode"`
	Done     bool      `json:"done"` // it ended, and ExitCode is how

	// AutoRemove says that nobody wants it once it has ended. If builder is
	// killed before it can remove it, the next container's making does.
	AutoRemove bool `json:"autoRemove,omitempty"`
}

// containerStore is the containers/ part of a state directory.
type containerStore struct{ s *store.Store }

func (c containerStore) dir(id string) string { return c.s.Path("containers", id) }

// errNoContainer says that no container has the name or ID.
var errNoContainer = errors.New("no such container")

var nameRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`) })

// create makes a container's directory under a new ID, with its lock held.
// The name must be free.
func (c containerStore) create(r *record) (*filelock.Lock, error) {
	if r.Name != "" && !nameRE().MatchString(r.Name) {
		return nil, fmt.Errorf("invalid container name %q: want two or more letters, digits, _, . and -, beginning with a letter or digit", r.Name)
	}
	names, err := filelock.Acquire(context.Background(), c.s.Path("locks", "containers"), filelock.Exclusive, nil)
	if err != nil {
		return nil, err
	}
	defer names.Release()
	all, err := c.list()
	if err != nil {
		return nil, err
	}
	for _, other := range all {
		if other.AutoRemove && !c.running(other) {
			if err := c.remove(other); err != nil {
				return nil, err
			}
			continue
		}
		if other.Name == r.Name && r.Name != "" {
			return nil, fmt.Errorf("the name %q is in use by container %s: remove it with builder rm, or take another name", r.Name, other.ID[:12])
		}
	}
	var b [32]byte
	rand.Read(b[:])
	r.ID = hex.EncodeToString(b[:])
	if r.Name == "" {
		r.Name = "c-" + r.ID[:12]
	}
	return c.publish(r)
}

// publish makes the container's directory elsewhere and moves it into place
// when its lock is held and its record is written: who lists containers sees
// it whole and running, or not at all.
func (c containerStore) publish(r *record) (*filelock.Lock, error) {
	dir, err := c.s.TempDir()
	if err != nil {
		return nil, err
	}
	lock, err := filelock.TryAcquire(filepath.Join(dir, "lock"), filelock.Exclusive)
	if err != nil {
		return nil, err
	}
	err = saveRecord(dir, r)
	if err == nil {
		err = os.MkdirAll(c.s.Path("containers"), 0o700)
	}
	if err == nil {
		err = os.Rename(dir, c.dir(r.ID))
	}
	if err != nil {
		return nil, errors.Join(err, lock.Release())
	}
	return lock, nil
}

func (c containerStore) save(r *record) error { return saveRecord(c.dir(r.ID), r) }

func saveRecord(dir string, r *record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, "container.json"), data, 0o600)
}

// list returns all containers, newest first.
func (c containerStore) list() ([]record, error) {
	entries, err := os.ReadDir(c.s.Path("containers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var out []record
	for _, e := range entries {
		var r record
		data, err := os.ReadFile(filepath.Join(c.dir(e.Name()), "container.json"))
		if err != nil || json.Unmarshal(data, &r) != nil || r.ID != e.Name() {
			// Half made when its maker was killed.
			r = record{ID: e.Name(), Name: "?", Image: "?", AutoRemove: true}
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b record) int { return b.Created.Compare(a.Created) })
	return out, nil
}

// find returns the container of a name, an ID or the beginning of one.
func (c containerStore) find(name string) (record, error) {
	all, err := c.list()
	if err != nil {
		return record{}, err
	}
	var found []record
	for _, r := range all {
		if r.Name == name || r.ID == name {
			return r, nil
		}
		if strings.HasPrefix(r.ID, name) {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 0:
		return record{}, fmt.Errorf("%w: %s", errNoContainer, name)
	case 1:
		return found[0], nil
	}
	return record{}, fmt.Errorf("container ID %s is ambiguous: give more of its digits", name)
}

// running reports whether a container's lock is held.
func (c containerStore) running(r record) bool {
	lock, err := filelock.TryAcquire(filepath.Join(c.dir(r.ID), "lock"), filelock.Shared)
	if err != nil {
		return errors.Is(err, filelock.ErrLocked)
	}
	lock.Release()
	return false
}

// remove removes a container that doesn't run. One that somebody else removes
// at the same time is removed.
func (c containerStore) remove(r record) error {
	ctx, cancel := context.WithTimeout(context.Background(), lookWait)
	defer cancel()
	lock, err := filelock.Acquire(ctx, filepath.Join(c.dir(r.ID), "lock"), filelock.Exclusive, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("container %s is running: stop it first", r.Name)
	}
	if err != nil {
		return err
	}
	defer lock.Release()
	return c.removeHeld(r)
}

// lookWait is for how long others may hold a container's lock who only look
// whether it is held.
const lookWait = 100 * time.Millisecond

// removeHeld removes a container whose lock is held.
func (c containerStore) removeHeld(r record) error {
	// At once, and then what it held: who looks for its lock meanwhile would
	// make the file again.
	dir, err := c.s.TempDir()
	if err != nil {
		return err
	}
	if err := os.Rename(c.dir(r.ID), filepath.Join(dir, "container")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove container %s: %w", r.Name, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove container %s: %w", r.Name, err)
	}
	return nil
}

// containerSnapshots are the snapshots that containers stand on.
func containerSnapshots(s *store.Store) ([]snapshot.ID, error) {
	all, err := containerStore{s}.list()
	if err != nil {
		return nil, err
	}
	var ids []snapshot.ID
	for _, r := range all {
		if r.Snapshot != "" {
			ids = append(ids, snapshot.ID(r.Snapshot))
		}
	}
	return ids, nil
}
