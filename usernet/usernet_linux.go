// SPDX-License-Identifier: Apache-2.0

// Package usernet gives the containers of an ordinary user a network. The user
// may not change the machine's, so there is one network namespace for each
// state directory, of the user's own, in which bridges, interfaces, rules and
// gateways are as they are in the machine's for root: a [network.Base]. Out of it
// leads a [network.Uplink], at whose other end a TCP/IP stack in this program
// ends the containers' connections and makes the machine's in their place.
//
// One process has the namespace and the stack ([Serve]). Who needs them is its
// [Client], which starts the process if there is none, gets the namespace from it
// and stays connected as long as it needs it. When nobody is connected any more and no
// container is on a network, the process ends.
//
// If it is killed, its clients start another one, and that finds the
// namespace, which they have open: what is in it is as it was, and only connections
// to the outside are lost. It is found by the files of a directory:
//
//	lock    held by the process
//	socket  at which it listens
//	PID     a client: when it began, and which descriptor the namespace is
//	log     what went wrong
package usernet

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"builder/internal/sys"
)

// The files in the directory.
const (
	lockFile   = "lock"
	socketFile = "socket"
	logFile    = "log"
)

// at calls f with a path of the directory's socket that is short enough for an
// address.
func at(dir string, f func(path string) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return f(filepath.Join(sys.FDPath(d), socketFile))
}

// send sends the namespace.
func send(c *net.UnixConn, ns *os.File) error {
	_, _, err := c.WriteMsgUnix([]byte("namespace"), syscall.UnixRights(int(ns.Fd())), nil)
	return err
}

// receive receives it.
func receive(c *net.UnixConn) (*os.File, error) {
	buf, rights := make([]byte, 64), make([]byte, syscall.CmsgSpace(4))
	n, rn, _, _, err := c.ReadMsgUnix(buf, rights)
	if err != nil {
		return nil, err
	}
	msgs, err := syscall.ParseSocketControlMessage(rights[:rn])
	if err != nil {
		return nil, err
	}
	for _, m := range msgs {
		if fds, err := syscall.ParseUnixRights(&m); err == nil && len(fds) == 1 {
			return os.NewFile(uintptr(fds[0]), "network namespace"), nil
		}
	}
	return nil, fmt.Errorf("no namespace came with %q", buf[:n])
}
