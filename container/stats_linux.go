// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// A Group is all processes of a container, whoever holds that.
type Group struct {
	g   *cgroup
	net bool // it has a network of its own
	pid int
}

// Groups finds the groups of running containers.
type Groups struct{ c *cgroups }

// OpenGroups opens the hierarchies of control groups. It needs no root.
func OpenGroups() (Groups, error) {
	find := newCgroups
	if sys.InUserNamespace() {
		find = rootlessCgroups
	}
	c, err := find()
	return Groups{c}, err
}

// Find returns the group of a container, of which Spec is what it was started
// with and pid its first process.
func (s Groups) Find(spec *Spec, pid int) (Group, error) {
	g := s.c.find(spec, pid)
	if s.c.none && g.dir == nil {
		return Group{}, errors.New(notDelegated)
	}
	if g.dir == nil {
		return Group{}, fmt.Errorf("control group %s: %w", g.path, ErrGone)
	}
	return Group{g: g, pid: pid, net: spec.Network == NetworkNone || spec.Network == NetworkPrivate}, nil
}

// Close lets go of the group.
func (g Group) Close() {
	g.g.dir.Close()
	for _, twin := range g.g.v1 {
		twin.dir.Close()
	}
}

// Pids are the container's processes.
func (g Group) Pids() ([]int, error) { return g.g.pids() }

// Stats is what a container has used and uses.
type Stats struct {
	Time        time.Time     // when it was read
	CPU         time.Duration // of all processors, since its start
	Memory      uint64        // without the files' pages that are not in use
	MemoryLimit uint64        // its bound, or the machine's memory
	Pids        uint64        // processes and threads
	// What was read from and written to disks and, other than its own
	// loopback interface, the network.
	DiskRead, DiskWritten uint64
	NetReceived, NetSent  uint64
}

// Stats reads what the container uses. What no controller counts for it, as
// where a controller is bound to version 1 and the container has no bound of
// that kind, is the sum over its present processes.
func (g Group) Stats() (Stats, error) {
	st := Stats{Time: time.Now()}
	cpu, err := readAllAt(g.g.dir, "cpu.stat")
	if err != nil {
		return st, fmt.Errorf("control group %s: %w", g.g.path, ErrGone)
	}
	st.CPU = time.Duration(number(cpu, "usage_usec")) * time.Microsecond
	pids, err := g.Pids()
	if err != nil {
		return st, err
	}
	g.memory(&st, pids)
	g.threads(&st)
	g.disks(&st, pids)
	if g.net {
		st.network(g.pid)
	}
	return st, nil
}

// read returns the content of a file of the group, or of the one that version 1
// has for it.
func (g Group) read(v2, v1 string) (text string, dir *os.File) {
	if text, err := readAllAt(g.g.dir, v2); err == nil {
		return text, g.g.dir
	}
	for _, twin := range g.g.v1 {
		if text, err := readAllAt(twin.dir, v1); err == nil {
			return text, twin.dir
		}
	}
	return "", nil
}

// number is the number behind a word at the beginning of a line.
func number(text, word string) uint64 {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == word {
			return integer(f[1])
		}
	}
	return 0
}

// integer is 0 for what is none, such as "max".
func integer(text string) uint64 {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (g Group) memory(st *Stats, pids []int) {
	st.MemoryLimit = totalMemory()
	used, dir := g.read("memory.current", "memory.usage_in_bytes")
	if dir == nil {
		for _, pid := range pids {
			text := readProc(pid, "smaps_rollup")
			st.Memory += (number(text, "Pss_Anon:") + number(text, "Pss_Shmem:")) << 10
		}
		return
	}
	stat, err := readAllAt(dir, "memory.stat")
	if err != nil {
		return
	}
	idle := number(stat, "inactive_file")
	if dir != g.g.dir {
		idle = number(stat, "total_inactive_file")
	}
	if st.Memory = integer(used); idle < st.Memory {
		st.Memory -= idle
	}
	bound, _ := g.read("memory.max", "memory.limit_in_bytes")
	if n := integer(bound); n > 0 && n < st.MemoryLimit {
		st.MemoryLimit = n
	}
}

func totalMemory() uint64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	return number(string(text), "MemTotal:") << 10
}

func (g Group) threads(st *Stats) {
	if text, dir := g.read("pids.current", "pids.current"); dir != nil {
		st.Pids = integer(text)
		return
	}
	text, err := readAllAt(g.g.dir, "cgroup.threads")
	if err == nil {
		st.Pids = uint64(len(strings.Fields(text)))
	}
}

func (g Group) disks(st *Stats, pids []int) {
	text, dir := g.read("io.stat", "blkio.throttle.io_service_bytes_recursive")
	if dir == nil {
		for _, pid := range pids {
			text := readProc(pid, "io")
			st.DiskRead += number(text, "read_bytes:")
			st.DiskWritten += number(text, "write_bytes:")
		}
		return
	}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		for i, f := range fields {
			key, value, _ := strings.Cut(f, "=")
			switch {
			case key == "rbytes":
				st.DiskRead += integer(value)
			case key == "wbytes":
				st.DiskWritten += integer(value)
			case i == 1 && len(fields) == 3 && f == "Read": // 8:0 Read 4096
				st.DiskRead += integer(fields[2])
			case i == 1 && len(fields) == 3 && f == "Write":
				st.DiskWritten += integer(fields[2])
			}
		}
	}
}

// network adds up the interfaces of a process's network namespace
// (proc_pid_net(5)).
func (st *Stats) network(pid int) {
	for line := range strings.Lines(readProc(pid, "net/dev")) {
		name, counts, ok := strings.Cut(line, ":")
		f := strings.Fields(counts)
		if !ok || len(f) < 16 || strings.TrimSpace(name) == "lo" {
			continue
		}
		st.NetReceived += integer(f[0])
		st.NetSent += integer(f[8])
	}
}

// readProc is a file of a process, empty if it has ended.
func readProc(pid int, name string) string {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
	if err != nil {
		return ""
	}
	return string(text)
}

// readAllAt reads a file of a control group.
func readAllAt(dir *os.File, name string) (string, error) {
	f, err := sys.OpenInRoot(dir, name, unix.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if errors.Is(err, unix.ENODEV) {
		err = ErrGone
	}
	return string(text), err
}
