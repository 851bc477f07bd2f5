// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Port is a port of the machine that leads to one of a container.
type Port struct {
	Protocol  string     `json:"protocol"` // tcp or udp
	HostIP    netip.Addr `json:"hostIP,omitzero"`
	HostPort  uint16     `json:"hostPort"`           // 0 for any
	HostLast  uint16     `json:"hostLast,omitempty"` // of several from HostPort on, of which the first free one is taken
	Container uint16     `json:"container"`
	// OnlyIPv4 is of a port without HostIP that was published on a machine without IPv6.
	OnlyIPv4 bool `json:"onlyIPv4,omitempty"`
}

// Bindings are the addresses of the machine at which a published port is: its own or, as
// it has none, all of IPv4 and all of IPv6.
func (p Port) Bindings() []netip.AddrPort {
	switch {
	case p.HostIP.IsValid():
		return []netip.AddrPort{netip.AddrPortFrom(p.HostIP, p.HostPort)}
	case p.OnlyIPv4:
		return []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), p.HostPort)}
	}
	return []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), p.HostPort), netip.AddrPortFrom(netip.IPv6Unspecified(), p.HostPort)}
}

// ParsePorts reads docker's -p: [[IP:]HOST:]CONTAINER[/PROTOCOL], where the
// ports may be ranges of the same length. Of a range for one port of the container the
// first free one is taken, and any free one without a host port, or with an empty one.
func ParsePorts(text string) ([]Port, error) {
	bad := func(why string) ([]Port, error) {
		return nil, fmt.Errorf("%q: %s: want [[IP:]PORT:]PORT[/tcp|udp]", text, why)
	}
	rest, proto, ok := strings.Cut(text, "/")
	if !ok {
		proto = "tcp"
	}
	proto = strings.ToLower(proto)
	if proto != "tcp" && proto != "udp" {
		return bad("protocol " + proto + " is not supported")
	}
	var ip netip.Addr
	var host string
	if i := strings.LastIndex(rest, ":"); i >= 0 {
		host, rest = rest[:i], rest[i+1:]
		var ipText string
		if i := strings.LastIndex(host, ":"); i >= 0 {
			ipText, host = host[:i], host[i+1:]
		}
		if ipText != "" {
			var err error
			if ip, err = netip.ParseAddr(strings.Trim(ipText, "[]")); err != nil {
				return bad("invalid IP address " + ipText)
			}
		}
	}
	first, last, err := portRange(rest)
	if err != nil {
		return bad(err.Error())
	}
	hostFirst, hostLast := 0, 0
	if host != "" && host != "0" {
		if hostFirst, hostLast, err = portRange(host); err != nil {
			return bad(err.Error())
		}
		if hostLast-hostFirst != last-first && last != first {
			return bad("the ranges have different lengths")
		}
	}
	var out []Port
	for i := range last - first + 1 {
		p := Port{Protocol: proto, HostIP: ip, Container: uint16(first + i)}
		if hostFirst != 0 {
			p.HostPort = uint16(hostFirst + i)
			if last == first && hostLast > hostFirst {
				p.HostLast = uint16(hostLast)
			}
		}
		out = append(out, p)
	}
	return out, nil
}

func portRange(text string) (first, last int, err error) {
	a, b, ranged := strings.Cut(text, "-")
	if !ranged {
		b = a
	}
	one, err1 := strconv.ParseUint(a, 10, 16)
	two, err2 := strconv.ParseUint(b, 10, 16)
	if err1 != nil || err2 != nil || one == 0 || two < one {
		return 0, 0, fmt.Errorf("invalid port %q", text)
	}
	return int(one), int(two), nil
}
