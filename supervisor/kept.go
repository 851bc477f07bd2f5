// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"builder/internal/sys"
)

// Kept is what the keeper keeps open for its monitor: where the output of
// containers comes from. nil is that of a command, which keeps nothing.
//
// A terminal has the container's ID as its key, a pipe the ID, a slash and the
// number of the stream. Each is sent to the keeper with its key.
type Kept struct {
	socket *os.File

	mu        sync.Mutex
	files     map[string]*os.File
	inherited map[string]bool // what no container has taken yet
	unkept    bool            // something could not be given to the keeper
}

// What the monitor says to the keeper without a file.
const (
	dropOutput = "-" // and a key: it has ended
	dropOthers = "=" // what a killed monitor has given and this one hasn't is not needed
)

func pipeKey(id string, s Stream) string { return id + "/" + strconv.Itoa(int(s)) }

func isPipe(key string) bool { return strings.Contains(key, "/") }

// Inherit takes what the keeper gives to the monitor's process, with the keys of
// the terminals from its command line.
func Inherit(terminals []string) (ready *os.File, kept *Kept, err error) {
	take := func(fd int) *os.File {
		f, errFD := sys.Inherit(fd)
		err = errors.Join(err, errFD)
		return f
	}
	// So that no thread waits for the keeper's end, and reading ends where there is
	// no more.
	for fd := socketFD; fd < terminalFD+len(terminals); fd++ {
		_ = syscall.SetNonblock(fd, true)
	}
	kept = &Kept{socket: take(socketFD), files: map[string]*os.File{}, inherited: map[string]bool{}}
	for i, key := range terminals {
		kept.files[key], kept.inherited[key] = take(terminalFD+i), true
	}
	return take(readyFD), kept, err
}

// awaitEnd returns when the keeper has ended.
func (k *Kept) awaitEnd() {
	for {
		if text, _, err := sys.ReceiveFile(k.socket); err != nil || text == "" {
			return
		}
	}
}

// terminal is that of a container, nil if there is none.
func (k *Kept) terminal(id string) *os.File {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.files[id]
}

// keepTime is how long the keeper may take until it takes what it is to keep, and
// dropTime what it is told to drop.
const (
	keepTime = 10 * time.Second
	dropTime = 100 * time.Millisecond
)

// keep has a file kept under a key. It is the caller's until drop.
func (k *Kept) keep(key string, f *os.File) error {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.inherited[key] && k.files[key] != f {
		k.files[key].Close()
	}
	k.files[key] = f
	delete(k.inherited, key)
	err := k.send(key, f, keepTime)
	k.unkept = k.unkept || err != nil
	return err
}

// drop says that the output of a container has ended.
func (k *Kept) drop(c Config) {
	if k == nil {
		return
	}
	keys := []string{pipeKey(c.ID, Stdout), pipeKey(c.ID, Stderr)}
	if c.Spec.Terminal {
		keys = []string{c.ID}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range keys {
		if k.inherited[key] {
			k.files[key].Close()
		}
		delete(k.files, key)
		delete(k.inherited, key)
		// If it doesn't listen it keeps that for the next monitor, which drops it.
		_ = k.send(dropOutput+key, nil, dropTime)
	}
}

// dropOthers says that all containers have been taken over: what was kept for
// others is not needed.
func (k *Kept) dropOthers() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for key := range k.inherited {
		k.files[key].Close()
		delete(k.files, key)
	}
	clear(k.inherited)
	if !k.unkept { // else it has that from an earlier monitor alone
		_ = k.send(dropOthers, nil, dropTime)
	}
}

// send sends to the keeper. k.mu is held. That it has ended is no error.
func (k *Kept) send(text string, f *os.File, patience time.Duration) error {
	_ = k.socket.SetWriteDeadline(time.Now().Add(patience))
	err := sys.SendFile(k.socket, text, f)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return err
}
