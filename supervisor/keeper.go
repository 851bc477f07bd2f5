// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	command []string // of the monitor; keys of the terminals are added
	log     func(string)

	mu        sync.Mutex
	outputs   map[string]keptOutput // by their keys: see [Kept]
	receiving sync.WaitGroup
}

// keptOutput is where output of a container comes from. It is a descriptor and no
// file, as nobody waits for it here.
type keptOutput struct {
	fd      int
	monitor int // the process that has given it
}

// Keep runs a monitor, by a command line to which it adds one --terminal KEY for
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
	return newKeeper(r, command, log).run(ready)
}

// KeepOn is [Keep] in the process of a monitor whose keeper has ended, which has
// passed on the lock's descriptor, and outputs: KEY=DESCRIPTOR. As the parent of
// the containers has to stay, nothing of that is an error.
func KeepOn(r Records, command []string, lock int, outputs []string, log func(string)) error {
	if held, err := sys.Inherit(lock); err != nil {
		log(fmt.Sprintf("inherit the lock: %v", err))
	} else {
		defer held.Close()
	}
	k := newKeeper(r, command, log)
	for _, text := range outputs {
		key, number, _ := strings.Cut(text, "=")
		fd, err := strconv.Atoi(number)
		if err == nil {
			err = sys.CloseOnExec(fd)
		}
		if err != nil {
			log(fmt.Sprintf("inherit output %s: %v", text, err))
			continue
		}
		k.outputs[key] = keptOutput{fd: fd}
	}
	return k.run(nil)
}

func newKeeper(r Records, command []string, log func(string)) *keeper {
	return &keeper{records: r, command: command, log: log, outputs: map[string]keptOutput{}}
}

// run runs monitors. ready is nil if nobody waits.
func (k *keeper) run(ready *os.File) error {
	if err := sys.AdoptOrphans(true); err != nil {
		return err
	}
	for failures := 0; ; failures++ {
		begun := time.Now()
		pid, err := k.spawn(ready)
		if ready != nil {
			ready.Close()
			ready = nil
		}
		if err == nil {
			var status syscall.WaitStatus
			status, err = k.await(pid)
			k.receiving.Wait()
			// It may have taken another one, which is just ending, for the monitor.
			if err != nil || status.Exited() && status.ExitStatus() == 0 && len(k.outputs) == 0 {
				return err
			}
			err = fmt.Errorf("the monitor ended (%s) and is started again", describe(status))
		}
		k.log(err.Error())
		if time.Since(begun) > steady {
			failures = 0
		}
		if failures > 10 && len(k.outputs) == 0 {
			return errors.New("the monitor fails again and again")
		}
		time.Sleep(min(firstPause<<min(failures, 20)/10, longestPause))
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
	if ready == nil {
		ready = null
	}
	args := k.command
	fds := []uintptr{null.Fd(), null.Fd(), os.Stderr.Fd(), ready.Fd(), theirs.Fd()}
	k.mu.Lock()
	for key, o := range k.outputs {
		if !isPipe(key) { // these have names
			args = append(args[:len(args):len(args)], "--terminal", key)
			fds = append(fds, uintptr(o.fd))
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

// receive keeps the outputs that a monitor gives, and drops those that it says
// have ended, until the monitor does.
func (k *keeper) receive(socket *os.File, monitor int) {
	for {
		text, fd, err := sys.ReceiveFile(socket)
		if err != nil || text == "" {
			return
		}
		key, dropped := strings.CutPrefix(text, dropOutput)
		if !dropped && key != dropOthers && fd < 0 {
			k.log("output " + key + " can't be kept: there are too many open files, perhaps")
			continue
		}
		k.mu.Lock()
		if key == dropOthers {
			for have, o := range k.outputs {
				if o.monitor != monitor {
					k.forget(have)
				}
			}
		} else if k.forget(key); !dropped {
			k.outputs[key] = keptOutput{fd, monitor}
		}
		k.mu.Unlock()
	}
}

// forget closes an output, if there is one of the key. k.mu is held.
func (k *keeper) forget(key string) {
	if o, ok := k.outputs[key]; ok {
		_ = syscall.Close(o.fd)
		delete(k.outputs, key)
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
