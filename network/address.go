// SPDX-License-Identifier: Apache-2.0

package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
)

// chooseSubnets fills in the subnets of a new network.
func chooseSubnets(net *Network, others []Network, ipv6 bool) error {
	taken, err := routes()
	if err != nil {
		return err
	}
	for _, o := range others {
		for _, s := range o.Subnets {
			taken = append(taken, s.Prefix)
		}
	}
	four, six := false, false
	for i := range net.Subnets {
		s := &net.Subnets[i]
		if err := s.complete(); err != nil {
			return err
		}
		for _, o := range others {
			for _, have := range o.Subnets {
				if have.Prefix.Overlaps(s.Prefix) {
					return fmt.Errorf("subnet %s meets %s of network %s", s.Prefix, have.Prefix, o.Name)
				}
			}
		}
		four, six = four || s.Prefix.Addr().Is4(), six || s.Prefix.Addr().Is6()
	}
	if !four {
		s, err := freeSubnet(net.Name == Default, taken)
		if err != nil {
			return err
		}
		net.Subnets = append(net.Subnets, s)
	}
	if ipv6 && !six {
		var b [16]byte
		rand.Read(b[:8])
		b[0] = 0xfd // a unique local one (RFC 4193)
		s := Subnet{Prefix: netip.PrefixFrom(netip.AddrFrom16(b), 64)}
		if err := s.complete(); err != nil {
			return err
		}
		net.Subnets = append(net.Subnets, s)
	}
	return nil
}

// complete checks a subnet and fills in its gateway.
func (s *Subnet) complete() error {
	if !s.Prefix.IsValid() {
		return errors.New("a subnet has no prefix")
	}
	if s.Prefix.Bits() > s.Prefix.Addr().BitLen()-2 {
		return fmt.Errorf("subnet %s is too small", s.Prefix)
	}
	if s.Prefix != s.Prefix.Masked() {
		return fmt.Errorf("subnet %s has bits beyond its length: %s is meant?", s.Prefix, s.Prefix.Masked())
	}
	if !s.Gateway.IsValid() {
		s.Gateway = s.Prefix.Addr().Next()
	}
	if !s.Prefix.Contains(s.Gateway) {
		return fmt.Errorf("gateway %s is not in subnet %s", s.Gateway, s.Prefix)
	}
	if s.Range.IsValid() && (!s.Prefix.Overlaps(s.Range) || s.Range.Bits() < s.Prefix.Bits()) {
		return fmt.Errorf("range %s is not in subnet %s", s.Range, s.Prefix)
	}
	return nil
}

// freeSubnet chooses a private subnet that meets none of those taken.
func freeSubnet(big bool, taken []netip.Prefix) (Subnet, error) {
	try := func(a, b byte, c, bits int) (Subnet, bool) {
		s := Subnet{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{a, b, byte(c), 0}), bits)}
		for _, t := range taken {
			if t.Overlaps(s.Prefix) {
				return s, false
			}
		}
		return s, s.complete() == nil
	}
	if big {
		for b := 90; b < 128; b++ {
			if s, ok := try(10, byte(b), 0, 16); ok {
				return s, nil
			}
		}
	}
	for b := 128; b < 256; b++ {
		for c := range 256 {
			if s, ok := try(10, byte(b), c, 24); ok {
				return s, nil
			}
		}
	}
	for c := range 256 {
		if s, ok := try(192, 168, c, 24); ok {
			return s, nil
		}
	}
	return Subnet{}, errors.New("no private subnet is free: give one with --subnet")
}

// assign finds a free address of a subnet, or checks that the one wanted is
// free. Addresses go round, so that one is not used again at once.
func (s *Subnet) assign(want netip.Addr, used map[netip.Addr]bool, last netip.Addr) (netip.Addr, error) {
	if want.IsValid() {
		switch {
		case !s.Prefix.Contains(want):
			return want, fmt.Errorf("address %s is not in subnet %s", want, s.Prefix)
		case used[want] || want == s.Gateway || want == s.Prefix.Addr() || want == s.last():
			return want, fmt.Errorf("address %s is in use", want)
		}
		return want, nil
	}
	from := s.Prefix
	if s.Range.IsValid() {
		from = s.Range
	}
	free := func(a netip.Addr) bool {
		return !used[a] && a != s.Gateway && a != s.Prefix.Addr() && a != s.last()
	}
	begin := from.Addr()
	if last.IsValid() && from.Contains(last) {
		begin = last.Next()
	}
	a := begin
	for range 1 << 20 {
		if !from.Contains(a) {
			a = from.Addr()
		}
		if free(a) {
			return a, nil
		}
		if a = a.Next(); a == begin {
			break
		}
	}
	return netip.Addr{}, fmt.Errorf("no address of %s is free", from)
}

// last is the broadcast address of an IPv4 subnet.
func (s *Subnet) last() netip.Addr {
	if !s.Prefix.Addr().Is4() {
		return netip.Addr{}
	}
	b := s.Prefix.Addr().As4()
	for i := s.Prefix.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}
