// SPDX-License-Identifier: Apache-2.0

package userns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"builder/container"
)

// What one process of a user does to another's container it may do only in the
// same user namespace. So each process of a namespace has a file in a
// directory of the state directory, named by its id and holding the time at
// which it began, and while one of them lives the others join it.

// Register notes that this process is in a namespace that others are to join;
// the process ends without a trace, for the next one finds it gone.
func Register(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return register(dir, os.Getpid())
}

func register(dir string, pid int) error {
	name := filepath.Join(dir, strconv.Itoa(pid))
	if err := os.WriteFile(name, []byte(strconv.FormatUint(container.StartTime(pid), 10)), 0o600); err != nil {
		return fmt.Errorf("note the user namespace: %w", err)
	}
	return nil
}

// lock keeps others from making a namespace meanwhile.
func lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "flock", Path: dir, Err: err}
	}
	return f, nil
}

// member finds a process of the user's namespace, nil if none lives. Files of
// those that have ended are removed.
func member(dir string) (*os.File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		start, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && start > 0 {
			if f, err := container.OpenProcess(pid, start); err == nil {
				return f, nil
			}
		}
		_ = os.Remove(name)
	}
	return nil, nil
}
