// SPDX-License-Identifier: Apache-2.0

package stack

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	dialTimeout = 30 * time.Second
	// A container that is gone says nothing any more.
	keepIdle     = time.Minute
	keepInterval = 15 * time.Second
	keepCount    = 4
)

// tcp answers a container that wants to connect: as the one that is meant does,
// which is asked first.
func (f *forwarder) tcp(r *tcp.ForwarderRequest) {
	to, ok := destination(r.ID().LocalAddress, r.ID().LocalPort)
	if !ok || f.conns.Load() >= maxTCP {
		r.Complete(true)
		return
	}
	f.conns.Add(1)
	defer f.conns.Add(-1)
	c, err := net.DialTimeout("tcp", to.String(), dialTimeout)
	if err != nil {
		r.Complete(refused(err))
		return
	}
	out := c.(*net.TCPConn)
	defer func() { _ = out.Close() }()
	var queue waiter.Queue
	ep, failed := r.CreateEndpoint(&queue)
	r.Complete(failed != nil)
	if failed != nil {
		return
	}
	keepAlive(ep)
	in := gonet.NewTCPConn(&queue, ep)
	defer func() { _ = in.Close() }()
	var both sync.WaitGroup
	both.Go(func() {
		if pass(out, in) != nil {
			_ = out.SetLinger(0) // it sees a reset
			_ = out.Close()
		}
	})
	both.Go(func() {
		if pass(in, out) != nil {
			ep.Abort()
		}
	})
	both.Wait()
}

func keepAlive(ep tcpip.Endpoint) {
	idle, interval := tcpip.KeepaliveIdleOption(keepIdle), tcpip.KeepaliveIntervalOption(keepInterval)
	// All are known to TCP.
	_ = ep.SetSockOpt(&idle)
	_ = ep.SetSockOpt(&interval)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepCount)
	ep.SocketOptions().SetKeepAlive(true)
}

// halfCloser is a connection whose directions end by themselves.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

var buffers = sync.Pool{New: func() any { return new([maxSegment]byte) }}

// pass copies one direction, and its end.
func pass(to, from halfCloser) error {
	b := buffers.Get().(*[maxSegment]byte)
	defer buffers.Put(b)
	for {
		n, err := from.Read(b[:])
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			_ = to.CloseWrite() // it may be gone
			return nil
		}
		if err != nil {
			return err
		}
	}
}
