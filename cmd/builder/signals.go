// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"builder/container"
)

// interrupts are the signals by which this process is asked to end.
type interrupts struct {
	ch     chan os.Signal // for who waits for one
	come   chan os.Signal // has one if one has come
	caught chan struct{}  // closed when they are caught: until then they end the process
	cancel func()
}

// catchInterrupts has interrupts end a context. It doesn't wait until that is so.
func catchInterrupts() (context.Context, *interrupts) {
	ctx, cancel := context.WithCancel(context.Background())
	i := &interrupts{make(chan os.Signal, 1), make(chan os.Signal, 1), make(chan struct{}), cancel}
	go func() {
		for _, ch := range []chan os.Signal{i.come, i.ch} {
			signal.Notify(ch, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		}
		close(i.caught)
		<-i.ch
		cancel()
	}()
	return ctx, i
}

// err is that of the context, also if an interrupt has come of which it doesn't know yet.
// Without interrupts there is none.
func (i *interrupts) err() error {
	if i == nil || len(i.come) == 0 {
		return nil
	}
	i.cancel()
	return context.Canceled
}

// stop has interrupts end the process.
func (i *interrupts) stop() {
	<-i.caught
	signal.Stop(i.ch)
	signal.Stop(i.come)
}

// signalled is what signals are passed on to.
type signalled interface {
	Signal(syscall.Signal)
	Resize(width, height uint16)
}

// caughtSignals are what this process is sent, from before the container's is
// started: none is lost that comes before there is whom to pass it on to.
type caughtSignals struct {
	ch    chan os.Signal
	begun chan struct{} // closed when they are caught
	done  chan struct{}
}

// sentSignals are those that users and programs send, and SIGPIPE, as a container goes
// on when nobody reads what it writes. Each costs the Go runtime two changes of threads.
var sentSignals = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM,
	syscall.SIGCONT, syscall.SIGTSTP, syscall.SIGWINCH, syscall.SIGPIPE,
}

// beginToCatch catches these, and all others as soon as the container isn't one that ends
// at once. It doesn't wait until it does.
func beginToCatch() *caughtSignals {
	c := &caughtSignals{make(chan os.Signal, 64), make(chan struct{}), make(chan struct{})}
	go func() {
		signal.Notify(c.ch, sentSignals...)
		close(c.begun)
	}()
	time.AfterFunc(100*time.Millisecond, func() { signal.Notify(c.ch) })
	return c
}

// catchSignals is beginToCatch that waits.
func catchSignals() *caughtSignals {
	c := beginToCatch()
	<-c.begun
	return c
}

// stop ends it: what is caught from now on is dropped, as the process is about to
// end.
func (c *caughtSignals) stop() { close(c.done) }

// forwardSignals passes caught signals on to the container's process, and the
// terminal's changes of size.
func (e *env) forwardSignals(c *caughtSignals, p signalled, tty bool) {
	go func() {
		for {
			select {
			case <-c.done:
				return
			case sig := <-c.ch:
				e.forward(p, sig.(syscall.Signal), tty)
			}
		}
	}()
}

func (e *env) forward(p signalled, sig syscall.Signal, tty bool) {
	switch sig {
	case syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGURG, syscall.SIGTTIN, syscall.SIGTTOU:
		// Meant for this process: its children, its streams, its runtime.
	case syscall.SIGWINCH:
		if tty {
			p.Resize(e.terminalSize())
		}
	default:
		p.Signal(sig)
	}
}

// inProcess is a container of this process that signals are passed on to. It
// may have ended meanwhile.
type inProcess struct{ p *container.Process }

func (i inProcess) Signal(sig syscall.Signal) { _ = i.p.Signal(sig) }

func (i inProcess) Resize(width, height uint16) { _ = i.p.Resize(width, height) }
