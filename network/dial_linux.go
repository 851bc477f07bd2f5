// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// dialTCP connects to a container. In a [Base] the socket is made on one of its
// threads, but not waited for there: each wait would take a thread.
func (n *Networks) dialTCP(to netip.AddrPort, timeout time.Duration) (*net.TCPConn, error) {
	if n.base == nil {
		c, err := net.DialTimeout("tcp", to.String(), timeout)
		if err != nil {
			return nil, err
		}
		return c.(*net.TCPConn), nil
	}
	var f *os.File
	err := n.inBase(func() (err error) {
		f, err = beginConnect(to)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := awaitConnect(f, timeout); err != nil {
		return nil, err
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// beginConnect makes a socket that connects.
func beginConnect(to netip.AddrPort) (*os.File, error) {
	domain, addr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		domain, addr = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, addr); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return os.NewFile(uintptr(fd), "connection"), nil
}

// awaitConnect waits until a socket is connected.
func awaitConnect(f *os.File, timeout time.Duration) error {
	if err := f.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Write(func(fd uintptr) bool {
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			err = unix.Errno(errno)
		}
		if err != nil {
			failed = os.NewSyscallError("connect", err)
			return true
		}
		_, err = unix.Getpeername(int(fd))
		return err == nil
	})
	return errors.Join(err, failed)
}

// dialUDP makes a socket by which a container is sent datagrams.
func (n *Networks) dialUDP(to netip.AddrPort) (c *net.UDPConn, err error) {
	err = n.inBase(func() error {
		c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		return err
	})
	return c, err
}
