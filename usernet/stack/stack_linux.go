// SPDX-License-Identifier: Apache-2.0

// Package stack is the TCP/IP stack at the other end of an uplink: it ends the
// connections that come out of the containers and makes the machine's in their place.
package stack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"builder/network"
)

// Bounds of what containers can make this process hold.
const (
	maxTCP      = 4096 // connections
	maxDialling = 1024 // connections that are being made
	maxUDP      = 4096 // pairs of ports
	maxPings    = 64   // that are not answered yet
	maxBuffer   = 4 << 20
	firstBuffer = 512 << 10
	maxSegment  = 64 << 10 // handed over at once, to be divided by who sends it
)

const nic tcpip.NICID = 1

// forwarder ends the containers' connections and makes others, of the machine's,
// in their place.
type forwarder struct {
	stack  *stack.Stack
	uplink *network.Uplink // which is open as long as somebody knows it
	conns  atomic.Int64
	flows  atomic.Int64
	pings  chan struct{}
}

// Forward begins to pass on what comes out of an uplink, which goes on as long
// as this process does, or until it can't be read, which failed gets to know.
func Forward(u *network.Uplink, failed func(error)) error {
	f := &forwarder{uplink: u, pings: make(chan struct{}, maxPings)}
	f.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := f.tune(); err != nil {
		return err
	}
	var socket int
	conn, err := u.Socket.SyscallConn()
	if err == nil {
		err = conn.Control(func(fd uintptr) { socket = int(fd) })
	}
	if err != nil {
		return err
	}
	link, err := fdbased.New(&fdbased.Options{
		FDs: []int{socket}, MTU: network.UplinkMTU, EthernetHeader: true, Address: tcpip.LinkAddress(u.Other),
		PacketDispatchMode: fdbased.RecvMMsg, GSOMaxSize: maxSegment, RXChecksumOffload: true,
		ClosedFunc: func(err tcpip.Error) { failed(errorOf("read from the uplink", err)) },
	})
	if err != nil {
		return err
	}
	if err := f.stack.CreateNIC(nic, link); err != nil {
		return errorOf("make interface", err)
	}
	for _, end := range []struct {
		proto   tcpip.NetworkProtocolNumber
		prefix  netip.Prefix
		gateway netip.Addr
		subnet  tcpip.Subnet
	}{
		{ipv4.ProtocolNumber, network.UplinkPrefix, network.UplinkGateway, header.IPv4EmptySubnet},
		{ipv6.ProtocolNumber, network.UplinkPrefix6, network.UplinkGateway6, header.IPv6EmptySubnet},
	} {
		addr := tcpip.ProtocolAddress{Protocol: end.proto, AddressWithPrefix: tcpip.AddressWithPrefix{
			Address: tcpip.AddrFromSlice(end.gateway.AsSlice()), PrefixLen: end.prefix.Bits(),
		}}
		if err := f.stack.AddProtocolAddress(nic, addr, stack.AddressProperties{}); err != nil {
			return errorOf("address "+end.gateway.String(), err)
		}
		f.stack.AddRoute(tcpip.Route{Destination: end.subnet, NIC: nic})
		// All packets are from the kernel's end: their senders' addresses are translated.
		kernel := tcpip.AddrFromSlice(end.gateway.Next().AsSlice())
		if err := f.stack.AddStaticNeighbor(nic, end.proto, kernel, tcpip.LinkAddress(u.Kernel)); err != nil {
			return errorOf("neighbour", err)
		}
	}
	// Whoever is meant, we answer, and in their name.
	if err := f.stack.SetPromiscuousMode(nic, true); err != nil {
		return errorOf("take all packets", err)
	}
	if err := f.stack.SetSpoofing(nic, true); err != nil {
		return errorOf("send as others", err)
	}
	f.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(f.stack, 0, maxDialling, f.tcp).HandlePacket)
	f.stack.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(f.stack, f.udp).HandlePacket)
	f.stack.SetTransportProtocolHandler(icmp.ProtocolNumber4, f.echo4)
	f.stack.SetTransportProtocolHandler(icmp.ProtocolNumber6, f.echo6)
	return nil
}

// tune sets the sizes of buffers.
func (f *forwarder) tune() error {
	sack, moderate := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: firstBuffer, Max: maxBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: firstBuffer, Max: maxBuffer}
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &receive, &send} {
		if err := f.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return errorOf("set up TCP", err)
		}
	}
	return nil
}

func errorOf(doing string, err tcpip.Error) error { return fmt.Errorf("%s: %s", doing, err) }

// destination is whom a packet is for, if that may be reached: neither this
// machine by its loopback interface nor what is on a link alone.
func destination(addr tcpip.Address, port uint16) (netip.AddrPort, bool) {
	a, ok := netip.AddrFromSlice(addr.AsSlice())
	return netip.AddrPortFrom(a, port), ok && allowed(a)
}

func allowed(a netip.Addr) bool {
	switch {
	case a.Is4In6(), a.IsLoopback(), a.IsUnspecified(), a.IsMulticast(), a.Is6() && a.IsLinkLocalUnicast():
		return false
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}), a.Is4() && a.As4()[0] == 0:
		return false
	}
	return !network.UplinkPrefix.Contains(a) && !network.UplinkPrefix6.Contains(a)
}

// refused says whether an error of a connection means that nobody answers for
// good: the container is told so then, and else sees none as well.
func refused(err error) bool {
	var timeout net.Error
	return !errors.As(err, &timeout) || !timeout.Timeout() || errors.Is(err, syscall.ECONNREFUSED)
}
