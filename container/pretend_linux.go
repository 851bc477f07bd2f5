// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"builder/internal/owner"
)

// In a user namespace with root alone the kernel refuses to change owners, and
// to become anybody else. Programs that install something do both. So their
// system calls are answered by a second seccomp filter:
//
//   - In a RUN step by this process (recorder_linux.go): an owner is kept beside
//     the file, is told to who asks, and comes out in the image; and processes
//     are told that they are whom they have become.
//   - In other containers nobody may be there to answer, as the process that
//     holds them can be killed: the calls succeed and do nothing.
//
// Either way a process is what it was to the kernel, and may do no more. Calls of
// 32-bit programs are not answered.

// changesOwner are the calls that give files to others.
var changesOwner = []uint32{unix.SYS_CHOWN, unix.SYS_FCHOWN, unix.SYS_LCHOWN, unix.SYS_FCHOWNAT}

// changesUser are the calls by which a process becomes somebody else.
var changesUser = []uint32{
	unix.SYS_SETUID, unix.SYS_SETGID, unix.SYS_SETREUID, unix.SYS_SETREGID, unix.SYS_SETRESUID, unix.SYS_SETRESGID,
	unix.SYS_SETGROUPS, unix.SYS_SETFSUID, unix.SYS_SETFSGID,
}

// tellsUser are the calls by which a process learns who it is.
var tellsUser = []uint32{
	unix.SYS_GETUID, unix.SYS_GETGID, unix.SYS_GETEUID, unix.SYS_GETEGID, unix.SYS_GETRESUID, unix.SYS_GETRESGID, unix.SYS_GETGROUPS,
}

// tellsOwner are the calls by which a process learns whose a file is.
var tellsOwner = []uint32{unix.SYS_STAT, unix.SYS_LSTAT, unix.SYS_FSTAT, unix.SYS_NEWFSTATAT, unix.SYS_STATX}

// pretendFilter is the filter that answers these calls, or has them answered by
// whoever has the listener.
func pretendFilter(recorded bool) []sockFilter {
	numbers, answer := append(append([]uint32{}, changesOwner...), changesUser...), uint32(unix.SECCOMP_RET_ERRNO)
	if recorded {
		numbers, answer = append(append(numbers, tellsUser...), tellsOwner...), unix.SECCOMP_RET_USER_NOTIF
	}
	load := func(offset uint32) sockFilter {
		return sockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	code := []sockFilter{
		load(offArch),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: uint8(len(numbers) + 1), K: unix.AUDIT_ARCH_X86_64},
		load(offNumber),
	}
	for i, n := range numbers {
		code = append(code, sockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(len(numbers) - i), K: n})
	}
	return append(code, sockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}, sockFilter{Code: unix.BPF_RET | unix.BPF_K, K: answer})
}

// openPretend prepares what the child needs to send the listener.
func (p *plan) openPretend() error {
	if p.pretend = owner.Kept(); !p.pretend || !p.spec.RunStep {
		return nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	p.listener = p.keep(os.NewFile(uintptr(pair[1]), "listener"))
	r, err := newRecorder(pair[0], owner.ID{UID: p.user.UID, GID: p.user.GID}, p.spec.warn)
	if err != nil {
		return fmt.Errorf("record owners: %w", err)
	}
	go r.run()
	return nil
}

// writePretend loads the filter, while the process has CAP_SYS_ADMIN still.
func (p *plan) writePretend() {
	if !p.pretend {
		return
	}
	pr := &p.prog
	fprog := p.writeFilter(pretendFilter(p.listener != nil))
	if p.listener == nil {
		pr.do("load filter for owners", unix.SYS_SECCOMP, num(unix.SECCOMP_SET_MODE_FILTER), num(0), fprog)
		return
	}
	// A struct msghdr with one byte and one struct cmsghdr, whose descriptor
	// is what seccomp(2) returns.
	control := pr.words(num(unix.CmsgLen(4)), num(uint64(unix.SOL_SOCKET)|uint64(unix.SCM_RIGHTS)<<32), num(0))
	iov := pr.words(pr.bytes([]byte{1}), num(1))
	message := pr.words(num(0), num(0), iov, num(1), control, num(unix.CmsgSpace(4)), num(0))
	load := pr.do("load filter for owners", unix.SYS_SECCOMP, num(unix.SECCOMP_SET_MODE_FILTER), num(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER), fprog)
	load.result = int(control.v) + 16
	pr.do("send listener", unix.SYS_SENDMSG, num(p.keptFD(p.listener)), message, num(0))
	pr.do("close listener", unix.SYS_CLOSE, arg{argSlot, control.v + 16})
	pr.do("close socket of listener", unix.SYS_CLOSE, num(p.keptFD(p.listener)))
}
