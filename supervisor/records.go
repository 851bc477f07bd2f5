// SPDX-License-Identifier: Apache-2.0

package supervisor

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
	"slices"
	"syscall"
	"time"

	"builder/container"
	"builder/internal/atomicfile"
	"builder/internal/filelock"
	"builder/internal/quickjson"
	"builder/internal/sys"
	"builder/network"
	"builder/snapshot"
	"builder/store"
)

// Records are the containers of a state directory.
//
//	containers/ID/container.json  what it is to be: [Config]
//	containers/ID/state.json      how it fares: [State]
//	containers/ID/lock            held by its holder
//	containers/ID/fs, work        its file system on top of the image's
//	containers/ID/log/            its output
//	containers/ID/out, err        the pipes of its output
//	container-names/              which of them has a name: names.go
//	container-leaving/            those that remove themselves: names.go
type Records struct {
	s        *store.Store
	networks *network.Networks
}

// NewRecords are the containers of a store.
func NewRecords(s *store.Store) Records {
	r := Records{s: s}
	r.networks = network.Open(s.Path("networks"), s.Path(), r.present)
	return r
}

// Networks are the networks of the state directory.
func (r Records) Networks() *network.Networks { return r.networks }

// present says whether a container runs, or is about to.
func (r Records) present(id string) bool {
	if lives, is := processLives(id); is {
		return lives
	}
	s := r.readState(id)
	return s.Alive() && s.processLives() || r.held(id)
}

// ProcessID makes the name under which this process, which is no container,
// has something on a network. It holds as long as the process lives.
func ProcessID() string {
	pid := os.Getpid()
	return fmt.Sprintf("process-%d-%d-%s", pid, container.StartTime(pid), NewID()[:12])
}

// processLives says whether the process lives that made an ID of ProcessID.
func processLives(id string) (lives, is bool) {
	var pid int
	var start uint64
	if _, err := fmt.Sscanf(id, "process-%d-%d-", &pid, &start); err != nil {
		return false, false
	}
	return isProcess(pid, start), true
}

// isProcess says whether a process lives, by its number and [container.StartTime].
func isProcess(pid int, start uint64) bool {
	return start != 0 && container.StartTime(pid) == start
}

// Root is the state directory.
func (r Records) Root() string { return r.s.Path() }

// Dir is where a container's files are.
func (r Records) Dir(id string) string { return r.s.Path("containers", id) }

// ErrNotFound says that no container has the name or ID.
var ErrNotFound = errors.New("no such container")

// ErrRunning says that something can't be done to a container that runs.
var ErrRunning = errors.New("container is running")

// NewID makes an ID.
func NewID() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Create makes a container that has not started, with its lock held by the
// caller. An empty name is made from the ID. prepare fills its directory,
// which is not yet in its place: others see a whole container or none.
func (r Records) Create(c *Config, prepare func(dir string) error) (*filelock.Lock, error) {
	own := c.Name == "" // and so nobody else's
	if own {
		c.Name = ownName(c.ID)
	}
	if err := CheckName(c.Name); err != nil {
		return nil, err
	}
	dir, err := r.s.TempDir()
	if err != nil {
		return nil, err
	}
	lock, err := filelock.TryAcquire(filepath.Join(dir, "lock"), filelock.Exclusive)
	if err != nil {
		return nil, err
	}
	err = prepare(dir)
	if err == nil && c.AutoRemove {
		err = r.noteLeaving(c.ID)
	}
	if err == nil {
		err = r.publish(c, dir, !own)
	}
	if err != nil {
		return nil, errors.Join(err, lock.Release())
	}
	return lock, nil
}

// publish puts a container where all see it. check says that its name may be
// somebody's.
func (r Records) publish(c *Config, dir string, check bool) error {
	if check || c.ChooseIDs != nil {
		names, err := r.lockNames()
		if err != nil {
			return err
		}
		defer names.Release()
		if check {
			if err := r.takeName(c.Name, c.ID); err != nil {
				return err
			}
		}
		if err := r.chooseIDs(c); err != nil {
			return err
		}
	}
	if err := save(filepath.Join(dir, "container.json"), c); err != nil {
		return err
	}
	if err := os.MkdirAll(r.s.Path("containers"), 0o700); err != nil {
		return err
	}
	return os.Rename(dir, r.Dir(c.ID))
}

// chooseIDs has a container choose its ids beside others.
func (r Records) chooseIDs(c *Config) error {
	if c.ChooseIDs == nil {
		return nil
	}
	others, err := r.configs()
	if err != nil {
		return err
	}
	var taken []container.IDMap
	for _, other := range others {
		// Who has the machine's root has nothing of its own.
		if _, root := other.Spec.IDs.Inside().UID(0); !root {
			taken = append(taken, other.Spec.IDs)
		}
	}
	if c.Spec.IDs, err = c.ChooseIDs(taken); err != nil {
		return fmt.Errorf("--userns %s: %w", c.UserNSMode, err)
	}
	return nil
}

// Change changes what a container is to be, as it is written down now.
func (r Records) Change(id string, change func(*Config)) error {
	names, err := r.lockNames()
	if err != nil {
		return err
	}
	defer names.Release()
	return r.changeNamed(id, change)
}

// changeNamed is Change for who has the lock on names.
func (r Records) changeNamed(id string, change func(*Config)) error {
	c, err := r.load(id)
	if err != nil {
		return err
	}
	change(&c)
	return r.Save(c)
}

// Save writes what a container is to be anew.
func (r Records) Save(c Config) error {
	return save(r.config(c.ID), c)
}

func (r Records) saveState(id string, s State) error {
	return save(filepath.Join(r.Dir(id), "state.json"), s)
}

func save(name string, v any) error {
	data, err := quickjson.Marshal(v)
	if err != nil {
		return err
	}
	return atomicfile.Write(name, data, 0o600)
}

// ids are those of all containers, in any order.
func (r Records) ids() ([]string, error) {
	entries, err := os.ReadDir(r.s.Path("containers"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	ids := make([]string, len(entries))
	for i, e := range entries {
		ids[i] = e.Name()
	}
	return ids, nil
}

// configs are all containers, newest first, without their states.
func (r Records) configs() ([]Config, error) {
	out, err := readAll(r, r.loadOrBroken)
	slices.SortStableFunc(out, func(a, b Config) int { return b.Created.Compare(a.Created) })
	return out, err
}

// readAll reads something of all containers, in any order.
func readAll[T any](r Records, read func(id string) (T, error)) ([]T, error) {
	ids, err := r.ids()
	if err != nil {
		return nil, err
	}
	out := make([]T, 0, len(ids))
	for _, id := range ids {
		v, err := read(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// loadOrBroken is load, or what stands for a container that a power cut has left
// without a record. The error wraps [fs.ErrNotExist] if it is not there.
func (r Records) loadOrBroken(id string) (Config, error) {
	c, err := r.load(id)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(r.Dir(id)); err != nil {
			return c, err
		}
	}
	var unread *fs.PathError
	switch {
	case err == nil:
		return c, nil
	case errors.As(err, &unread) && !errors.Is(err, fs.ErrNotExist):
		return c, err // it may be whole
	}
	return Config{ID: id, Name: "?", Image: "?", AutoRemove: true, ToRun: true}, nil
}

// config is the file of what a container is to be.
func (r Records) config(id string) string { return filepath.Join(r.Dir(id), "container.json") }

func (r Records) load(id string) (Config, error) {
	data, err := os.ReadFile(r.config(id))
	if err != nil {
		return Config{}, err
	}
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("container %s: %w", id, err)
	}
	if c.ID != id {
		return c, fmt.Errorf("container %s: its record is that of %q", id, c.ID)
	}
	return c, nil
}

// List returns all containers, newest first.
func (r Records) List() ([]Container, error) {
	configs, err := r.configs()
	if err != nil {
		return nil, err
	}
	out := make([]Container, len(configs))
	for i, c := range configs {
		out[i] = Container{Config: c, State: r.State(c.ID)}
	}
	return out, nil
}

// State tells how a container fares. Its holder's word counts, but not against
// the kernel's: a holder may have been killed.
func (r Records) State(id string) State {
	for wait := time.Millisecond; ; wait *= 2 {
		s := r.readState(id)
		alive := s.Alive() && s.processLives()
		if s.Alive() == alive && s.Status != Restarting {
			return s
		}
		if r.held(id) {
			if s.Status == Restarting || wait > time.Second {
				return s
			}
			time.Sleep(wait) // its holder is about to write it down
			continue
		}
		return r.abandonedState(s)
	}
}

func (r Records) readState(id string) State {
	s := State{Status: Created}
	data, err := os.ReadFile(filepath.Join(r.Dir(id), "state.json"))
	if err != nil || json.Unmarshal(data, &s) != nil {
		return State{Status: Created}
	}
	return s
}

func (s State) processLives() bool {
	return s.Boot == sys.BootID() && isProcess(s.Pid, s.PidStart)
}

// abandonedState is the state of a container that has ended when nobody held it.
func (r Records) abandonedState(s State) State {
	var status syscall.WaitStatus
	known := false
	if s.Alive() && !s.Foreground && s.Boot == sys.BootID() {
		status, known = r.lastExit(s.Pid, s.PidStart)
	}
	switch {
	case s.Status == Restarting:
	case known && status.Signaled():
		s.ExitCode = 128 + int(status.Signal())
	case known:
		s.ExitCode = status.ExitStatus()
	case s.Foreground:
		s.ExitCode, s.Error = 137, "killed with the command that ran it"
	default:
		s.ExitCode, s.Error = 255, "it ended, nobody knows how, while the monitor was not there"
	}
	s.Status, s.Pid, s.Network = Exited, 0, nil
	if s.Finished.Before(s.Started) {
		s.Finished = s.Started
	}
	return s
}

// held says whether a process holds a container.
func (r Records) held(id string) bool { return locked(filepath.Join(r.Dir(id), "lock")) }

// awaited says whether the next monitor, which the keeper is about to start, has to
// see to a container first.
func (r Records) awaited(id string) bool {
	return r.readState(id).background() && locked(r.keeperLock())
}

// lookWait is for how long others may have a container's lock who only look
// whether it is held.
const lookWait = 100 * time.Millisecond

// lock takes the lock of a container that nobody holds. The error wraps
// [ErrRunning] if somebody does, or fs.ErrNotExist if it was removed.
func (r Records) lock(c Config) (*filelock.Lock, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookWait)
	defer cancel()
	lock, err := filelock.Acquire(ctx, filepath.Join(r.Dir(c.ID), "lock"), filelock.Exclusive, nil)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("container %s: %w", c.Name, ErrRunning)
	}
	return lock, err
}

// Remove removes a container that doesn't run; the error wraps [ErrRunning] if
// it does. One that somebody else removes at the same time is removed.
func (r Records) Remove(c Config) error {
	lock, err := r.lock(c)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Release()
	if err := r.endOrphan(c); err != nil {
		return err
	}
	s := r.readState(c.ID)
	if s.Alive() && s.processLives() {
		return fmt.Errorf("container %s: %w", c.Name, ErrRunning)
	}
	if s.Alive() { // it ended while nobody held it, and nobody has told that yet
		r.tellEnd(c, r.abandonedState(s), placeEvents(c, s.Network, "disconnect", "unmount"))
	}
	removeGroups(c)
	// Rules that can't be dropped now are no reason to keep it.
	return errors.Join(r.networks.Drop(c.ID), r.RemoveHeld(c))
}

// endOrphan ends the container of a command that was killed, and with which it
// should have ended: the kernel forgets that when a process changes its user. The
// caller has the container's lock.
func (r Records) endOrphan(c Config) error {
	s := r.readState(c.ID)
	if !s.orphan() {
		return nil
	}
	p, err := container.OpenProcess(s.Pid, s.PidStart)
	if errors.Is(err, container.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	if err := container.SignalProcess(p, syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end container %s: %w", c.Name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseWait)
	defer cancel()
	return container.WaitGone(ctx, p)
}

// orphan says whether the container has the state of one that runs with a
// command. It is one that is left if nobody holds it.
func (s State) orphan() bool { return s.Foreground && s.Alive() && s.processLives() }

// EndOrphan ends what a killed command has left of a container that it held, and
// drops what that had of networks. If somebody holds it, nothing happens.
func (r Records) EndOrphan(c Config) error {
	if s := r.readState(c.ID); !s.Foreground || !s.Alive() {
		return nil
	}
	lock, err := r.lock(c)
	if errors.Is(err, ErrRunning) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = r.endOrphan(c)
	if err == nil {
		err = r.networks.Drop(c.ID)
	}
	return errors.Join(err, lock.Release())
}

// removeGroups removes the control groups that a killed holder has left of a
// container. What can't be removed now is swept by a later start.
func removeGroups(c Config) {
	c.Spec.ID = c.ID
	_ = container.RemoveGroups(c.Spec)
}

// RemoveHeld removes a container whose lock the caller has. One that removes
// itself takes its anonymous volumes with it.
func (r Records) RemoveHeld(c Config) error {
	// At once, and then what it held: who looks for its lock meanwhile would
	// make the file again.
	dir, err := r.s.TempDir()
	if err != nil {
		return err
	}
	if err := os.Rename(r.Dir(c.ID), filepath.Join(dir, "container")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove container %s: %w", c.Name, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove container %s: %w", c.Name, err)
	}
	_ = os.Remove(r.s.Path("run", socketOf(c.ID))) // of a killed command
	r.forgetName(c)
	if !c.AutoRemove {
		return nil
	}
	_ = os.Remove(r.leaving(c.ID)) // or the next sweep does so
	return r.RemoveVolumes(c)
}

// Snapshots are those that containers stand on.
func (r Records) Snapshots() ([]snapshot.ID, error) {
	all, err := r.configs()
	if err != nil {
		return nil, err
	}
	var ids []snapshot.ID
	for _, c := range all {
		if c.Snapshot != "" {
			ids = append(ids, snapshot.ID(c.Snapshot))
		}
		for _, m := range c.Mounts {
			if m.Snapshot != "" {
				ids = append(ids, snapshot.ID(m.Snapshot))
			}
		}
	}
	return ids, nil
}

// Hold keeps a container that doesn't run from being started or removed, until
// the lock is released. The error wraps [ErrRunning] if it runs.
func (r Records) Hold(c Config) (*filelock.Lock, error) {
	lock, err := r.lock(c)
	if err != nil {
		return nil, err
	}
	if s := r.readState(c.ID); s.Alive() && s.processLives() {
		return nil, errors.Join(fmt.Errorf("container %s: %w", c.Name, ErrRunning), lock.Release())
	}
	return lock, nil
}
