// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"builder/internal/filelock"
	"builder/internal/sys"
	"builder/snapshot"
)

// The sockets lie in run/: monitor.sock, and ID.sock of each container that a
// command holds. monitor.lock is held by the monitor.

// socket returns a path of a socket that is short enough for an address, by
// way of an open directory, which the caller closes after use.
func (r Records) socket(name string) (path string, dir *os.File, err error) {
	dir, err = os.Open(r.s.Path("run"))
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(r.s.Path("run"), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", nil, err
		}
		dir, err = os.Open(r.s.Path("run"))
	}
	if err != nil {
		return "", nil, err
	}
	return filepath.Join(sys.FDPath(dir), name), dir, nil
}

const monitorSocket = "monitor.sock"

// monitorLock and keeperLock are held by these two.
func (r Records) monitorLock() string { return r.s.Path("run", "monitor.lock") }
func (r Records) keeperLock() string  { return r.s.Path("run", "keeper.lock") }

// locked says whether somebody has a lock.
func locked(name string) bool {
	lock, err := filelock.TryAcquire(name, filelock.Shared)
	if err != nil {
		return errors.Is(err, filelock.ErrLocked)
	}
	lock.Release()
	return false
}

// socketOf is the socket of a container that a command holds.
func socketOf(id string) string { return id[:12] + ".sock" }

// listen makes a socket in place of one that a killed process left.
func (r Records) listen(name string) (*net.UnixListener, error) {
	path, dir, err := r.socket(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return sys.ListenUnix(path)
}

// Monitor holds all containers of a state directory that no command holds.
type Monitor struct {
	records Records
	snaps   *snapshot.Overlay
	log     func(string) // where warnings of containers go that nobody waits for
	kept    *Kept
	keeper  []string // the command that runs [KeepOn]

	adopting sync.Mutex // held while containers are taken over

	mu      sync.Mutex
	holders map[string]*holder
	left    map[string]error // what could not be taken over yet, and why
	adopted bool             // all have been taken over
	busy    atomic.Int64     // connections being served
	changed chan struct{}
}

// ErrMonitor says that there is a monitor already.
var ErrMonitor = errors.New("there is a monitor already")

// NewMonitor makes the monitor of a state directory. keeper is the command that
// runs [KeepOn]: to it are added --lock and, for each output, --output.
func NewMonitor(r Records, snaps *snapshot.Overlay, kept *Kept, keeper []string, log func(string)) *Monitor {
	return &Monitor{records: r, snaps: snaps, kept: kept, keeper: keeper, log: log, holders: map[string]*holder{}, changed: make(chan struct{}, 1)}
}

// idleTime is how long a monitor stays that has no containers.
const idleTime = 2 * time.Second

// Run takes over the containers that run and have no holder, starts those that
// are to be started again, and serves requests until it holds none any more.
// ready is called when it listens. The error wraps [ErrMonitor] if there is
// one.
func (m *Monitor) Run(ctx context.Context, ready func()) error {
	if err := os.MkdirAll(m.records.s.Path("run"), 0o700); err != nil {
		return err
	}
	// Others have it for a moment to see whether there is a monitor.
	look, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	lock, err := filelock.Acquire(look, m.records.monitorLock(), filelock.Exclusive, nil)
	if errors.Is(err, context.DeadlineExceeded) {
		return ErrMonitor
	}
	if err != nil {
		return err
	}
	defer lock.Release()
	l, err := m.records.listen(monitorSocket)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	if err := m.adopt(ctx); err != nil {
		return err
	}
	ready()
	go m.succeed(ctx)
	for {
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			m.accept(ctx, l)
		}()
		m.untilIdle(ctx)
		// Somebody may just have asked for something.
		if err := l.Close(); err != nil {
			return err
		}
		<-gone
		if ctx.Err() != nil || m.idle() {
			return nil
		}
		if l, err = m.records.listen(monitorSocket); err != nil {
			return err
		}
	}
}

// idle says whether nothing is held or asked for.
func (m *Monitor) idle() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.holders) == 0 && m.busy.Load() == 0
}

func (m *Monitor) accept(ctx context.Context, l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // no descriptors left, perhaps
			continue
		}
		m.busy.Add(1)
		go func() {
			defer m.release()
			handle(ctx, c, m)
		}()
	}
}

func (m *Monitor) release() {
	m.busy.Add(-1)
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// untilIdle returns when nothing has been held or asked for a while.
func (m *Monitor) untilIdle(ctx context.Context) {
	for {
		var over <-chan time.Time
		if m.idle() {
			over = time.After(idleTime)
		}
		select {
		case <-m.changed:
		case <-over:
			return
		case <-ctx.Done():
			return
		}
	}
}

// releaseWait is for how long whoever held a container that has ended may take
// to let go of it.
const releaseWait = 10 * time.Second

func (m *Monitor) held(id string) *holder {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.holders[id]
}

func (m *Monitor) begin(id string, warn func(string)) (*holder, error) {
	if err := m.takeOver(id); err != nil {
		return nil, err
	}
	c, err := m.records.load(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	if err != nil {
		return nil, err
	}
	if h := m.held(id); h != nil {
		h.mu.Lock()
		over := h.over
		h.mu.Unlock()
		if !over {
			return nil, fmt.Errorf("container %s: %w", c.Name, ErrRunning)
		}
		<-h.ended
		if c, err = m.records.load(id); err != nil { // it was to be removed, perhaps
			return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
		}
	}
	lock, err := m.records.lock(c)
	for deadline := time.Now().Add(releaseWait); errors.Is(err, ErrRunning) && time.Now().Before(deadline); {
		if st := m.records.readState(id); st.Alive() || st.Status == Restarting {
			break
		}
		lock, err = m.records.lock(c) // a command that held it is letting go
	}
	if err != nil {
		return nil, err
	}
	if c, err = m.records.load(id); err == nil { // as it is now that nobody changes it
		err = m.records.endOrphan(c)
	}
	if err != nil {
		return nil, errors.Join(err, lock.Release())
	}
	st := m.records.readState(id)
	if st.Alive() && st.processLives() {
		return nil, errors.Join(fmt.Errorf("container %s: %w", c.Name, ErrRunning), lock.Release())
	}
	h := newHolder(m.records, m.snaps, c, lock)
	h.kept, h.warn = m.kept, func(msg string) {
		if h.begun.Load() {
			m.log(msg) // nobody waits for it any more
			return
		}
		warn(msg)
	}
	h.state = st
	h.state.Restarts = 0
	return h, nil
}

func (m *Monitor) keep(h *holder, started func(error)) {
	m.mu.Lock()
	m.holders[h.config.ID] = h
	m.mu.Unlock()
	go func() {
		defer m.drop(h)
		h.run(func(err error) {
			h.begun.Store(true)
			started(err)
		})
	}()
}

func (m *Monitor) drop(h *holder) {
	m.mu.Lock()
	if m.holders[h.config.ID] == h {
		delete(m.holders, h.config.ID)
	}
	m.mu.Unlock()
	m.forgetExits()
	select {
	case m.changed <- struct{}{}:
	default:
	}
}
