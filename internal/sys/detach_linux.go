// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// StartDetached starts a process that outlives this one, in a session of its
// own and in /. Its standard error is appended to the file log, whose directory
// is made if need be. It returns when the process has closed its descriptor 3
// or has ended, with what was written to that. files are its descriptors from 4 on.
func StartDetached(command []string, log string, files ...*os.File) (said []byte, err error) {
	if err := os.MkdirAll(filepath.Dir(log), 0o700); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	ready, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir, cmd.Stderr = "/", out
	cmd.ExtraFiles = append([]*os.File{w}, files...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// What the caller of this program has open beside the three streams, such
	// as a lock or the end of a pipe, isn't kept open for that process's life.
	closeOnExec()
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, err
	}
	go cmd.Wait() //nolint:errcheck // how it ends is nobody's concern here
	return io.ReadAll(ready)
}

// closeOnExec keeps the descriptors that this process has inherited, but for
// the three streams, from the programs that it executes after that.
func closeOnExec() {
	if unix.CloseRange(3, ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	// Linux before 5.11.
	list, _ := os.ReadDir("/proc/self/fd")
	for _, e := range list {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}
