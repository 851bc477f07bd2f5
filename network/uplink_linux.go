// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An Uplink is how packets leave a [Base] and come into it: as frames of a
// socket. In the namespace it is a pair of interfaces. Default routes lead to
// one of them, and the socket is at the other, behind which nobody is who has
// an address: the kernel takes what arrives there to be another host's.
//
// Unlike a TAP device this needs no device node.
type Uplink struct {
	// Socket is a packet(7) socket. Each frame has a header in front that says
	// which checksums and segments are still to be made (PACKET_VNET_HDR).
	Socket *os.File
	// Kernel and Other are the hardware addresses of the kernel's end and of
	// who is at the socket.
	Kernel, Other net.HardwareAddr
}

// Addresses of an uplink's ends. Those of IPv4 are of a range that hosts don't
// take for themselves (RFC 3927, section 2.1), those of IPv6 are local ones
// (RFC 4193).
var (
	UplinkPrefix   = netip.MustParsePrefix("169.254.255.0/30")
	UplinkGateway  = netip.MustParseAddr("169.254.255.1")
	uplinkKernel   = netip.MustParseAddr("169.254.255.2")
	UplinkPrefix6  = netip.MustParsePrefix("fdbd:c0de:5e7d:ffff::/64")
	UplinkGateway6 = netip.MustParseAddr("fdbd:c0de:5e7d:ffff::1")
	uplinkKernel6  = netip.MustParseAddr("fdbd:c0de:5e7d:ffff::2")
)

// UplinkMTU is that of networks, so that no packet has to be divided.
const UplinkMTU = 1500

// Names of the ends.
const (
	uplinkName = "uplink"
	socketName = "uplink-socket"
)

// MakeUplink makes the uplink of a namespace anew, where another one may have
// been whose process was killed.
func MakeUplink(t *Threads) (*Uplink, error) {
	u := &Uplink{
		Kernel: net.HardwareAddr{0x02, 0x62, 0x75, 0x69, 0x6c, 0x02},
		Other:  net.HardwareAddr{0x02, 0x62, 0x75, 0x69, 0x6c, 0x01},
	}
	err := t.Do(func() error {
		_, missing := os.Stat("/proc/sys/net/ipv6")
		if err := errors.Join(forward(missing == nil), u.makeLinks(missing == nil)); err != nil {
			return err
		}
		var err error
		u.Socket, err = packetSocket(socketName)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make the way out of the containers' network: %w", err)
	}
	return u, nil
}

func (u *Uplink) makeLinks(ipv6 bool) error {
	if old, err := netlink.LinkByName(uplinkName); err == nil {
		if err := netlink.LinkDel(old); err != nil {
			return fmt.Errorf("remove %s: %w", uplinkName, err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = uplinkName, UplinkMTU, u.Kernel
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: socketName}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make interface %s: %w", uplinkName, err)
	}
	// It is to send nothing by itself.
	for _, name := range []string{uplinkName, socketName} {
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_ra", []byte("0"), 0)
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/addr_gen_mode", []byte("1"), 0)
	}
	peer, err := netlink.LinkByName(socketName)
	if err != nil {
		return err
	}
	for _, l := range []netlink.Link{veth, peer} {
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up: %w", l.Attrs().Name, err)
		}
	}
	err = u.route(veth, UplinkPrefix, uplinkKernel, UplinkGateway)
	if err == nil && ipv6 {
		err = u.route(veth, UplinkPrefix6, uplinkKernel6, UplinkGateway6)
	}
	return err
}

// route gives the kernel's end an address and the default route.
func (u *Uplink) route(link netlink.Link, prefix netip.Prefix, own, gateway netip.Addr) error {
	addr := &netlink.Addr{IPNet: ipNet(own, prefix.Bits())}
	if own.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("give %s address %s: %w", uplinkName, own, err)
	}
	neigh := &netlink.Neigh{LinkIndex: link.Attrs().Index, IP: gateway.AsSlice(), HardwareAddr: u.Other, State: netlink.NUD_PERMANENT}
	if err := netlink.NeighSet(neigh); err != nil {
		return fmt.Errorf("neighbour %s: %w", gateway, err)
	}
	if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()}); err != nil {
		return fmt.Errorf("default route by %s: %w", gateway, err)
	}
	return nil
}

// packetSocket opens a socket at an interface.
func packetSocket(name string) (*os.File, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	proto := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	// Without a protocol it gets nothing until it is bound, else frames of
	// other interfaces.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket(AF_PACKET)", err)
	}
	f := os.NewFile(uintptr(fd), name)
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},
		{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1},
		{unix.SOL_SOCKET, unix.SO_RCVBUF, 4 << 20}, // the kernel bounds it
		{unix.SOL_SOCKET, unix.SO_SNDBUF, 4 << 20},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			f.Close()
			return nil, os.NewSyscallError("setsockopt", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: link.Index}); err != nil {
		f.Close()
		return nil, os.NewSyscallError("bind", err)
	}
	return f, nil
}
