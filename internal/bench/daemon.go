// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// daemonOf returns the process that listens on docker's socket; 0 if it can't
// be found.
func daemonOf() int {
	path, ok := strings.CutPrefix(os.Getenv("DOCKER_HOST"), "unix://")
	if !ok {
		path = "/var/run/docker.sock"
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		return 0
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// family is a process and all below it.
func family(pid int) []int {
	pids := []int{pid}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, t := range tasks {
		if t.Name() != strconv.Itoa(pid) {
			more, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
			children = append(children, more...)
		}
	}
	for _, c := range strings.Fields(string(children)) {
		if n, err := strconv.Atoi(c); err == nil {
			pids = append(pids, family(n)...)
		}
	}
	return pids
}

// daemonUse is what a daemon and its children have used of processors so far,
// those that have ended included, and the most memory that they had since this
// was last asked, in kB.
func daemonUse(pid int) (cpu time.Duration, peak int64) {
	const tick = 10 * time.Millisecond // of USER_HZ, which is 100
	for _, p := range family(pid) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		for _, f := range fields[11:15] { // utime stime cutime cstime
			n, _ := strconv.ParseInt(f, 10, 64)
			cpu += time.Duration(n) * tick
		}
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
		_, after, _ := strings.Cut(string(status), "VmHWM:")
		if words := strings.Fields(after); len(words) > 0 {
			n, _ := strconv.ParseInt(words[0], 10, 64)
			peak += n
		}
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p), []byte("5"), 0) // the peak begins anew
	}
	return cpu, peak
}
