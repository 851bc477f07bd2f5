// SPDX-License-Identifier: Apache-2.0

package network

import (
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stale finds flows of UDP that go on by what was written before: the kernel looks at
// the rules for the first packet of a flow alone, and somebody who goes on sending from
// one port keeps the flow alive for ever. Those that led to a container which doesn't
// have the port any more would reach whoever gets its address.
type stale struct {
	ports   []published
	subnets []netip.Prefix // of the networks
	own     []netip.Addr   // of the machine
}

// endStaleFlows has the kernel forget such flows, so that the next packet goes by the
// rules. A kernel that can't be asked has flows go on until they rest, as before.
func (r *rules) endStaleFlows() {
	if !r.udp {
		return
	}
	s := stale{ports: r.ports}
	for _, n := range r.networks {
		for _, sub := range n.Subnets {
			s.subnets = append(s.subnets, sub.Prefix)
		}
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && !ip.IsLoopback() {
			s.own = append(s.own, ip.Unmap())
		}
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		_, _ = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, &s)
	}
}

// MatchConntrackFlow says whether a flow is stale.
func (s *stale) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	asked, at := addrOf(f.Forward.DstIP), addrOf(f.Reverse.SrcIP)
	i := slices.IndexFunc(s.ports, func(p published) bool {
		return p.Protocol == "udp" && p.HostPort == f.Forward.DstPort && p.to.Is4() == asked.Is4() &&
			(!p.HostIP.IsValid() || p.HostIP.IsUnspecified() || p.HostIP == asked)
	})
	switch {
	case asked == at: // nothing was translated
		return i >= 0 && slices.Contains(s.own, asked)
	case i >= 0 && slices.Contains(s.own, asked):
		return at != s.ports[i].to || f.Reverse.SrcPort != s.ports[i].Container
	}
	return slices.ContainsFunc(s.subnets, func(p netip.Prefix) bool { return p.Contains(at) })
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
