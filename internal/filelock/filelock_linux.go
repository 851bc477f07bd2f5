// SPDX-License-Identifier: Apache-2.0

// Package filelock locks across processes with flock(2). A lock belongs to an
// open file, so two locks taken in one process exclude each other as well, and
// the kernel releases what a dead process held.
package filelock

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

// Mode says who else may hold a lock at the same time.
type Mode int

// A shared lock excludes exclusive ones, an exclusive lock every other.
const (
	Shared    Mode = syscall.LOCK_SH
	Exclusive Mode = syscall.LOCK_EX
)

// ErrLocked says that another holder excludes the lock asked for.
var ErrLocked = errors.New("locked by another process")

// Lock is a held lock.
type Lock struct{ f *os.File }

// Acquire opens or makes the file name and waits until the lock is had or ctx
// ends. It polls, at most every 50 ms, because flock(2) itself can't be
// cancelled. wait, if not nil, is called once if the lock is not had at once.
func Acquire(ctx context.Context, name string, mode Mode, wait func()) (*Lock, error) {
	for delay := time.Millisecond; ; delay = min(2*delay, 50*time.Millisecond) {
		l, err := TryAcquire(name, mode)
		if !errors.Is(err, ErrLocked) {
			return l, err
		}
		if wait != nil {
			wait()
			wait = nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(delay):
		}
	}
}

// TryAcquire is [Acquire] that fails with [ErrLocked] instead of waiting.
//
// A lock file may be removed by whoever holds it exclusively: a lock got on a
// file that the name no longer means is dropped and taken again.
func TryAcquire(name string, mode Mode) (*Lock, error) {
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		for {
			err = syscall.Flock(int(f.Fd()), int(mode)|syscall.LOCK_NB)
			if !errors.Is(err, syscall.EINTR) {
				break
			}
		}
		if err != nil {
			f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, ErrLocked
			}
			return nil, &os.PathError{Op: "flock", Path: name, Err: err}
		}
		if same(f, name) {
			return &Lock{f}, nil
		}
		f.Close()
	}
}

func same(f *os.File, name string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(name)
	return err == nil && os.SameFile(a, b)
}

// File is the open file that the lock belongs to: as long as it is open anywhere,
// the lock is held.
func (l *Lock) File() *os.File { return l.f }

// Release gives the lock up. Repeating it does nothing.
func (l *Lock) Release() error {
	if l == nil || l.f == nil {
		return nil
	}
	f := l.f
	l.f = nil
	return f.Close()
}

// ReleaseAndRemove removes the lock's file and gives the lock up. The lock
// must be exclusive.
func (l *Lock) ReleaseAndRemove() error {
	if l == nil || l.f == nil {
		return nil
	}
	return errors.Join(os.Remove(l.f.Name()), l.Release())
}
