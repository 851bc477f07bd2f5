// SPDX-License-Identifier: Apache-2.0

package usernet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"builder/container"
	"builder/internal/filelock"
	"builder/network"
)

// idle is how long the process stays that nobody needs: a new one takes longer to
// start than to be found.
const idle = 3 * time.Second

// server is the process that has a namespace.
type server struct {
	dir string
	ns  *os.File

	mu      sync.Mutex
	clients int
	changed chan struct{}
}

// Serve has the namespace of a directory and has forward pass on what comes out of
// it, as [builder/usernet/stack.Forward] does, until no client is connected and inUse
// says that no container needs it. ready is called when it listens. Where there is such a process already it
// does nothing.
func Serve(ctx context.Context, dir string, forward func(u *network.Uplink, failed func(error)) error, ready func(), inUse func() bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := filelock.TryAcquire(filepath.Join(dir, lockFile), filelock.Exclusive)
	if errors.Is(err, filelock.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Release()
	s := &server{dir: dir, ns: find(dir), changed: make(chan struct{}, 1)}
	if s.ns == nil {
		if s.ns, err = network.NewNamespace(); err != nil {
			return err
		}
	}
	uplink, err := network.MakeUplink(network.NewThreads(s.ns))
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	if err := forward(uplink, func(err error) { failed <- err }); err != nil {
		return fmt.Errorf("start the network stack: %w", err)
	}
	l, err := s.listen()
	if err != nil {
		return err
	}
	ready()
	go s.accept(l)
	// After a failure another process is better off, which the clients start.
	err = s.untilIdle(ctx, inUse, failed)
	return errors.Join(err, l.Close())
}

func (s *server) listen() (l *net.UnixListener, err error) {
	err = at(s.dir, func(path string) error {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err // one that a killed process left
		}
		if l, err = net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"}); err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		return nil
	})
	return l, err
}

func (s *server) accept(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // no descriptors left, perhaps
			continue
		}
		s.count(1)
		go func() {
			defer s.count(-1)
			s.serve(c)
		}()
	}
}

func (s *server) count(n int) {
	s.mu.Lock()
	s.clients += n
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// serve gives a client the namespace and waits for its end. The file that it
// has written is removed then.
func (s *server) serve(c *net.UnixConn) {
	defer func() { _ = c.Close() }()
	pid, err := peer(c)
	if err != nil || send(c, s.ns) != nil {
		return
	}
	_, _ = c.Read(make([]byte, 1)) // it says nothing, and ends
	_ = os.Remove(filepath.Join(s.dir, strconv.Itoa(pid)))
}

// peer is the process at the other end.
func peer(c *net.UnixConn) (pid int, err error) {
	conn, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	var failed error
	err = conn.Control(func(fd uintptr) {
		cred, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(err, failed); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// untilIdle returns when nobody has needed the network for a while, or with what
// has failed.
func (s *server) untilIdle(ctx context.Context, inUse func() bool, failed <-chan error) error {
	for {
		s.mu.Lock()
		n := s.clients
		s.mu.Unlock()
		var over <-chan time.Time
		if n == 0 {
			over = time.After(idle)
		}
		select {
		case <-s.changed:
		case <-over:
			if !inUse() {
				return nil
			}
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// find opens the namespace of a process that was killed: a client of it that
// lives has it open. It is nil if there is none. Files of clients that have ended
// are removed.
func find(dir string) *os.File {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var found *os.File
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		name := filepath.Join(dir, e.Name())
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		ns, err := openOf(pid, string(text))
		switch {
		case errors.Is(err, container.ErrGone):
			_ = os.Remove(name)
		case err == nil && found == nil:
			found = ns
		case err == nil:
			ns.Close()
		}
	}
	return found
}

// openOf opens the namespace that a client has open, given what its file says.
func openOf(pid int, text string) (*os.File, error) {
	var start uint64
	var fd int
	if _, err := fmt.Sscanf(text, "%d %d", &start, &fd); err != nil {
		if container.StartTime(pid) == 0 { // killed while it wrote
			err = container.ErrGone
		}
		return nil, err
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
	if start == 0 || container.StartTime(pid) != start {
		if err == nil {
			ns.Close()
		}
		return nil, fmt.Errorf("process %d: %w", pid, container.ErrGone)
	}
	if err != nil {
		return nil, err
	}
	kind, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_NSTYPE)
	if err == nil && kind != unix.CLONE_NEWNET {
		err = fmt.Errorf("descriptor %d of process %d is no network namespace", fd, pid)
	}
	if err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}
