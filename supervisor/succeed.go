// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"builder/internal/filelock"
	"builder/internal/sys"
)

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
	// All of these for good, if all goes well.
	m.adopting.Lock()
	defer m.adopting.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	syscall.ForkLock.RLock() // nobody else is to inherit what this passes on
	defer syscall.ForkLock.RUnlock()
	p := passedOn{args: m.keeper[:len(m.keeper):len(m.keeper)]}
	defer p.close()
	if err := p.lock(lock); err != nil {
		return err
	}
	for id, f := range m.kept.terminals { // of containers that could not be taken over
		if err := p.output(id, []*os.File{f}); err != nil {
			return err
		}
	}
	for id, h := range m.holders {
		h.mu.Lock()
		out := h.out
		h.mu.Unlock()
		if out == nil || len(out.from) == 0 {
			continue
		}
		if err := p.output(id, out.from); err != nil && !errors.Is(err, os.ErrClosed) { // else it has just ended
			return fmt.Errorf("container %s: pass on its output: %w", h.config.Name, err)
		}
	}
	return os.NewSyscallError("execve", syscall.Exec("/proc/self/exe", p.args, os.Environ()))
}

// passedOn is a command with descriptors that stay open for it.
type passedOn struct {
	args []string
	fds  []int
}

func (p *passedOn) lock(l *filelock.Lock) error {
	fd, err := l.PassOn()
	if err != nil {
		return err
	}
	p.fds = append(p.fds, fd)
	p.args = append(p.args, "--lock", strconv.Itoa(fd))
	return nil
}

// output passes on where a container's output comes from.
func (p *passedOn) output(id string, from []*os.File) error {
	var numbers []string
	for _, f := range from {
		conn, err := f.SyscallConn()
		if err != nil {
			return err
		}
		var fd int
		var errDup error
		err = conn.Control(func(from uintptr) { fd, errDup = sys.DupInherited(from) })
		if err := errors.Join(err, errDup); err != nil {
			return err
		}
		p.fds = append(p.fds, fd)
		numbers = append(numbers, strconv.Itoa(fd))
	}
	p.args = append(p.args, "--output", id+"="+strings.Join(numbers, ","))
	return nil
}

// inheritOutput takes what output has passed on.
func inheritOutput(text string) (id string, o keptOutput, err error) {
	id, numbers, _ := strings.Cut(text, "=")
	for n := range strings.SplitSeq(numbers, ",") {
		fd, err := strconv.Atoi(n)
		if err != nil {
			return id, o, fmt.Errorf("output %q: %w", text, err)
		}
		syscall.CloseOnExec(fd)
		o.fds = append(o.fds, fd)
	}
	return id, o, nil
}

// close undoes it where nothing was executed.
func (p *passedOn) close() {
	for _, fd := range p.fds {
		_ = syscall.Close(fd)
	}
}
