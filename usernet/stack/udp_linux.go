// SPDX-License-Identifier: Apache-2.0

package stack

import (
	"bytes"
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// How long a pair of ports is remembered on which nothing is said; questions
// about names are answered at once or never.
const (
	udpIdle = 90 * time.Second
	dnsIdle = 10 * time.Second
)

// flow is a pair of ports between which datagrams pass.
type flow struct {
	ep   tcpip.Endpoint
	out  *net.UDPConn
	idle time.Duration
	last atomic.Int64 // when something was said, in nanoseconds of [time.Since] begun
}

var begun = time.Now()

func (f *flow) said() { f.last.Store(int64(time.Since(begun))) }

// left is for how long nothing may be said yet.
func (f *flow) left() time.Duration {
	return f.idle - (time.Since(begun) - time.Duration(f.last.Load()))
}

// udp takes a datagram of a new pair of ports. What it doesn't handle is
// answered as a port where nobody listens.
func (f *forwarder) udp(r *udp.ForwarderRequest) bool {
	to, ok := destination(r.ID().LocalAddress, r.ID().LocalPort)
	if !ok || f.flows.Load() >= maxUDP {
		return false
	}
	out, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return false
	}
	var queue waiter.Queue
	ep, failed := r.CreateEndpoint(&queue)
	if failed != nil {
		_ = out.Close()
		return true
	}
	ep.SocketOptions().SetReceiveBufferSize(firstBuffer, true)
	fl := &flow{ep: ep, out: out, idle: udpIdle}
	if to.Port() == 53 {
		fl.idle = dnsIdle
	}
	fl.said()
	f.flows.Add(1)
	go func() {
		defer f.flows.Add(-1)
		defer ep.Close()
		go fl.back()
		fl.there(&queue)
		_ = out.Close() // which ends the other direction
	}()
	return true
}

// there passes on what the container says, until nothing has been said for a
// while.
func (f *flow) there(queue *waiter.Queue) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	over := time.NewTimer(f.idle)
	defer over.Stop()
	var buf bytes.Buffer
	for {
		buf.Reset()
		_, err := f.ep.Read(&buf, tcpip.ReadOptions{})
		switch err.(type) {
		case nil:
			f.said()
			_, _ = f.out.Write(buf.Bytes()) // as UDP does: it may be lost
			continue
		case *tcpip.ErrWouldBlock:
			buf = bytes.Buffer{} // none is kept meanwhile
		default:
			return
		}
		select {
		case <-ready:
		case <-over.C:
			left := f.left()
			if left <= 0 {
				return
			}
			over.Reset(left)
		}
	}
}

// back passes on what comes back.
func (f *flow) back() {
	conn, err := f.out.SyscallConn()
	if err != nil {
		return
	}
	for {
		b := buffers.Get().(*[maxSegment]byte)
		n, err := 0, error(nil)
		closed := conn.Read(func(fd uintptr) bool {
			n, err = syscall.Read(int(fd), b[:])
			return !errors.Is(err, syscall.EAGAIN)
		})
		switch {
		case closed != nil:
			buffers.Put(b)
			return
		case err == nil:
			f.said()
			_, _ = f.ep.Write(bytes.NewReader(b[:n]), tcpip.WriteOptions{})
		}
		buffers.Put(b) // after an error as after a refusal, which UDP doesn't end with
	}
}
