// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A proxy has a published port of the machine: nobody else can take it then,
// and what reaches it by loopback, where no address is translated, is passed on
// to the container.
type proxy struct {
	port   Port
	to     atomic.Pointer[netip.AddrPort] // nil until it is known
	early  bool                           // the address may not be the machine's yet
	listen []net.Listener
	packet []*net.UDPConn
	done   chan struct{}
}

// reserve takes the host ports, and chooses those that are left to us. The network's own
// address on the machine may come later.
func (a *Attachment) reserve(net *Network, ports []Port) error {
	for _, p := range ports {
		early := slices.ContainsFunc(net.Subnets, func(s Subnet) bool { return s.Gateway == p.HostIP })
		px, err := newProxy(p, early)
		if err != nil {
			return err
		}
		a.proxies = append(a.proxies, px)
		a.Ports = append(a.Ports, px.port)
	}
	return nil
}

// newProxy listens on a port, IPv4 and IPv6 if no address is given, which is the first
// free one of several.
func newProxy(p Port, early bool) (*proxy, error) {
	last := p.HostLast
	for p.HostLast = 0; p.HostPort < last; p.HostPort++ {
		px, err := newProxyAt(p, early)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return px, err
		}
	}
	px, err := newProxyAt(p, early)
	if err != nil && last > 0 {
		err = fmt.Errorf("no other port of the range is free either: %w", err)
	}
	return px, err
}

func newProxyAt(p Port, early bool) (*proxy, error) {
	px := &proxy{port: p, early: early, done: make(chan struct{})}
	hosts := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	if p.HostIP.IsValid() {
		hosts = []netip.Addr{p.HostIP}
	}
	for try := 0; ; try++ {
		err := px.open(hosts)
		if err == nil {
			return px, nil
		}
		px.close()
		// A port that was free for IPv4 may not be for IPv6.
		if p.HostPort == 0 && try < 20 && errors.Is(err, syscall.EADDRINUSE) {
			px = &proxy{port: p, early: early, done: make(chan struct{})}
			continue
		}
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("port %d/%s is already allocated: %w", p.HostPort, p.Protocol, err)
		}
		if errors.Is(err, syscall.EACCES) && p.HostPort != 0 {
			return nil, fmt.Errorf("publish port %d/%s: %w: ports below %s are root's (net.ipv4.ip_unprivileged_port_start): take another one, or have root set that to %d or less",
				p.HostPort, p.Protocol, err, firstFreePort(), p.HostPort)
		}
		return nil, fmt.Errorf("publish port %d/%s: %w", p.HostPort, p.Protocol, err)
	}
}

// firstFreePort is the first port of the machine that everybody may have.
func firstFreePort() string {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return "1024"
	}
	return strings.TrimSpace(string(text))
}

func (px *proxy) open(hosts []netip.Addr) error {
	for _, host := range hosts {
		v6 := host.Is6()
		addr := net.JoinHostPort(host.String(), strconv.Itoa(int(px.port.HostPort)))
		err := px.openOne(addr, v6)
		if v6 && len(hosts) > 1 && (errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL)) {
			px.port.OnlyIPv4 = true // a machine without it
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (px *proxy) openOne(addr string, v6 bool) error {
	network := px.port.Protocol + "4"
	if v6 {
		network = px.port.Protocol + "6"
	}
	var config net.ListenConfig
	if px.early {
		config.Control = freeBind(v6)
	}
	if px.port.Protocol == "udp" {
		c, err := config.ListenPacket(context.Background(), network, addr)
		if err != nil {
			return err
		}
		px.packet = append(px.packet, c.(*net.UDPConn))
		px.chosen(c.LocalAddr().(*net.UDPAddr).Port)
		return nil
	}
	l, err := config.Listen(context.Background(), network, addr)
	if err != nil {
		return err
	}
	px.listen = append(px.listen, l)
	px.chosen(l.Addr().(*net.TCPAddr).Port)
	return nil
}

// freeBind lets a socket have an address that isn't the machine's yet (IP_FREEBIND, ip(7)).
func freeBind(v6 bool) func(network, addr string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if failed := c.Control(func(fd uintptr) {
			if v6 {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
			} else {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
			}
		}); failed != nil {
			return failed
		}
		return os.NewSyscallError("setsockopt", err)
	}
}

func (px *proxy) chosen(port int) { px.port.HostPort = uint16(port) }

func (px *proxy) close() {
	select {
	case <-px.done:
		return
	default:
	}
	close(px.done)
	for _, l := range px.listen {
		_ = l.Close()
	}
	for _, c := range px.packet {
		_ = c.Close()
	}
}

// reserveAgain takes the host ports of an attachment that was taken over. To those that
// somebody else has got meanwhile the rules alone lead.
func (a *Attachment) reserveAgain() error {
	var errs []error
	for _, p := range a.Ports {
		px, err := newProxy(p, false)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		a.proxies = append(a.proxies, px)
	}
	return errors.Join(errs...)
}

// aim has what comes to published ports passed on to where the container goes out.
func (a *Attachment) aim() {
	exit := a.exit()
	if exit < 0 {
		return
	}
	for _, px := range a.proxies {
		at := netip.AddrPortFrom(a.Connected[exit].Addrs[0], px.port.Container)
		if px.to.Swap(&at) != nil {
			continue // it is served already
		}
		for _, l := range px.listen {
			go a.networks.serveTCP(l, &px.to)
		}
		for _, c := range px.packet {
			go a.networks.serveUDP(c, &px.to)
		}
	}
}

// unpublish gives the host ports back.
func (a *Attachment) unpublish() {
	for _, px := range a.proxies {
		px.close()
	}
	a.proxies, a.Ports = nil, nil
}

// dialTimeout bounds the wait for a container that doesn't answer.
const dialTimeout = 10 * time.Second

func (n *Networks) serveTCP(l net.Listener, to *atomic.Pointer[netip.AddrPort]) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // no descriptors left, perhaps
			continue
		}
		go n.passTCP(c.(*net.TCPConn), *to.Load())
	}
}

// passTCP copies both ways; each direction ends by itself.
func (n *Networks) passTCP(c *net.TCPConn, to netip.AddrPort) {
	defer func() { _ = c.Close() }()
	out, err := n.dialTCP(to, dialTimeout)
	if err != nil {
		_ = c.SetLinger(0) // the client sees a reset
		return
	}
	defer func() { _ = out.Close() }()
	var both sync.WaitGroup
	half := func(to, from *net.TCPConn) {
		if _, err := io.Copy(to, from); err != nil {
			from.CloseRead() //nolint:errcheck // it is over
		}
		to.CloseWrite() //nolint:errcheck // the other side may be gone
	}
	both.Go(func() { half(out, c) })
	both.Go(func() { half(c, out) })
	both.Wait()
}

// udpIdle is how long a client of UDP is remembered that says nothing.
const udpIdle = 90 * time.Second

// maxUDPClients bounds those remembered of one port.
const maxUDPClients = 4096

func (n *Networks) serveUDP(c *net.UDPConn, aim *atomic.Pointer[netip.AddrPort]) {
	type way struct{ from, to netip.AddrPort }
	var mu sync.Mutex
	clients := map[way]*net.UDPConn{}
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		for _, out := range clients {
			_ = out.Close()
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		size, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // such as a port that nobody listens on
		}
		mu.Lock()
		w := way{from, *aim.Load()}
		out := clients[w]
		if out == nil && len(clients) < maxUDPClients {
			if out, err = n.dialUDP(w.to); err == nil {
				clients[w] = out
				go func() {
					answerUDP(c, out, from)
					mu.Lock()
					defer mu.Unlock()
					delete(clients, w)
				}()
			}
		}
		mu.Unlock()
		if out != nil {
			_ = out.SetReadDeadline(time.Now().Add(udpIdle))
			_, _ = out.Write(buf[:size]) // as UDP does: it may be lost
		}
	}
}

// answerUDP passes on what comes back until nothing does.
func answerUDP(c, out *net.UDPConn, to netip.AddrPort) {
	defer func() { _ = out.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := out.Read(buf)
		if errors.Is(err, syscall.ECONNREFUSED) {
			continue
		}
		if err != nil {
			return
		}
		if _, err := c.WriteToUDPAddrPort(buf[:n], to); err != nil {
			return
		}
	}
}
