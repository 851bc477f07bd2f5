// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
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
// fail: it starts the monitor again when that was killed, keeps the terminals
// of containers open meanwhile, and, as the parent of orphans, learns how
// containers end that the killed monitor had started. It notes that in
// run/exits/PID for the next one.

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
		if ok || waited || wait > time.Second {
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
	terminals map[string]*os.File
	receiving sync.WaitGroup
}

// Keep runs a monitor, by a command line to which it adds one --terminal ID for
// each terminal, and runs it anew until it ends by itself. ready is closed once
// the first is ready, or has ended. Where there is a keeper already it does
// nothing.
func Keep(r Records, command []string, ready *os.File, log func(string)) error {
	if err := sys.AdoptOrphans(true); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(r.exitFile(0)), 0o700); err != nil {
		return err
	}
	// Another keeper, which is about to start its monitor again, must stay the
	// parent of what that one had started.
	lock, err := filelock.TryAcquire(r.s.Path("run", "keeper.lock"), filelock.Exclusive)
	if errors.Is(err, filelock.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Release()
	k := &keeper{records: r, command: command, log: log, terminals: map[string]*os.File{}}
	for failures := 0; ; failures++ {
		begun := time.Now()
		pid, err := k.spawn(ready)
		ready.Close()
		if err != nil {
			return err
		}
		status, err := k.await(pid)
		if err != nil || status.Exited() && status.ExitStatus() == 0 {
			return err
		}
		k.receiving.Wait()
		log(fmt.Sprintf("the monitor ended (%s) and is started again", describe(status)))
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
	files := []*os.File{null, null, os.Stderr, ready, theirs}
	k.mu.Lock()
	for id, f := range k.terminals {
		args = append(args[:len(args):len(args)], "--terminal", id)
		files = append(files, f)
	}
	k.mu.Unlock()
	p, err := os.StartProcess(args[0], args, &os.ProcAttr{Dir: "/", Env: os.Environ(), Files: files})
	if err != nil {
		ours.Close()
		return 0, err
	}
	pid = p.Pid
	_ = p.Release() // it is waited for with all others
	k.receiving.Go(func() {
		defer ours.Close()
		k.receive(ours)
	})
	return pid, nil
}

// receive takes the terminals that the monitor opens, and drops those that it
// has closed, until it ends.
func (k *keeper) receive(socket *os.File) {
	for {
		text, f, err := sys.ReceiveFile(socket)
		if err != nil || text == "" {
			return
		}
		id, dropped := strings.CutPrefix(text, "-")
		k.mu.Lock()
		if have := k.terminals[id]; have != nil {
			have.Close()
			delete(k.terminals, id)
		}
		if !dropped && f != nil {
			k.terminals[id] = f
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
	kept = Kept{socket: inherited(socketFD), mu: new(sync.Mutex), terminals: map[string]*os.File{}}
	for i, id := range ids {
		kept.terminals[id] = inherited(terminalFD + i)
	}
	return inherited(readyFD), kept
}

// inherited is a descriptor that no program of ours is to inherit further.
func inherited(fd int) *os.File {
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "inherited")
}

// keepTerminal has the keeper keep a container's terminal open.
func (k Kept) keepTerminal(id string, f *os.File) error {
	if k.socket == nil || f == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return sys.SendFile(k.socket, id, f)
}

// dropTerminal says that it isn't needed any more.
func (k Kept) dropTerminal(id string) {
	if k.socket == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = sys.SendFile(k.socket, "-"+id, nil) // the keeper is gone: so is what it kept
}
