// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"builder/container"
)

// output takes what a container writes to its log and to those who look on.
type output struct {
	log *logWriter // nil for none

	moving  sync.RWMutex // held to read while a piece is moved
	mu      sync.Mutex
	viewers []*viewer
	ended   bool        // all of the container's processes have
	told    *State      // what viewers were told at the end
	readers [3]*os.File // of the pipes, by stream
	pumps   sync.WaitGroup
}

// add has one more look on. What is written from when it returns on is seen: a
// piece that is being moved to the log alone is waited for.
func (o *output) add(v *viewer) {
	o.moving.Lock()
	defer o.moving.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.viewers = append(o.viewers, v)
	if o.ended {
		v.end()
	}
	if o.told != nil {
		v.close(*o.told)
	}
}

func (o *output) remove(v *viewer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.viewers = slices.DeleteFunc(o.viewers, func(have *viewer) bool { return have == v })
}

func (o *output) watched() []*viewer {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.viewers)
}

// show gives those who look on what was written, which is theirs then.
func (o *output) show(s Stream, b []byte) {
	for _, v := range o.watched() {
		if !v.put(piece{s, b}) {
			o.remove(v)
		}
	}
}

// Write takes a terminal's output. It never fails: the container is not to
// notice who looks on.
func (o *output) Write(b []byte) (int, error) {
	if o.log != nil {
		o.log.Write(Stdout, b)
	}
	if len(o.watched()) > 0 {
		o.show(Stdout, bytes.Clone(b))
	}
	return len(b), nil
}

// end says that all processes of the container have ended. What they have written
// is still taken. Nothing else is waited for: neither those who look on, nor
// processes of others that were passed the container's output.
func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	for _, v := range o.viewers {
		v.end()
	}
	for _, r := range o.readers {
		if r != nil {
			_ = r.SetReadDeadline(time.Unix(1, 0))
		}
	}
}

// tellViewers tells those who look on how the container has ended, when they have
// got all that it wrote.
func (o *output) tellViewers(last State) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told = &last
	for _, v := range o.viewers {
		v.close(last)
	}
}

// close waits until all output has been taken, after its end, and closes the log.
func (o *output) close() error {
	o.end()
	o.pumps.Wait()
	closeAll(o.readers[:])
	if o.log == nil {
		return nil
	}
	return o.log.Close()
}

// pipes are a container's outputs that are no terminal: named pipes in its
// directory, whose other ends its processes have open for reading and writing,
// so that a killed holder does not end them and the next one finds what they
// have written. The pipes' own ends are o.readers.
func (o *output) pipes(dir string, fresh bool) (child [3]*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(child[:])
		}
	}()
	for s, name := range map[Stream]string{Stdout: dir + "/out", Stderr: dir + "/err"} {
		if fresh {
			if err := makePipe(name); err != nil {
				return child, err
			}
		}
		reader, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return child, err
		}
		if fresh {
			// Not through Go's poller: the container gets a blocking one.
			fd, err := syscall.Open(name, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
			if err != nil {
				reader.Close()
				return child, &os.PathError{Op: "open", Path: name, Err: err}
			}
			child[s] = os.NewFile(uintptr(fd), name)
		}
		o.mu.Lock()
		o.readers[s] = reader
		o.mu.Unlock()
		o.pumps.Go(func() { o.pump(s, reader) })
	}
	return child, nil
}

func makePipe(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		return &os.PathError{Op: "mkfifo", Path: name, Err: err}
	}
	// A process of any user opens it anew as /dev/stdout; nobody else comes
	// to where it is.
	return os.Chmod(name, 0o666)
}

// pieceSize is how much is moved at a time: a pipe's capacity.
const pieceSize = 64 << 10

// pump moves what comes through a pipe until nobody has its other end or, after
// the container's end, what is there then.
func (o *output) pump(s Stream, pipe *os.File) {
	conn, err := pipe.SyscallConn()
	if err != nil {
		return
	}
	var copies [2]*os.File
	defer func() { closeAll(copies[:]) }()
	wait, left := conn.Read, int64(math.MaxInt64)
	for left > 0 {
		var n int64
		var moved error
		var seen []byte
		err := wait(func(fd uintptr) bool {
			n, seen, moved = o.move(s, fd, &copies)
			return !errors.Is(moved, syscall.EAGAIN)
		})
		if len(seen) > 0 {
			o.show(s, seen)
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			left = container.Present(pipe)
			wait = func(move func(fd uintptr) bool) error { return conn.Control(func(fd uintptr) { move(fd) }) }
		case err != nil || moved != nil || n == 0:
			return
		default:
			left -= n
		}
	}
}

// move moves a piece to the log and returns it too if anybody looks on, by
// tee(2), which takes nothing out of the pipe.
func (o *output) move(s Stream, fd uintptr, copies *[2]*os.File) (n int64, seen []byte, err error) {
	o.moving.RLock()
	defer o.moving.RUnlock()
	most := pieceSize
	watched := len(o.watched()) > 0
	if o.log == nil {
		buf := make([]byte, 32<<10)
		m, err := syscall.Read(int(fd), buf)
		return int64(max(m, 0)), buf[:max(m, 0)], err
	}
	if watched {
		if seen, err = tee(fd, most, copies); err != nil || len(seen) == 0 {
			return 0, nil, err
		}
		most = len(seen)
	}
	for n < int64(most) {
		m, err := o.log.splice(s, fd, most-int(n))
		n += m
		if err != nil && n == 0 {
			return n, seen, err
		}
		if !watched || err != nil || m == 0 {
			break
		}
	}
	return n, seen, nil
}

// tee copies what a pipe holds and leaves it there.
func tee(fd uintptr, most int, copies *[2]*os.File) ([]byte, error) {
	if copies[0] == nil {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		copies[0], copies[1] = r, w
	}
	for {
		n, err := syscall.Tee(int(fd), int(copies[1].Fd()), most, spliceNonblock)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return nil, err
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(copies[0], b); err != nil {
			return nil, fmt.Errorf("read copy of output: %w", err)
		}
		return b, nil
	}
}
