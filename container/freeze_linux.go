// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// Freeze stops all processes of the container until [Process.Thaw], by its
// control group: they can't notice or prevent it. It returns when all have
// stopped. Repeating it does nothing.
func (p *Process) Freeze() error { return p.cgroup.freeze("1") }

// Thaw lets them go on.
func (p *Process) Thaw() error { return p.cgroup.freeze("0") }

// Frozen says whether they are stopped, or about to be. It is an error if there is
// no control group that tells.
func (p *Process) Frozen() (bool, error) {
	if p.cgroup.dir == nil {
		return false, errors.New(notDelegated)
	}
	f, err := sys.OpenInRoot(p.cgroup.dir, "cgroup.freeze", unix.O_RDONLY, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	return strings.TrimSpace(string(data)) == "1", err
}

// freeze writes cgroup.freeze, a file of every group of version 2 whatever its
// controllers, and waits until the kernel has done it.
func (g *cgroup) freeze(value string) error {
	if g.dir == nil && g.kept {
		return errors.New(notDelegated)
	}
	if g.dir == nil {
		return errors.New("the container's control group is gone")
	}
	f, err := sys.OpenInRoot(g.dir, "cgroup.freeze", unix.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("freeze control group: %w", err)
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("freeze control group: %w", err)
	}
	for wait := 100 * time.Microsecond; wait < 2*time.Second; wait *= 2 {
		if frozen(g.dir) == value {
			return nil
		}
		time.Sleep(wait)
	}
	return errors.New("freeze control group: the processes do not stop")
}

// frozen is the group's state in cgroup.events.
func frozen(dir *os.File) string {
	f, err := sys.OpenInRoot(dir, "cgroup.events", unix.O_RDONLY, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(data), "frozen ")
	return strings.TrimSpace(after)
}
