// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"builder/container"
	"builder/internal/filelock"
	"builder/snapshot"
)

// Foreground is a container that this process holds: it ends with it.
type Foreground struct {
	h      *holder
	l      *net.UnixListener
	socket string
	viewer *viewer // of what doesn't go directly to the streams
	shown  sync.WaitGroup
}

// IO are the streams of a container in the foreground; nil ones are dropped.
type IO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Width, Height  uint16
	// Ready is called before the container's command is executed for the first time, which
	// it isn't if there is an error; nil for nothing.
	Ready func() error
}

// RunForeground starts a container of which the caller has the lock, and holds
// it. One that removes itself at its end gets the streams as they are and keeps
// no log.
func (r Records) RunForeground(snaps *snapshot.Overlay, c Config, lock *filelock.Lock, io IO, warn func(string)) (*Foreground, error) {
	h := newHolder(r, snaps, c, lock)
	h.warn, h.foreground, h.size = warn, &io, [2]uint16{io.Width, io.Height}
	f := &Foreground{h: h, socket: socketOf(c.ID), viewer: newViewer()}
	l, err := r.listen(f.socket)
	if err != nil {
		return nil, errors.Join(err, h.giveUp())
	}
	f.l = l
	go f.accept()
	h.watch(f.viewer)
	f.shown.Go(func() { f.viewer.copyTo(io.Stdout, io.Stderr) })
	if err := h.start(); err != nil {
		h.mu.Lock()
		h.save()
		h.mu.Unlock()
		f.endView()
		return nil, errors.Join(err, f.close(), h.giveUp())
	}
	io.Ready = nil
	return f, nil
}

// endView returns when the output has been shown.
func (f *Foreground) endView() {
	f.viewer.close(State{}) // if it isn't yet
	f.shown.Wait()
}

// giveUp lets go of a container that did not start. One that would remove
// itself, or that was only made to be run, is removed.
func (h *holder) giveUp() error {
	close(h.ended)
	if h.config.AutoRemove {
		return errors.Join(h.records.RemoveHeld(h.config), h.lock.Release())
	}
	return h.lock.Release()
}

func (f *Foreground) close() error {
	err := f.l.Close()
	if gone := os.Remove(filepath.Join(f.h.records.s.Path("run"), f.socket)); !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone) // else it went with the container
	}
	return err
}

func (f *Foreground) accept() {
	for {
		c, err := f.l.AcceptUnix()
		if err != nil {
			return
		}
		go handle(context.Background(), c, f)
	}
}

func (f *Foreground) held(id string) *holder {
	if id != f.h.config.ID {
		return nil
	}
	return f.h
}

func (f *Foreground) takeOver(string) error { return nil }

func (f *Foreground) begin(string, func(string)) (*holder, error) { return nil, ErrRunning }

func (f *Foreground) keep(*holder, func(error)) {}

// Signal sends a signal to the container's process.
func (f *Foreground) Signal(sig syscall.Signal) { _ = f.h.signal(sig) }

// Resize says that the user's terminal has another size.
func (f *Foreground) Resize(width, height uint16) { _ = f.h.resize(width, height) }

// Wait returns when the container has ended, how, and has it removed if it is
// to be.
func (f *Foreground) Wait() State {
	f.h.wait()
	f.h.release()
	close(f.h.ended)
	if err := f.close(); err != nil {
		f.h.warn(err.Error())
	}
	f.endView()
	return f.h.current()
}

// foregroundStreams gives the container the streams of this process.
func (h *holder) foregroundStreams(spec *container.Spec, dir string) (*output, []*os.File, error) {
	spec.KillWithParent = true
	spec.Stdin = h.foreground.Stdin
	out := &output{viewers: h.waiting}
	h.waiting = nil
	switch {
	case spec.Terminal:
		spec.Width, spec.Height = h.size[0], h.size[1]
		spec.Stdout = out
	case h.config.AutoRemove:
		spec.Stdout, spec.Stderr = h.foreground.Stdout, h.foreground.Stderr
		return out, nil, nil
	}
	if !h.config.AutoRemove && h.config.Log.Driver != "none" {
		log, err := openLog(filepath.Join(dir, "log"), h.config.Log)
		if err != nil {
			return nil, nil, err
		}
		out.log = log
	}
	if spec.Terminal {
		return out, nil, nil
	}
	child, err := out.pipes(dir, true)
	if err != nil {
		return nil, nil, errors.Join(err, out.close())
	}
	spec.Stdout, spec.Stderr = child[Stdout], child[Stderr]
	return out, []*os.File{child[Stdout], child[Stderr]}, nil
}
