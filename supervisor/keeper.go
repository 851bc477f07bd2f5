// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"builder/container"
	"builder/internal/filelock"
	"builder/internal/sys"
)

// The keeper is the monitor's parent and does nothing of its own that could
// fail: it starts the monitor again when that was killed, keeps open meanwhile
// where the output of containers comes from, and, as the parent of orphans,
// learns how containers end that the killed monitor had started. It notes that in
// run/exits/PID for the next one.
//
// When the keeper was killed the monitor, whose children the containers are,
// becomes the keeper and starts a new monitor.

// exit is how an orphan ended.
type exit struct {
	Start  uint64             `json:"start"` // see container.StartTime
	Status syscall.WaitStatus `json:"status"`
}

func (r Records) exitFile(pid int) string { return r.s.Path("run", "exits", strconv.Itoa(pid)) }

// lastExit is how a process that has ended did so, if the keeper knows or is
// about to: it notes that before the process is waited for.
func (r Records) lastExit(pid int, start uint64) (syscall.WaitStatus, bool) {
	for wait := time.Millisecond; ; wait *= 2 {
		waited := container.EndedStartTime(pid) != start
		status, ok := r.exitOf(pid, start)
		if ok || waited || wait > time.Second || !locked(r.keeperLock()) {
			return status, ok
		}
		time.Sleep(wait)
	}
}

// exitOf is how the process ended of which the keeper was the parent.
func (r Records) exitOf(pid int, start uint64) (syscall.WaitStatus, bool) {
	data, err := os.ReadFile(r.exitFile(pid))
	var e exit
	if err != nil || json.Unmarshal(data, &e) != nil || e.Start != start {
		return 0, false
	}
	return e.Status, true
}

// terminalFD is the first descriptor of the terminals that the monitor gets:
// after that of its readiness and that of the keeper's socket.
const (
	readyFD = 3 + iota
	socketFD
	terminalFD
)

// keeper is the state of [Keep].
type keeper struct {
	records Records
	command []string // of the monitor; IDs of the terminals are added
	log     func(string)

	mu        sync.Mutex
	outputs   map[string]keptOutput // by the container's ID
	receiving sync.WaitGroup
}

// keptOutput is where a container's output comes from: its terminal, or its two
// pipes. They are descriptors and no files, as nobody waits for them here.
type keptOutput struct {
	fds     []int
	monitor int // the process that has given it
}

func (o keptOutput) terminal() bool { return len(o.fds) == 1 }

func (o keptOutput) close() {
	for _, fd := range o.fds {
		_ = syscall.Close(fd)
	}
}

// Keep runs a monitor, by a command line to which it adds one --terminal ID for
// each terminal, and runs it anew until it ends by itself. ready is closed once
// the first is ready, or has ended. Where there is a keeper already it does
// nothing.
func Keep(r Records, command []string, ready *os.File, log func(string)) error {
	if err := os.MkdirAll(filepath.Dir(r.exitFile(0)), 0o700); err != nil {
		return err
	}
	// Another keeper, which is about to start its monitor again, must stay the
	// parent of what that one had started. It is locked for a moment by who only
	// looks, too.
	look, cancel := context.WithTimeout(context.Background(), lookWait)
	defer cancel()
	lock, err := filelock.Acquire(look, r.keeperLock(), filelock.Exclusive, nil)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Release()
	return keep(r, command, nil, ready, log)
}

// KeepOn is [Keep] in the process of a monitor whose keeper has ended, which has
// passed on the lock and the outputs.
func KeepOn(r Records, command []string, lock int, outputs []string, log func(string)) error {
	defer filelock.Inherit(lock).Release()
	return keep(r, command, outputs, nil, log)
}

func keep(r Records, command, outputs []string, ready *os.File, log func(string)) error {
	if err := sys.AdoptOrphans(true); err != nil {
		return err
	}
	k := &keeper{records: r, command: command, log: log, outputs: map[string]keptOutput{}}
	for _, text := range outputs {
		id, o, err := inheritOutput(text)
		if err != nil {
			return err
		}
		k.outputs[id] = o
	}
	for failures := 0; ; failures++ {
		begun := time.Now()
		pid, err := k.spawn(ready)
		ready.Close()
		if err == nil {
			var status syscall.WaitStatus
			status, err = k.await(pid)
			if err != nil || status.Exited() && status.ExitStatus() == 0 {
				return err
			}
			err = fmt.Errorf("the monitor ended (%s) and is started again", describe(status))
		}
		k.receiving.Wait()
		log(err.Error())
		if time.Since(begun) > steady {
			failures = 0
		}
		if failures > 10 {
			return errors.New("the monitor fails again and again")
		}
		time.Sleep(firstPause << min(failures, 6) / 10)
	}
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return "exit code " + strconv.Itoa(s.ExitStatus())
}

// spawn starts the monitor.
func (k *keeper) spawn(ready *os.File) (pid int, err error) {
	ours, theirs, err := sys.SocketPair()
	if err != nil {
		return 0, err
	}
	defer theirs.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	if _, err := ready.Stat(); err != nil {
		ready = null // a later one: nobody waits
	}
	args := k.command
	fds := []uintptr{null.Fd(), null.Fd(), os.Stderr.Fd(), ready.Fd(), theirs.Fd()}
	k.mu.Lock()
	for id, o := range k.outputs {
		if o.terminal() { // pipes have names
			args = append(args[:len(args):len(args)], "--terminal", id)
			fds = append(fds, uintptr(o.fds[0]))
		}
	}
	k.mu.Unlock()
	pid, err = syscall.ForkExec(args[0], args, &syscall.ProcAttr{Dir: "/", Env: os.Environ(), Files: fds})
	if err != nil {
		ours.Close()
		return 0, &os.PathError{Op: "start monitor", Path: args[0], Err: err}
	}
	k.receiving.Go(func() {
		defer ours.Close()
		k.receive(ours, pid)
	})
	return pid, nil
}

// What the monitor says of a container's output is its ID, with the output, or,
// when that has ended, its ID with a sign before it.
const (
	dropOutput = "-"
	// dropOthers stands alone: what a killed monitor has given and this one
	// hasn't is not needed.
	dropOthers = "="
)

// receive keeps the outputs that a monitor gives, and drops those that it says
// have ended, until the monitor does.
func (k *keeper) receive(socket *os.File, monitor int) {
	for {
		text, fds, err := sys.ReceiveFiles(socket)
		if err != nil || text == "" {
			return
		}
		id, dropped := strings.CutPrefix(text, dropOutput)
		k.mu.Lock()
		switch {
		case text == dropOthers:
			maps.DeleteFunc(k.outputs, func(_ string, o keptOutput) bool {
				if o.monitor != monitor {
					o.close()
				}
				return o.monitor != monitor
			})
		case dropped:
			k.outputs[id].close()
			delete(k.outputs, id)
		case len(fds) > 0:
			k.outputs[id].close()
			k.outputs[id] = keptOutput{fds, monitor}
		}
		k.mu.Unlock()
	}
}

// await waits for the end of the monitor and notes how others end meanwhile.
func (k *keeper) await(monitor int) (syscall.WaitStatus, error) {
	for {
		pid, status, err := sys.PeekEnded(0, 0)
		if err != nil {
			return 0, err
		}
		if pid != monitor {
			e := exit{Start: container.EndedStartTime(pid), Status: status}
			if err := save(k.records.exitFile(pid), e); err != nil {
				k.log(err.Error())
			}
		}
		for {
			if _, err := syscall.Wait4(pid, nil, 0, nil); !errors.Is(err, syscall.EINTR) {
				break
			}
		}
		if pid == monitor {
			return status, nil
		}
	}
}

// Kept is what the keeper gives its monitor. The zero value is nothing.
type Kept struct {
	socket    *os.File
	mu        *sync.Mutex
	terminals map[string]*os.File
}

// Inherit takes what the keeper gives to the monitor's process, with the IDs of
// the terminals from its command line.
func Inherit(ids []string) (ready *os.File, kept Kept) {
	_ = syscall.SetNonblock(socketFD, true) // so that no thread waits for the keeper's end
	kept = Kept{socket: inherited(socketFD), mu: new(sync.Mutex), terminals: map[string]*os.File{}}
	for i, id := range ids {
		_ = syscall.SetNonblock(terminalFD+i, true) // so that reading ends where there is no more
		kept.terminals[id] = inherited(terminalFD + i)
	}
	return inherited(readyFD), kept
}

// inherited is a descriptor that no program of ours is to inherit further.
func inherited(fd int) *os.File {
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "inherited")
}

// awaitEnd returns when the keeper has ended.
func (k Kept) awaitEnd() {
	for {
		if text, _, err := sys.ReceiveFiles(k.socket); err != nil || text == "" {
			return
		}
	}
}

// keep has the keeper keep open where a container's output comes from.
func (k Kept) keep(id string, output ...*os.File) error {
	if k.socket == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	err := sys.SendFiles(k.socket, id, output...)
	if errors.Is(err, syscall.EPIPE) {
		err = nil // there is no keeper any more
	}
	return err
}

// drop says that a container's output has ended.
func (k Kept) drop(id string) { k.say(dropOutput + id) }

// all says that nothing is needed of what an earlier monitor has given and this
// one hasn't.
func (k Kept) all() {
	for _, f := range k.terminals {
		f.Close()
	}
	clear(k.terminals)
	k.say(dropOthers)
}

func (k Kept) say(text string) {
	if k.socket == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = sys.SendFiles(k.socket, text) // the keeper is gone: so is what it kept
}
