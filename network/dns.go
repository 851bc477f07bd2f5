// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// The names of a network's containers are answered on the address of its
// gateway, and on the default network, which has none, those of others where
// the machine's name servers can't be reached from a container. Every process that holds a container on the network tries to: one
// gets the port, and another one when that ends. What it answers is in the
// files of leases, which all read. Everything else is asked of the name servers that
// the container was given, or of the machine's own.

// responders are those of this process, with how many of its containers are on
// the network.
var responders = struct {
	mu    sync.Mutex
	count map[string]int
	stop  map[string]context.CancelFunc
}{count: map[string]int{}, stop: map[string]context.CancelFunc{}}

// answerNames sees to it that the names of a network are answered as long as
// this process has a container on it.
func (n *Networks) answerNames(net Network) (stop func()) {
	key := n.dir + "\x00" + net.Name
	responders.mu.Lock()
	defer responders.mu.Unlock()
	if responders.count[key]++; responders.count[key] == 1 {
		ctx, cancel := context.WithCancel(context.Background())
		responders.stop[key] = cancel
		for _, s := range net.Subnets {
			r := &responder{networks: n, net: net, at: s.Gateway, slots: make(chan struct{}, maxQuestions)}
			go r.run(ctx)
		}
	}
	var once sync.Once
	return func() {
		once.Do(func() {
			responders.mu.Lock()
			defer responders.mu.Unlock()
			if responders.count[key]--; responders.count[key] == 0 {
				responders.stop[key]()
				delete(responders.count, key)
				delete(responders.stop, key)
			}
		})
	}
}

const (
	maxQuestions  = 256 // at a time
	askAgain      = 300 * time.Millisecond
	upstreamWait  = 3 * time.Second
	timeToLive    = 5 // seconds that an answer may be remembered
	maxDNSMessage = 4096
)

type responder struct {
	networks *Networks
	net      Network
	at       netip.Addr
	slots    chan struct{}
}

// run answers whenever no other process does.
func (r *responder) run(ctx context.Context) {
	for ctx.Err() == nil {
		udp, tcp, err := r.listen()
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(askAgain):
			}
			continue
		}
		stop := context.AfterFunc(ctx, func() {
			_ = udp.Close()
			_ = tcp.Close()
		})
		go r.serveTCP(tcp)
		r.serveUDP(udp)
		stop()
		_ = udp.Close()
		_ = tcp.Close()
	}
}

func (r *responder) listen() (udp *net.UDPConn, tcp net.Listener, err error) {
	at := netip.AddrPortFrom(r.at, 53)
	err = r.networks.inBase(func() error {
		if udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); err != nil {
			return err
		}
		if tcp, err = net.Listen("tcp", at.String()); err != nil {
			_ = udp.Close()
		}
		return err
	})
	return udp, tcp, err
}

func (r *responder) serveUDP(c *net.UDPConn) {
	for {
		buf := make([]byte, maxDNSMessage)
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		select {
		case r.slots <- struct{}{}:
		default:
			continue // too many: it will ask again
		}
		go func() {
			defer func() { <-r.slots }()
			if out := r.answer(buf[:n], from.Addr().Unmap(), "udp"); out != nil {
				_, _ = c.WriteToUDPAddrPort(out, from)
			}
		}()
	}
}

func (r *responder) serveTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		r.slots <- struct{}{}
		go func() {
			defer func() { <-r.slots }()
			defer func() { _ = c.Close() }()
			r.converse(c)
		}()
	}
}

// converse answers the questions of a connection.
func (r *responder) converse(c net.Conn) {
	from, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return
	}
	for {
		_ = c.SetDeadline(time.Now().Add(2 * upstreamWait))
		msg, err := readTCP(c)
		if err != nil {
			return
		}
		out := r.answer(msg, from.Addr().Unmap(), "tcp")
		if out == nil || writeTCP(c, out) != nil {
			return
		}
	}
}

func readTCP(c io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(head[:]))
	_, err := io.ReadFull(c, msg)
	return msg, err
}

func writeTCP(c io.Writer, msg []byte) error {
	_, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
	return err
}

// answer answers a message, nil if it is none.
func (r *responder) answer(msg []byte, from netip.Addr, proto string) []byte {
	var p dnsmessage.Parser
	head, err := p.Start(msg)
	if err != nil || head.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	if out, ok := r.own(head, q, from); ok {
		return out
	}
	servers, where := r.servers(from)
	if len(servers) == 0 {
		return reply(head, q, dnsmessage.RCodeNameError, nil)
	}
	if out := upstream(msg, servers, where, proto); out != nil {
		return out
	}
	return reply(head, q, dnsmessage.RCodeServerFailure, nil)
}

// servers are the name servers that are asked for the one who asks, and where: its own,
// where it can reach them, or else the machine's. Of an internal network only those of
// its own are asked that are on it.
func (r *responder) servers(from netip.Addr) (servers []netip.Addr, where func(func() error) error) {
	var own []netip.Addr
	if mine, err := r.networks.leases(r.net.Name); err == nil {
		own = mine[holder(mine, from)].Upstream
	}
	if servers, where = own, r.networks.inBase; len(own) == 0 {
		servers, where = nameServers(), func(f func() error) error { return f() }
	}
	elsewhere := r.elsewhere(from)
	if !r.net.Internal || slices.ContainsFunc(elsewhere, func(p place) bool { return !p.Internal }) {
		return servers, where
	}
	servers = nil
	for _, a := range own {
		if slices.ContainsFunc(append(elsewhere, place{Network: r.net}), func(p place) bool { return p.has(a) }) {
			servers = append(servers, a)
		}
	}
	return servers, where
}

// has says whether an address is of the network.
func (n *Network) has(a netip.Addr) bool {
	return slices.ContainsFunc(n.Subnets, func(s Subnet) bool { return s.Prefix.Contains(a) })
}

// own answers what is about containers. ok is false for everything else.
func (r *responder) own(head dnsmessage.Header, q dnsmessage.Question, from netip.Addr) ([]byte, bool) {
	if q.Class != dnsmessage.ClassINET {
		return nil, false
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	if q.Type == dnsmessage.TypePTR {
		host, ok := r.nameOf(name)
		if !ok {
			return nil, false
		}
		n, err := dnsmessage.NewName(host + ".")
		if err != nil {
			return nil, false
		}
		return reply(head, q, dnsmessage.RCodeSuccess, []dnsmessage.ResourceBody{&dnsmessage.PTRResource{PTR: n}}), true
	}
	addrs := r.addrsOf(name, from)
	if len(addrs) == 0 {
		return nil, false
	}
	var bodies []dnsmessage.ResourceBody
	for _, a := range addrs {
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			bodies = append(bodies, &dnsmessage.AResource{A: a.As4()})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			bodies = append(bodies, &dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	return reply(head, q, dnsmessage.RCodeSuccess, bodies), true
}

// addrsOf are the addresses of a name on the networks that the one who asks is
// on.
func (r *responder) addrsOf(name string, from netip.Addr) []netip.Addr {
	mine, err := r.networks.leases(r.net.Name)
	if err != nil {
		return nil
	}
	asker := holder(mine, from)
	if linked := r.linked(mine, asker, name); len(linked) > 0 {
		return linked
	}
	// NAME.NETWORK is NAME on that network.
	var out []netip.Addr
	look := func(net string, have leases) {
		for id, l := range have {
			known := slices.ContainsFunc(l.Names, func(s string) bool {
				return strings.EqualFold(s, name) || strings.EqualFold(s+"."+net, name)
			})
			if known && r.networks.alive(id) {
				out = append(out, l.Addrs...)
			}
		}
	}
	look(r.net.Name, mine)
	if len(out) > 0 {
		return out
	}
	for _, p := range r.elsewhere(from) {
		if linked := r.linked(p.leases, asker, name); len(linked) > 0 {
			return linked
		}
		if p.Names() {
			look(p.Name, p.leases)
		}
	}
	return out
}

// linked are the addresses of a container that the one who asks alone knows by a name.
func (r *responder) linked(have leases, asker, name string) []netip.Addr {
	for alias, id := range have[asker].Links {
		if !strings.EqualFold(alias, name) {
			continue
		}
		var second []netip.Addr // of one that has it as a further name
		for _, other := range slices.Sorted(maps.Keys(have)) {
			l := have[other]
			switch {
			case !slices.Contains(append(l.Names, other), id) || !r.networks.alive(other):
			case other == id || l.Names[0] == id:
				return l.Addrs
			case second == nil:
				second = l.Addrs
			}
		}
		return second
	}
	return nil
}

// holder is the ID of the container that has an address, "" if none has.
func holder(have leases, addr netip.Addr) string {
	for id, l := range have {
		if slices.Contains(l.Addrs, addr) {
			return id
		}
	}
	return ""
}

// place is a network with who is there.
type place struct {
	Network
	leases leases
}

// elsewhere are the networks that the one who asks is on besides this one.
func (r *responder) elsewhere(from netip.Addr) (on []place) {
	mine, err := r.networks.leases(r.net.Name)
	if err != nil {
		return nil
	}
	asker := holder(mine, from)
	all, err := r.networks.List()
	if asker == "" || err != nil {
		return nil
	}
	for _, net := range all {
		if net.Name == r.net.Name {
			continue
		}
		if have, err := r.networks.leases(net.Name); err == nil {
			if _, is := have[asker]; is {
				on = append(on, place{net, have})
			}
		}
	}
	return on
}

// nameOf is the name of the container that has the address of a reverse name.
func (r *responder) nameOf(name string) (string, bool) {
	labels, ok := strings.CutSuffix(name, ".in-addr.arpa")
	if !ok {
		return "", false
	}
	parts := strings.Split(labels, ".")
	slices.Reverse(parts)
	addr, err := netip.ParseAddr(strings.Join(parts, "."))
	if err != nil {
		return "", false
	}
	have, err := r.networks.leases(r.net.Name)
	if err != nil {
		return "", false
	}
	for _, l := range have {
		if slices.Contains(l.Addrs, addr) && len(l.Names) > 0 {
			return l.Names[0] + "." + r.net.Name, true
		}
	}
	return "", false
}

func reply(head dnsmessage.Header, q dnsmessage.Question, code dnsmessage.RCode, bodies []dnsmessage.ResourceBody) []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: head.ID, Response: true, OpCode: head.OpCode, Authoritative: code == dnsmessage.RCodeSuccess,
		RecursionDesired: head.RecursionDesired, RecursionAvailable: true, RCode: code,
	})
	b.EnableCompression()
	if b.StartQuestions() != nil || b.Question(q) != nil || b.StartAnswers() != nil {
		return nil
	}
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: timeToLive}
	for _, body := range bodies {
		var err error
		switch body := body.(type) {
		case *dnsmessage.AResource:
			err = b.AResource(h, *body)
		case *dnsmessage.AAAAResource:
			err = b.AAAAResource(h, *body)
		case *dnsmessage.PTRResource:
			err = b.PTRResource(h, *body)
		}
		if err != nil {
			return nil
		}
	}
	out, err := b.Finish()
	if err != nil {
		return nil
	}
	return out
}

// upstream asks name servers in turn.
func upstream(msg []byte, servers []netip.Addr, where func(func() error) error, proto string) []byte {
	for _, server := range servers {
		var c net.Conn
		err := where(func() (err error) {
			c, err = net.DialTimeout(proto, netip.AddrPortFrom(server, 53).String(), upstreamWait)
			return err
		})
		if err != nil {
			continue
		}
		out := exchange(c, msg, proto)
		_ = c.Close()
		if out != nil {
			return out
		}
	}
	return nil
}

func exchange(c net.Conn, msg []byte, proto string) []byte {
	_ = c.SetDeadline(time.Now().Add(upstreamWait))
	if proto == "tcp" {
		if writeTCP(c, msg) != nil {
			return nil
		}
		out, err := readTCP(c)
		if err != nil {
			return nil
		}
		return out
	}
	if _, err := c.Write(msg); err != nil {
		return nil
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil
		}
		if n >= 12 && buf[0] == msg[0] && buf[1] == msg[1] { // else an answer to somebody else
			return buf[:n]
		}
	}
}

// reachable says whether a container can reach one of the machine's name
// servers, or there is none: not those on loopback, which is the container's own
// in its namespace, nor those of a link that it isn't on.
func reachable(servers []netip.Addr) bool {
	return len(servers) == 0 || slices.ContainsFunc(servers, func(a netip.Addr) bool {
		return !a.IsLoopback() && !a.IsUnspecified() && !a.IsLinkLocalUnicast()
	})
}

// nameServers are those of /etc/resolv.conf; where it says none, resolv.conf(5)
// has it that this machine is one.
func nameServers() []netip.Addr {
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 1 && f[0] == "nameserver" {
			if a, err := netip.ParseAddr(f[1]); err == nil {
				out = append(out, a)
			}
		}
	}
	return out
}
