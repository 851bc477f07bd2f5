// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"encoding/binary"
	"errors"
	"fmt"
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

// SendFile sends an open file with a text over a socket (unix(7), SCM_RIGHTS).
// A nil file sends the text alone. Both are used by way of the runtime:
// [os.File.Fd] would make them block.
func SendFile(socket *os.File, text string, f *os.File) error {
	if f == nil {
		return sendMessage(socket, text, nil)
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = conn.Control(func(fd uintptr) { sent = sendMessage(socket, text, unix.UnixRights(int(fd))) })
	return errors.Join(err, sent)
}

func sendMessage(socket *os.File, text string, rights []byte) error {
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
	if err != nil {
		return err
	}
	return os.NewSyscallError("sendmsg", sent)
}

// ReceiveFile receives what [SendFile] sends: the file as a descriptor, for which
// nothing in this process waits, -1 for none. The text is empty when the other end
// is closed.
func ReceiveFile(socket *os.File) (text string, fd int, err error) {
	buf, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	var n, rn int
	conn, err := socket.SyscallConn()
	if err != nil {
		return "", -1, err
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
		return "", -1, err
	}
	msgs, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil {
		return "", -1, err
	}
	fd = -1
	for _, m := range msgs {
		if fds, err := unix.ParseUnixRights(&m); err == nil && len(fds) > 0 {
			fd = fds[0]
		}
	}
	return string(buf[:n]), fd, nil
}

// PassOn duplicates a file's descriptor to one that stays open in the program that
// this process executes next. The error wraps [os.ErrClosed] if the file is closed.
func PassOn(f *os.File) (fd int, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	var failed error
	err = conn.Control(func(from uintptr) { fd, failed = unix.FcntlInt(from, unix.F_DUPFD, 3) })
	if err != nil { // the runtime's own, which wraps nothing
		return -1, fmt.Errorf("%w: %w", os.ErrClosed, err)
	}
	return fd, os.NewSyscallError("fcntl", failed)
}

// Inherit is a file of a descriptor that [PassOn] or another program's parent has
// left open, which goes no further. The error is EBADF if there is none.
func Inherit(fd int) (*os.File, error) {
	if err := CloseOnExec(fd); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "inherited"), nil
}

// CloseOnExec has a descriptor close when a program is executed. The error is EBADF
// if it isn't open.
func CloseOnExec(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	return os.NewSyscallError("fcntl", err)
}

// SocketPair makes two connected sockets that keep messages apart.
func SocketPair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}
