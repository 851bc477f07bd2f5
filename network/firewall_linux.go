// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// All rules are in one table, which is written anew, in one transaction, when
// what it says changes: what a killed process has left in it goes with that.
//
//	postrouting  packets from a network that leave by another interface than
//	             its bridge get the machine's address
//	prerouting,  packets to a published port of the machine go to the
//	output       container; those to 127.0.0.1 and ::1 to the proxy
//	forward      networks don't reach each other, internal ones nothing
//	network-ID   empty: there are rules for this network

// rules is what the table says.
type rules struct {
	networks []Network
	ports    []published
	gone     string // bridge of a network that is about to be removed
	udp      bool   // ports of UDP are, or were, published by the one that it is written for
}

// published is a port of a container that the machine's leads to.
type published struct {
	Port
	to     netip.Addr
	bridge string
}

// writeRules writes the table, without what the container of the ID gone has, which
// is about to give that back, or without the network of that ID, which is about to be
// removed. ports are those for which it is written. The lock is held.
func (n *Networks) writeRules(gone string, ports ...Port) error {
	r, err := n.rules(gone)
	if err != nil {
		return err
	}
	r.udp = r.udp || hasUDP(ports)
	if err := r.write(n.table); err != nil {
		return err
	}
	r.endStaleFlows()
	return nil
}

func (n *Networks) rules(gone string) (rules, error) {
	var r rules
	all, err := n.List()
	if err != nil {
		return r, err
	}
	for _, net := range all {
		if net.ID == gone {
			r.gone = net.Bridge
			continue
		}
		r.networks = append(r.networks, net)
		have, err := n.leases(net.Name)
		if err != nil {
			return r, err
		}
		for id, l := range have {
			r.udp = r.udp || id == gone && hasUDP(l.Ports)
			if len(l.Ports) == 0 || id == gone || !n.alive(id) {
				continue
			}
			for _, p := range l.Ports {
				for _, a := range l.Addrs {
					if !p.HostIP.IsValid() || p.HostIP.Is4() == a.Is4() {
						r.ports = append(r.ports, published{p, a, net.Bridge})
					}
				}
			}
		}
	}
	return r, nil
}

func hasUDP(ports []Port) bool {
	return slices.ContainsFunc(ports, func(p Port) bool { return p.Protocol == "udp" })
}

// hasRules says whether the rules of a network are written. If that can't be told
// they are not: to write them tells why.
func (n *Networks) hasRules(net *Network) bool {
	c, err := nftables.New()
	if err != nil {
		return false
	}
	_, err = c.ListChain(&nftables.Table{Name: n.table, Family: nftables.TableFamilyINet}, mark(net))
	return err == nil
}

// mark is the name of a chain that tells that a network's rules are written.
func mark(net *Network) string { return "network-" + net.ID }

func (r *rules) write(name string) error {
	// First, as the table has the marks.
	if err := r.passOthers(); err != nil {
		return err
	}
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("write rules of nftables: %w", err)
	}
	// To add it before it is deleted is no error whether it is there or not.
	table := c.AddTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
	c.DelTable(table)
	if len(r.networks) > 0 {
		table = c.AddTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
		r.add(c, table)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write rules of nftables: %w", explain(err))
	}
	return nil
}

func (r *rules) add(c *nftables.Conn, table *nftables.Table) {
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Name: name, Table: table, Type: kind, Hooknum: hook, Priority: prio})
	}
	post := chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	pre := chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	out := chain("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	forward := chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	rule := func(ch *nftables.Chain, exprs ...[]expr.Any) {
		var all []expr.Any
		for _, e := range exprs {
			all = append(all, e...)
		}
		c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: all})
	}
	for _, p := range r.ports {
		match := [][]expr.Any{localAddress(), protocol(p.Protocol), toPort(p.HostPort)}
		if p.HostIP.IsValid() && !p.HostIP.IsUnspecified() {
			match = append(match, toAddress(p.HostIP))
		} else {
			match = append(match, family(p.to))
		}
		match = append(match, translate(p.to, p.Container))
		rule(pre, match...)
		rule(out, append([][]expr.Any{notLoopback()}, match...)...)
		// A container that reaches itself by the machine's address.
		rule(post, fromAddress(p.to), toAddress(p.to), protocol(p.Protocol), toPort(p.Container), masquerade())
	}
	for _, n := range r.networks {
		c.AddChain(&nftables.Chain{Name: mark(&n), Table: table})
		if n.Internal {
			rule(forward, interfaceIs(expr.MetaKeyIIFNAME, n.Bridge, true), interfaceIs(expr.MetaKeyOIFNAME, n.Bridge, false), drop())
			rule(forward, interfaceIs(expr.MetaKeyOIFNAME, n.Bridge, true), interfaceIs(expr.MetaKeyIIFNAME, n.Bridge, false), drop())
			continue
		}
		for _, s := range n.Subnets {
			if n.on(optionMasquerade) {
				rule(post, fromSubnet(s.Prefix), interfaceIs(expr.MetaKeyOIFNAME, n.Bridge, false), masquerade())
			}
			if !n.on(optionICC) { // the answer of a published port has to come back by the machine
				rule(post, fromSubnet(s.Prefix), interfaceIs(expr.MetaKeyOIFNAME, n.Bridge, true), translated(), masquerade())
			}
		}
		if !n.on(optionICC) { // by the gateway either
			rule(forward, interfaceIs(expr.MetaKeyIIFNAME, n.Bridge, true), interfaceIs(expr.MetaKeyOIFNAME, n.Bridge, true), notTranslated(), drop())
		}
		for _, other := range r.networks {
			if other.Name != n.Name && !other.Internal {
				rule(forward, interfaceIs(expr.MetaKeyIIFNAME, n.Bridge, true), interfaceIs(expr.MetaKeyOIFNAME, other.Bridge, true), notTranslated(), drop())
			}
		}
	}
}

// passOthers lets the networks' packets pass where another program drops what
// it doesn't know, as docker does: in its chain for others' rules if it has
// one, else before its own.
func (r *rules) passOthers() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil //nolint:nilerr // then there are no others
	}
	changed := false
	for _, ch := range chains {
		drops := ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward && ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop
		if !drops {
			continue
		}
		target := ch
		for _, user := range chains {
			if user.Name == "DOCKER-USER" && user.Table.Name == ch.Table.Name && user.Table.Family == ch.Table.Family {
				target = user
			}
		}
		did, err := r.pass(c, target)
		if err != nil {
			return err
		}
		changed = changed || did
	}
	if !changed {
		return nil
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("let packets pass another program's rules: %w", err)
	}
	return nil
}

// pass adds rules for each bridge that has none there, and removes those of one that
// is gone.
func (r *rules) pass(c *nftables.Conn, chain *nftables.Chain) (changed bool, err error) {
	have, err := c.GetRules(chain.Table, chain)
	if err != nil {
		return false, err
	}
	known := map[string]bool{}
	for _, rule := range have {
		if r.gone == "" || string(rule.UserData) != passMark(r.gone) {
			known[string(rule.UserData)] = true
			continue
		}
		if err := c.DelRule(rule); err != nil {
			return false, err
		}
		changed = true
	}
	for _, n := range r.networks {
		mark := passMark(n.Bridge)
		if known[mark] || n.Internal {
			continue
		}
		for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
			c.InsertRule(&nftables.Rule{
				Table: chain.Table, Chain: chain, UserData: []byte(mark),
				Exprs: append(interfaceIs(key, n.Bridge, true), &expr.Verdict{Kind: expr.VerdictAccept}),
			})
		}
		changed = true
	}
	return changed, nil
}

// passMark is what tells rules for a bridge in another program's chain.
func passMark(bridge string) string { return "builder:" + bridge }

// The parts of rules. Register 1 is used by all.

func interfaceIs(key expr.MetaKey, name string, is bool) []expr.Any {
	op := expr.CmpOpEq
	if !is {
		op = expr.CmpOpNeq
	}
	data := make([]byte, 16)
	copy(data, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: data}}
}

func family(a netip.Addr) []expr.Any {
	proto := byte(unix.NFPROTO_IPV4)
	if a.Is6() {
		proto = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}}}
}

// address matches the bytes of an address in the packet's header.
func address(a netip.Addr, destination bool, op expr.CmpOp) []expr.Any {
	offset, length := uint32(12), uint32(4)
	if a.Is6() {
		offset, length = 8, 16
	}
	if destination {
		offset += length
	}
	return append(family(a),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Cmp{Op: op, Register: 1, Data: a.AsSlice()})
}

func toAddress(a netip.Addr) []expr.Any   { return address(a, true, expr.CmpOpEq) }
func fromAddress(a netip.Addr) []expr.Any { return address(a, false, expr.CmpOpEq) }

func fromSubnet(p netip.Prefix) []expr.Any {
	e := address(p.Addr(), false, expr.CmpOpEq)
	length := uint32(p.Addr().BitLen() / 8)
	mask := make([]byte, length)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	cmp := e[len(e)-1]
	return append(e[:len(e)-1], &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length, Mask: mask, Xor: make([]byte, length)}, cmp)
}

// notLoopback leaves connections to 127.0.0.1 and ::1 to the proxy: what comes
// from there can't leave the machine's own interface.
func notLoopback() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: append([]byte("lo"), make([]byte, 14)...)}}
}

func localAddress() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

func protocol(name string) []expr.Any {
	proto := byte(unix.IPPROTO_TCP)
	if name == "udp" {
		proto = unix.IPPROTO_UDP
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}}}
}

func toPort(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

func translate(to netip.Addr, port uint16) []expr.Any {
	fam := uint32(unix.NFPROTO_IPV4)
	if to.Is6() {
		fam = unix.NFPROTO_IPV6
	}
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: to.AsSlice()},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: fam, RegAddrMin: 1, RegProtoMin: 2},
	}
}

// notTranslated matches what did not come to a published port.
func notTranslated() []expr.Any { return destinationTranslated(expr.CmpOpEq) }

// translated matches the others.
func translated() []expr.Any { return destinationTranslated(expr.CmpOpNeq) }

// destinationTranslated compares with 0 whether the destination was translated.
func destinationTranslated(op expr.CmpOp) []expr.Any {
	const dstNAT = 1 << 5 // IPS_DST_NAT
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(dstNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: make([]byte, 4)},
	}
}

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

func drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }
