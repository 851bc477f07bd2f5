// SPDX-License-Identifier: Apache-2.0

package network

import (
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Base is a network namespace of our own in which bridges, rules and gateways
// are, for a user who may not change the machine's. Published ports stay the
// machine's, and so does whom the names of others are asked of: a socket is of
// the namespace in which it was made.
type Base interface {
	// Threads are those of the namespace. If it isn't there it is made if start
	// says so; else they are nil.
	Threads(start bool) (*Threads, error)
}

// SetBase has the networks be in a namespace of their own. It is called before
// anything else is.
func (n *Networks) SetBase(b Base) { n.base = b }

// inBase runs f where the bridges are.
func (n *Networks) inBase(f func() error) error {
	if n.base == nil {
		return f()
	}
	t, err := n.base.Threads(true)
	if err != nil {
		return err
	}
	return t.Do(f)
}

// inBaseIfThere runs f where the bridges are, and does nothing if that is not
// there: what f would take away is not there either.
func (n *Networks) inBaseIfThere(f func() error) error {
	if n.base == nil {
		return f()
	}
	t, err := n.base.Threads(false)
	if t == nil || err != nil {
		return err
	}
	return t.Do(f)
}

// Threads are threads of this process that are in a network namespace. They
// can't get back, so they are kept for a while to be used again.
type Threads struct {
	ns   *os.File
	work chan func()
}

// NewThreads are those of a namespace, which has to stay open.
func NewThreads(ns *os.File) *Threads { return &Threads{ns, make(chan func())} }

// Namespace is the namespace that they are in.
func (t *Threads) Namespace() *os.File { return t.ns }

// threadIdle is how long a thread waits for more work.
const threadIdle = 5 * time.Second

// Do runs f on one of the threads. It must not make processes: they would be
// taken for orphans when the thread ends.
func (t *Threads) Do(f func() error) error {
	done := make(chan error, 1)
	do := func() { done <- f() }
	select {
	case t.work <- do:
	default:
		go t.run(do, done)
	}
	return <-done
}

func (t *Threads) run(do func(), failed chan<- error) {
	runtime.LockOSThread() // and not unlocked: see NewNamespace
	if err := unix.Setns(int(t.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		failed <- os.NewSyscallError("setns", err)
		return
	}
	idle := time.NewTimer(threadIdle)
	defer idle.Stop()
	for {
		do()
		idle.Reset(threadIdle)
		select {
		case do = <-t.work:
		case <-idle.C:
			return
		}
	}
}
