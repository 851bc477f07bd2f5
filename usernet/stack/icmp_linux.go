// SPDX-License-Identifier: Apache-2.0

package stack

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// pingTimeout is how long an answer is waited for.
const pingTimeout = 5 * time.Second

// echo4 takes a question whether a host is there. It is asked by a socket that
// the machine allows to some groups of users (ping_group_range of icmp(7));
// where it doesn't, there is no answer.
func (f *forwarder) echo4(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	h := header.ICMPv4(pkt.TransportHeader().Slice())
	if len(h) < header.ICMPv4MinimumSize || h.Type() != header.ICMPv4Echo {
		return false
	}
	f.echo(id, stack.PayloadSince(pkt.TransportHeader()).ToSlice(), ping{
		domain: unix.AF_INET, proto: unix.IPPROTO_ICMP, reply: byte(header.ICMPv4EchoReply), network: ipv4.ProtocolNumber, transport: header.ICMPv4ProtocolNumber,
	})
	return true
}

func (f *forwarder) echo6(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	h := header.ICMPv6(pkt.TransportHeader().Slice())
	if len(h) < header.ICMPv6EchoMinimumSize || h.Type() != header.ICMPv6EchoRequest {
		return false
	}
	f.echo(id, stack.PayloadSince(pkt.TransportHeader()).ToSlice(), ping{
		domain: unix.AF_INET6, proto: unix.IPPROTO_ICMPV6, reply: byte(header.ICMPv6EchoReply), network: ipv6.ProtocolNumber, transport: header.ICMPv6ProtocolNumber,
	})
	return true
}

// ping is what differs between IPv4 and IPv6.
type ping struct {
	domain, proto int
	reply         byte
	network       tcpip.NetworkProtocolNumber
	transport     tcpip.TransportProtocolNumber
}

func (f *forwarder) echo(id stack.TransportEndpointID, msg []byte, p ping) {
	to, ok := destination(id.LocalAddress, 0)
	if !ok {
		return
	}
	select {
	case f.pings <- struct{}{}:
	default:
		return // too many
	}
	go func() {
		defer func() { <-f.pings }()
		answer, err := p.ask(to.Addr(), msg)
		if err != nil {
			return
		}
		// The kernel has put its own number in place of the sender's.
		copy(answer[4:6], msg[4:6])
		f.answer(id, answer, p)
	}()
}

// ask sends the message and waits for the answer.
func (p ping) ask(to netip.Addr, msg []byte) ([]byte, error) {
	fd, err := unix.Socket(p.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, p.proto)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var addr unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16()}
	if to.Is4() {
		addr = &unix.SockaddrInet4{Addr: to.As4()}
	}
	timeout := unix.NsecToTimeval(int64(pingTimeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, addr); err != nil {
		return nil, err
	}
	if _, err := unix.Write(fd, msg); err != nil {
		return nil, err
	}
	buf := make([]byte, len(msg)+1)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return nil, err
	}
	if n < header.ICMPv4MinimumSize || buf[0] != p.reply {
		return nil, unix.EBADMSG
	}
	return buf[:n], nil
}

// answer sends a message in the name of the one who was asked.
func (f *forwarder) answer(id stack.TransportEndpointID, msg []byte, p ping) {
	r, failed := f.stack.FindRoute(nic, id.LocalAddress, id.RemoteAddress, p.network, false)
	if failed != nil {
		return
	}
	defer r.Release()
	msg[2], msg[3] = 0, 0
	if p.network == ipv4.ProtocolNumber {
		header.ICMPv4(msg).SetChecksum(^checksum.Checksum(msg, 0))
	} else {
		header.ICMPv6(msg).SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
			Header: header.ICMPv6(msg), Src: id.LocalAddress, Dst: id.RemoteAddress,
		}))
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: int(r.MaxHeaderLength()), Payload: buffer.MakeWithData(msg)})
	defer pkt.DecRef()
	_ = r.WritePacket(stack.NetworkHeaderParams{Protocol: p.transport, TTL: r.DefaultTTL()}, pkt) // it may be lost
}
