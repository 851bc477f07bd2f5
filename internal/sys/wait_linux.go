// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"encoding/binary"
	"errors"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// AdoptOrphans says whether this process is to become the parent of all descendants
// whose parent ends (prctl(2), PR_SET_CHILD_SUBREAPER).
func AdoptOrphans(on bool) error {
	arg := uintptr(0)
	if on {
		arg = 1
	}
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, arg, 0, 0, 0))
}

// PeekEnded waits until a child has ended and tells how; it stays to be waited
// for, so that what /proc says of it is still there. child is its number, or 0
// for any. Of options, those of waitid(2), WNOHANG is of use: the number is 0
// then if none has ended. The error is ECHILD if there is no such child.
func PeekEnded(child, options int) (pid int, status syscall.WaitStatus, err error) {
	var info unix.Siginfo
	which := unix.P_PID
	if child == 0 {
		which = unix.P_ALL
	}
	for {
		err = unix.Waitid(which, child, &info, unix.WEXITED|unix.WNOWAIT|options, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return 0, 0, err
	}
	// siginfo_t of SIGCHLD: pid, uid and status follow the header of 16 bytes.
	b := (*[28]byte)(unsafe.Pointer(&info))
	pid = int(int32(binary.NativeEndian.Uint32(b[16:])))
	code := syscall.WaitStatus(binary.NativeEndian.Uint32(b[24:]))
	if info.Code == cldExited {
		return pid, code << 8, nil
	}
	return pid, code, nil // the signal
}

// cldExited is CLD_EXITED of sigaction(2).
const cldExited = 1

// maxSent is how many files [SendFiles] sends at most.
const maxSent = 2

// SendFiles sends a text with at most two open files over a socket (unix(7),
// SCM_RIGHTS).
func SendFiles(socket *os.File, text string, files ...*os.File) error {
	return sendFiles(socket, text, nil, files)
}

// The sockets' and files' own descriptors are used by way of the runtime:
// [os.File.Fd] would make them block.

func sendFiles(socket *os.File, text string, fds []int, files []*os.File) error {
	if len(files) == 0 {
		return sendDescriptors(socket, text, fds)
	}
	conn, err := files[0].SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = conn.Control(func(fd uintptr) { sent = sendFiles(socket, text, append(fds, int(fd)), files[1:]) })
	return errors.Join(err, sent)
}

func sendDescriptors(socket *os.File, text string, fds []int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	conn, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = conn.Write(func(fd uintptr) bool {
		for {
			sent = unix.Sendmsg(int(fd), []byte(text), rights, nil, 0)
			if !errors.Is(sent, unix.EINTR) {
				return !errors.Is(sent, unix.EAGAIN)
			}
		}
	})
	return errors.Join(err, os.NewSyscallError("sendmsg", sent))
}

// ReceiveFiles receives what [SendFiles] sends: the files as descriptors, which
// nothing in this process waits for. The text is empty when the other end is
// closed.
func ReceiveFiles(socket *os.File) (text string, fds []int, err error) {
	buf, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*maxSent))
	var n, rn int
	conn, err := socket.SyscallConn()
	if err != nil {
		return "", nil, err
	}
	var received error
	err = conn.Read(func(fd uintptr) bool {
		for {
			n, rn, _, _, received = unix.Recvmsg(int(fd), buf, rights, unix.MSG_CMSG_CLOEXEC)
			if !errors.Is(received, unix.EINTR) {
				return !errors.Is(received, unix.EAGAIN)
			}
		}
	})
	if err := errors.Join(err, os.NewSyscallError("recvmsg", received)); err != nil {
		return "", nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil {
		return "", nil, err
	}
	for _, m := range msgs {
		if more, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, more...)
		}
	}
	return string(buf[:n]), fds, nil
}

// DupInherited duplicates a descriptor to one that stays open in the program that
// this process executes next.
func DupInherited(fd uintptr) (int, error) {
	n, err := unix.FcntlInt(fd, unix.F_DUPFD, 3)
	return n, os.NewSyscallError("fcntl", err)
}

// SocketPair makes two connected sockets that keep messages apart.
func SocketPair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}
