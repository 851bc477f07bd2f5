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

// SendFile sends an open file with a text over a socket (unix(7), SCM_RIGHTS).
// A nil file sends the text alone.
func SendFile(socket *os.File, text string, f *os.File) error {
	var rights []byte
	send := func() error {
		return os.NewSyscallError("sendmsg", unix.Sendmsg(int(socket.Fd()), []byte(text), rights, nil, 0))
	}
	if f == nil {
		return send()
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = conn.Control(func(fd uintptr) { // [os.File.Fd] would make it block
		rights = unix.UnixRights(int(fd))
		sent = send()
	})
	return errors.Join(err, sent)
}

// ReceiveFile receives what [SendFile] sends. The text is empty when the other
// end is closed.
func ReceiveFile(socket *os.File) (text string, f *os.File, err error) {
	buf, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	var n, rn int
	for {
		n, rn, _, _, err = unix.Recvmsg(int(socket.Fd()), buf, rights, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return "", nil, os.NewSyscallError("recvmsg", err)
	}
	msgs, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil {
		return "", nil, err
	}
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err == nil && len(fds) > 0 {
			f = os.NewFile(uintptr(fds[0]), "received")
		}
	}
	return string(buf[:n]), f, nil
}

// SocketPair makes two connected sockets that keep messages apart.
func SocketPair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}
