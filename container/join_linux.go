// SPDX-License-Identifier: Apache-2.0

package container

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// ExecuteIn executes this program anew, with new arguments and environment, in
// the user namespace of a process, whose pidfd it is given, and in a mount
// namespace of its own. The process gets this one's standard streams and ends
// with the calling thread. A process of several threads can't enter a user
// namespace itself.
func ExecuteIn(member *os.File, args, env []string) (pid int, err error) {
	exe, err := os.OpenFile("/proc/self/exe", unix.O_PATH, 0)
	if err != nil {
		return 0, err
	}
	defer exe.Close()
	report, errfd, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer report.Close()
	defer errfd.Close()
	pr := newProgram()
	pr.do("join user namespace", unix.SYS_SETNS, pr.file(member), num(unix.CLONE_NEWUSER))
	pr.do("new mount namespace", unix.SYS_UNSHARE, num(unix.CLONE_NEWNS))
	pr.do("watch parent", unix.SYS_PRCTL, num(unix.PR_SET_PDEATHSIG), num(unix.SIGKILL), num(0), num(0), num(0))
	pr.do("close descriptors on execution", unix.SYS_CLOSE_RANGE, num(3), num(^uint32(0)), num(unix.CLOSE_RANGE_CLOEXEC))
	pr.do("execute this program", unix.SYS_EXECVEAT, pr.file(exe), pr.str(""), pr.strings(args), pr.strings(env), num(unix.AT_EMPTY_PATH))
	if pid, err = pr.spawn(errfd, []*os.File{os.Stdin, os.Stdout, os.Stderr}, nil); err != nil {
		return 0, err
	}
	errfd.Close()
	var words [16]byte
	if _, err := io.ReadFull(report, words[:]); err == nil {
		reapChild(pid)
		return 0, pr.failure(binary.NativeEndian.Uint64(words[:]), binary.NativeEndian.Uint64(words[8:]))
	}
	return pid, nil
}

// spawn executes the walker with the program behind it, which reports to errfd.
// attr may be nil.
func (p *program) spawn(errfd *os.File, streams []*os.File, attr *syscall.SysProcAttr) (pid int, err error) {
	image := p.encode(imageAddr, p.fdOf(errfd)+firstFD, func(i int) int { return firstFD + i })
	code, err := textAt(walkerAddr())
	if err != nil {
		return 0, err
	}
	walker, err := sealedFile("exec", elfFile(code, image))
	if err != nil {
		return 0, err
	}
	defer walker.Close()
	files := make([]uintptr, firstFD, firstFD+len(p.files))
	for i := range files {
		files[i] = ^uintptr(0) // closed
	}
	for i, f := range streams {
		files[i] = f.Fd()
	}
	for _, f := range p.files {
		files = append(files, f.Fd())
	}
	// It is one of the files, so that no other takes its number.
	files[walkerFD] = walker.Fd()
	pid, err = syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(walkerFD), []string{"builder-exec"}, &syscall.ProcAttr{Files: files, Sys: attr})
	runtime.KeepAlive(p)
	runtime.KeepAlive(streams)
	if err != nil {
		return 0, fmt.Errorf("make process: %w", err)
	}
	return pid, nil
}
