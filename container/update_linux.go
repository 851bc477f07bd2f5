// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// Update changes what the container may use of the machine, while it runs, to
// all of r. What is zero stays as it is. warn is told what has no effect here.
// After the process has ended it returns [os.ErrProcessDone].
func (p *Process) Update(r Resources, warn func(string)) error {
	if err := CheckResources(r); err != nil {
		return err
	}
	h, err := theHost()
	if err != nil {
		return err
	}
	p.groupMu.Lock()
	defer p.groupMu.Unlock()
	if p.ended || p.cgroup.dir == nil {
		return os.ErrProcessDone
	}
	h.mu.Lock()
	made, err := h.cgroups.limit(p.cgroup, r, warn)
	h.mu.Unlock()
	// Also after an error: no group is to be there that doesn't hold them.
	for _, twin := range made {
		err = errors.Join(err, p.cgroup.enter(twin))
	}
	if err != nil {
		return fmt.Errorf("bound resources: %w", err)
	}
	return nil
}

// enter has all processes of the group join a twin of it. Those that are made
// meanwhile are where their parents are.
func (g *cgroup) enter(twin *cgroup) error {
	joined := map[int]bool{}
	for {
		pids, err := g.pids()
		if err != nil {
			return err
		}
		more := false
		for _, pid := range pids {
			if joined[pid] {
				continue
			}
			joined[pid], more = true, true
			if err := writeFileAt(twin.dir, "cgroup.procs", strconv.Itoa(pid)); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if !more {
			return nil
		}
	}
}

// pids are the processes of the group and of those below it, which the container
// may have made.
func (g *cgroup) pids() ([]int, error) { return pidsIn(g.dir, ".") }

func pidsIn(dir *os.File, name string) (out []int, err error) {
	text, err := readAllAt(dir, name+"/cgroup.procs")
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // of threads alone
		return nil, err
	}
	for word := range strings.FieldsSeq(text) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return nil, err
		}
		out = append(out, pid)
	}
	entries, err := os.ReadDir(sys.FDPath(dir) + "/" + name)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		more, err := pidsIn(dir, name+"/"+e.Name())
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrGone) {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}
