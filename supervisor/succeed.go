// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"builder/internal/filelock"
	"builder/internal/sys"
)

// succeed waits for the keeper's end and then becomes the keeper.
func (m *Monitor) succeed(ctx context.Context) {
	m.kept.awaitEnd()
	for ctx.Err() == nil {
		err := m.becomeKeeper(ctx)
		m.log(fmt.Sprintf("the keeper has ended, and its place can't be taken: %v", err))
		time.Sleep(longestPause)
	}
}

// becomeKeeper executes the keeper in place of this process, which is the parent
// of the containers and has to stay it. For them it is as if the monitor was
// killed. It returns only if that can't be done.
func (m *Monitor) becomeKeeper(ctx context.Context) error {
	// A new one may be there for a moment, until it sees that there is a monitor.
	lock, err := filelock.Acquire(ctx, m.records.keeperLock(), filelock.Exclusive, nil)
	if err != nil {
		return err
	}
	defer lock.Release()
	// For good, if all goes well: what is not kept yet is not executed either.
	m.kept.mu.Lock()
	defer m.kept.mu.Unlock()
	syscall.ForkLock.RLock() // nobody else is to inherit what this passes on
	defer syscall.ForkLock.RUnlock()
	var fds []int
	defer func() {
		for _, fd := range fds {
			_ = syscall.Close(fd)
		}
	}()
	args := m.keeper[:len(m.keeper):len(m.keeper)]
	passOn := func(flag, name string, f *os.File) error {
		fd, err := sys.PassOn(f)
		if errors.Is(err, os.ErrClosed) {
			return nil // all of it was taken
		}
		if err != nil {
			return fmt.Errorf("pass on %s %s: %w", flag, name, err)
		}
		fds = append(fds, fd)
		args = append(args, flag, name+strconv.Itoa(fd))
		return nil
	}
	if err := passOn("--lock", "", lock.File()); err != nil {
		return err
	}
	for key, f := range m.kept.files {
		if err := passOn("--output", key+"=", f); err != nil {
			return err
		}
	}
	var files syscall.Rlimit // which executing sets back to what this process was started with
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	err = syscall.Exec("/proc/self/exe", args, os.Environ())
	return errors.Join(os.NewSyscallError("execve", err), syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files))
}
