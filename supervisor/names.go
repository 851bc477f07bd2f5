// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"builder/internal/atomicfile"
	"builder/internal/filelock"
	"builder/internal/names"
	"builder/internal/sys"
)

// Which container has a name, and which are to remove themselves, is known
// without reading the records of all:
//
//	container-names/NAME   a link to the ID of the container that was given the name
//	container-leaving/ID   a link to the [ProcessID] of who has made the container, or to "-"
//	container-names/.all   since which boot there is one for each that needs one
//
// A link is where to look, and the record there is what counts: one may be of a
// container that was removed or renamed. The names of those that were given none
// tell their IDs. Who makes or removes links to names has the lock on names.

func (r Records) nameLink(name string) string { return r.s.Path("container-names", name) }
func (r Records) leaving(id string) string    { return r.s.Path("container-leaving", id) }
func (r Records) allLinked() string           { return r.nameLink(".all") }

// CheckName says what is wrong with a name.
func CheckName(name string) error {
	if len(name) < 2 || !names.Valid(name) {
		return fmt.Errorf("invalid container name %q: want two or more letters, digits, _, . and -, beginning with a letter or digit", name)
	}
	return nil
}

// ownName is the name of a container that was given none.
func ownName(id string) string { return "c-" + id[:12] }

// lockNames takes the lock on which container has which name, and which ids.
func (r Records) lockNames() (*filelock.Lock, error) {
	return filelock.Acquire(context.Background(), r.namesLock(), filelock.Exclusive, nil)
}

func (r Records) namesLock() string { return r.s.Path("locks", "containers") }

// takeName gives a container a name that no other one has. The caller has the lock
// on names, and writes the container's record then.
func (r Records) takeName(name, id string) error {
	if err := r.linkAll(); err != nil {
		return err
	}
	_ = r.sweep() // one that can't be removed is told by Sweep
	c, err := r.linked(name)
	switch {
	case err == nil && c.ID != id:
		return fmt.Errorf("the name %q is in use by container %s: remove it with builder rm, or take another name", name, c.ID[:12])
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return link(id, r.nameLink(name))
}

// linked returns the container that has a name. The error wraps [fs.ErrNotExist] if
// no link leads to one.
func (r Records) linked(name string) (Config, error) {
	if CheckName(name) != nil {
		return Config{}, fs.ErrNotExist
	}
	id, err := os.Readlink(r.nameLink(name))
	if own, ok := strings.CutPrefix(name, "c-"); ok && len(own) == 12 && errors.Is(err, fs.ErrNotExist) {
		id, err = r.newFinder().id(own)
	}
	if err != nil {
		return Config{}, err
	}
	c, err := r.load(id)
	if err == nil && c.Name != name {
		err = fmt.Errorf("%w: container %s has another name", fs.ErrNotExist, id)
	}
	return c, err
}

// link makes a link, in place of one that is there. No other one is made in its
// directory at the same time.
func link(to, name string) error {
	err := os.Symlink(to, name)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	next := filepath.Join(filepath.Dir(name), ".next")
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(to, next); err != nil {
		return err
	}
	return os.Rename(next, name)
}

// unlink removes the link from a container's name. The caller has the lock on names.
func (r Records) unlink(c Config) {
	if id, err := os.Readlink(r.nameLink(c.Name)); err == nil && id == c.ID {
		_ = os.Remove(r.nameLink(c.Name)) // it would lead to nothing
	}
}

// forgetName is unlink of a container that was removed, if nobody has the lock on
// names: the link may stay.
func (r Records) forgetName(c Config) {
	if CheckName(c.Name) != nil || c.Name == ownName(c.ID) {
		return
	}
	if names, err := filelock.TryAcquire(r.namesLock(), filelock.Exclusive); err == nil {
		r.unlink(c)
		names.Release()
	}
}

// noteLeaving notes that a container that is about to be made removes itself.
func (r Records) noteLeaving(id string) error {
	err := os.Symlink(ProcessID(), r.leaving(id))
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.Mkdir(r.leaving(""), 0o700); err == nil || errors.Is(err, fs.ErrExist) {
			err = os.Symlink(ProcessID(), r.leaving(id))
		}
	}
	return err
}

// maker says whether the process lives that has made a container which removes
// itself.
func (r Records) maker(id string) (lives bool) {
	process, err := os.Readlink(r.leaving(id))
	if err == nil {
		lives, _ = processLives(process)
	}
	return lives
}

// nobody stands for a maker that has ended.
const nobody = "-"

// linkAll makes the links of all containers, once since the machine has started: a
// power cut can have lost some, and older versions made none. The caller has the
// lock on names.
func (r Records) linkAll() error {
	if r.areLinked() {
		return nil
	}
	for _, dir := range []string{r.nameLink(""), r.leaving("")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	all, err := r.heads()
	if err != nil {
		return err
	}
	for _, c := range all {
		if c.AutoRemove {
			if err := os.Symlink(nobody, r.leaving(c.ID)); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		if CheckName(c.Name) == nil && c.Name != ownName(c.ID) {
			if err := link(c.ID, r.nameLink(c.Name)); err != nil {
				return err
			}
		}
	}
	entries, err := os.ReadDir(r.nameLink(""))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, err := r.linked(e.Name()); errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(r.nameLink(e.Name()))
		}
	}
	return atomicfile.Write(r.allLinked(), []byte(sys.BootID()), 0o600)
}

// areLinked says whether linkAll has been done.
func (r Records) areLinked() bool {
	boot, err := os.ReadFile(r.allLinked())
	return err == nil && len(boot) > 0 && string(boot) == sys.BootID()
}

// abandoned says whether a container that removes itself can't do it any more:
// its holder was killed.
func (r Records) abandoned(c head) bool {
	if r.held(c.ID) {
		return false
	}
	s := r.State(c.ID)
	if s.Status == Created {
		return c.ToRun && !r.maker(c.ID) // else that is about to have the monitor start it
	}
	return s.orphan() || !s.Alive() && !r.awaited(c.ID) // the monitor may be about to see to it
}

// Sweep removes the containers that would have removed themselves, and that a
// kill or a power cut has kept from it. [Records.Create] does so as well when it
// gives a name.
func (r Records) Sweep() error {
	if !r.areLinked() {
		names, err := r.lockNames()
		if err != nil {
			return err
		}
		err = r.linkAll()
		names.Release()
		if err != nil {
			return err
		}
	}
	return r.sweep()
}

func (r Records) sweep() error {
	entries, err := os.ReadDir(r.leaving(""))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		made := r.maker(e.Name()) // looked at first: then it is there, or won't be
		c, err := r.head(e.Name())
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if !made {
				_ = os.Remove(r.leaving(e.Name()))
			}
		case err != nil:
			errs = append(errs, err)
		case r.abandoned(c):
			errs = append(errs, r.removeAbandoned(c.ID))
		}
	}
	return errors.Join(errs...)
}

// removeAbandoned removes a container in place of its holder, if it still has none.
func (r Records) removeAbandoned(id string) error {
	c, err := r.loadOrBroken(id)
	if err == nil {
		err = r.Remove(c)
	}
	if errors.Is(err, ErrRunning) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		r.event(c, "destroy", nil)
	}
	return err
}

// nameOf is the name that a container has by now: who holds it may know an old one.
func (r Records) nameOf(c Config) string {
	if now, err := r.head(c.ID); err == nil {
		return now.Name
	}
	return c.Name
}

// Rename gives a container another name, by which it is known on its networks as
// well, at once if it runs.
func (r Records) Rename(c Config, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	names, err := r.lockNames()
	if err != nil {
		return err
	}
	defer names.Release()
	if err := r.takeName(name, c.ID); err != nil {
		return err
	}
	err = r.changeNamed(c.ID, func(now *Config) { c.Name, now.Name = now.Name, name })
	if err != nil {
		return err
	}
	if c.Name != name {
		r.unlink(c)
	}
	if c.Endpoint == nil {
		return nil
	}
	return r.networks.Rename(c.ID, c.Name, name)
}

// head is what is looked for in the records of all containers. To read it alone
// takes a fraction of the time.
type head struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	AutoRemove bool   `json:"autoRemove"`
	ToRun      bool   `json:"toRun"`
}

// head reads that of a container. The error wraps [fs.ErrNotExist] if it is not
// there.
func (r Records) head(id string) (head, error) {
	var h head
	data, err := os.ReadFile(r.config(id))
	if err == nil && json.Unmarshal(data, &h) == nil && h.ID == id {
		return h, nil
	}
	c, err := r.loadOrBroken(id)
	return head{ID: c.ID, Name: c.Name, AutoRemove: c.AutoRemove, ToRun: c.ToRun}, err
}

// heads is configs, in any order, as far as head goes.
func (r Records) heads() ([]head, error) { return readAll(r, r.head) }

// finder finds containers by what they are called.
type finder struct {
	r   Records
	ids func() ([]string, error) // in order, listed once
}

func (r Records) newFinder() *finder {
	return &finder{r, sync.OnceValues(func() ([]string, error) {
		ids, err := r.ids()
		slices.Sort(ids)
		return ids, err
	})}
}

// Find returns the container of a name, an ID or the beginning of one. The
// error wraps [ErrNotFound] if there is none.
func (r Records) Find(name string) (Container, error) { return r.Finder()(name) }

func (r Records) find(name string) (Config, error) { return r.newFinder().find(name) }

// Finder is Find for many names: it lists the containers once. One that is made
// after that is not found by a part of its ID.
func (r Records) Finder() func(name string) (Container, error) {
	f := r.newFinder()
	return func(name string) (Container, error) {
		c, err := f.find(name)
		if err != nil {
			return Container{}, err
		}
		return Container{Config: c, State: r.State(c.ID)}, nil
	}
}

func (f *finder) find(name string) (Config, error) {
	if len(name) == 64 {
		if c, err := f.r.load(name); err == nil {
			return c, nil
		}
	}
	if c, err := f.r.linked(strings.TrimPrefix(name, "/")); err == nil {
		return c, nil
	}
	id, err := f.id(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !f.r.areLinked() {
		id, err = f.idByRecord(name)
	}
	if err != nil {
		return Config{}, err
	}
	c, err := f.r.loadOrBroken(id)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return c, err
}

// id is the ID that has a beginning. The error wraps [fs.ErrNotExist] if there is
// none.
func (f *finder) id(start string) (string, error) {
	ids, err := f.ids()
	if err != nil {
		return "", err
	}
	at, _ := slices.BinarySearch(ids, start)
	has := func(i int) bool { return i < len(ids) && strings.HasPrefix(ids[i], start) }
	switch {
	case start == "" || !has(at):
		return "", fmt.Errorf("%w: container %s", fs.ErrNotExist, start)
	case has(at + 1):
		return "", fmt.Errorf("container ID %s is ambiguous: give more of its digits", start)
	}
	return ids[at], nil
}

// idByRecord is the ID of the container of a name or a beginning of its ID, where
// not all have links to their names.
func (f *finder) idByRecord(name string) (string, error) {
	all, err := f.r.heads()
	if err != nil {
		return "", err
	}
	for _, c := range all {
		if c.Name == strings.TrimPrefix(name, "/") {
			return c.ID, nil
		}
	}
	id, err := f.id(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return id, err
}
