// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"builder/internal/sys"
)

// routes are the subnets that the machine has routes to, other than by default.
func routes() ([]netip.Prefix, error) {
	list, err := netlink.RouteList(nil, unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []netip.Prefix
	for _, r := range list {
		if r.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		if ok && bits > 0 {
			out = append(out, netip.PrefixFrom(addr.Unmap(), bits))
		}
	}
	return out, nil
}

// ensureBridge makes a network's bridge if it isn't there, as after a restart
// of the machine, or is not yet up: it is set up last, so somebody was killed then.
func ensureBridge(n *Network) error {
	link, err := netlink.LinkByName(n.Bridge)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		if link, err = makeBridge(n); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("look up %s: %w", n.Bridge, err)
	case link.Type() != "bridge":
		return fmt.Errorf("interface %s is no bridge", n.Bridge)
	case link.Attrs().Flags&net.FlagUp != 0:
		return nil
	}
	for _, s := range n.Subnets {
		addr := &netlink.Addr{IPNet: ipNet(s.Gateway, s.Prefix.Bits())}
		if s.Prefix.Addr().Is6() {
			// Nobody else has it, and it is to be used at once.
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("give bridge %s address %s: %w", n.Bridge, s.Gateway, err)
		}
	}
	if !n.Internal {
		if err := forward(n.IPv6()); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set bridge %s up: %w", n.Bridge, err)
	}
	return nil
}

// ownBridge is the name of a network's bridge until it gets another one.
func (n *Network) ownBridge() string { return "br-" + n.ID[:12] }

// makeBridge makes a bridge that is not up and has no address. One that gets a name
// which somebody else's might have has the network's ID as alias before.
func makeBridge(n *Network) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.ownBridge()
	if n.MTU > 0 {
		attrs.MTU = n.MTU
	}
	// A bridge that is given no hardware address takes one of its ports', and
	// another when that goes: what has remembered the first reaches nobody then.
	if len(n.Subnets) > 0 {
		var err error
		if attrs.HardwareAddr, err = parseMAC(macOf(n.Subnets[0].Gateway)); err != nil {
			return nil, err
		}
	}
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(bridge); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("make bridge %s: %w", n.Bridge, explain(err))
	}
	if n.Bridge == attrs.Name {
		return bridge, nil
	}
	err := netlink.LinkSetAlias(bridge, n.ID)
	if err == nil {
		err = netlink.LinkSetName(bridge, n.Bridge)
	}
	if err != nil {
		return nil, fmt.Errorf("name bridge %s: %w", n.Bridge, err)
	}
	return bridge, nil
}

// Mine says whether the network namespace that this process is in is its to
// change: not so that of the machine for a process in a user namespace.
func Mine() bool {
	if !sys.InUserNamespace() {
		return true
	}
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return false
	}
	defer ns.Close()
	fd, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return false // it is of one that isn't below this one
	}
	owner := os.NewFile(uintptr(fd), "user namespace")
	defer owner.Close()
	one, err1 := owner.Stat()
	own, err2 := os.Stat("/proc/self/ns/user")
	return err1 == nil && err2 == nil && os.SameFile(one, own)
}

// explain says what a refusal means.
func explain(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: this needs CAP_NET_ADMIN; --network host or none does not", err)
	}
	return err
}

func ipNet(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
}

// forward has the machine pass packets on between interfaces.
func forward(ipv6 bool) error {
	names := []string{"/proc/sys/net/ipv4/ip_forward"}
	if ipv6 {
		names = append(names, "/proc/sys/net/ipv6/conf/all/forwarding")
	}
	for _, name := range names {
		if text, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(text)) != "0" {
			continue
		}
		if err := os.WriteFile(name, []byte("1"), 0); err != nil {
			return fmt.Errorf("have this machine forward packets: %w", err)
		}
	}
	return nil
}

// removeBridge removes what makeBridge has made, if it is there: the machine may have
// had a bridge of the name.
func removeBridge(n *Network) error {
	for _, name := range []string{n.Bridge, n.ownBridge()} {
		link, err := netlink.LinkByName(name)
		if missing := new(netlink.LinkNotFoundError); errors.As(err, missing) {
			continue
		}
		if err == nil && (name == n.ownBridge() || link.Attrs().Alias == n.ID) {
			err = netlink.LinkDel(link)
		}
		if err != nil {
			return fmt.Errorf("remove bridge %s: %w", name, err)
		}
	}
	return nil
}

// NewNamespace makes a network namespace in which lo is up. It goes when the
// file is closed and no process is in it.
func NewNamespace() (ns *os.File, err error) {
	err = sys.OnNewThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return explain(os.NewSyscallError("unshare", err))
		}
		if ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		if err := setLoopbackUp(); err != nil {
			ns.Close()
			return err
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	return ns, nil
}

// setLoopbackUp sets up lo in the calling thread's namespace.
func setLoopbackUp() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	return h.LinkSetUp(lo)
}

// inNamespace runs f on a thread that is in a network namespace.
func inNamespace(ns *os.File, f func() error) error {
	return sys.OnNewThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		return f()
	})
}

// plug is an interface of a container.
type plug struct {
	name     string // in the container: eth0, …
	mac      net.HardwareAddr
	addrs    []netip.Addr
	gateways []netip.Addr // by which default routes lead
}

// connect makes a pair of interfaces, of which one is put on the network's
// bridge and the other into the namespace.
func connect(n *Network, ns *os.File, p plug) error {
	bridge, err := netlink.LinkByName(n.Bridge)
	if err != nil {
		return fmt.Errorf("look up bridge %s: %w", n.Bridge, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "veth" + strconv.FormatUint(uint64(randomNumber()), 16)
	attrs.MasterIndex = bridge.Attrs().Index
	attrs.MTU = bridge.Attrs().MTU
	attrs.Flags |= net.FlagUp
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: p.name, PeerHardwareAddr: p.mac, PeerNamespace: netlink.NsFd(int(ns.Fd()))}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make interface %s: %w", attrs.Name, explain(err))
	}
	if !n.on(optionICC) {
		// The others on the bridge are out of reach then; what is on the machine and
		// behind it isn't. The firewall has a rule for the way by the machine.
		err = netlink.LinkSetIsolated(veth, true)
	}
	if err == nil {
		err = inNamespace(ns, func() error { return configure(n, p) })
	}
	if err != nil {
		return errors.Join(fmt.Errorf("set up %s: %w", p.name, err), netlink.LinkDel(veth))
	}
	return nil
}

// configure sets up the container's end.
func configure(n *Network, p plug) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(p.name)
	if err != nil {
		return err
	}
	if !n.IPv6() {
		// Else it would give itself an address, which takes a while.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+p.name+"/disable_ipv6", []byte("1"), 0)
	}
	for i, a := range p.addrs {
		addr := &netlink.Addr{IPNet: ipNet(a, n.Subnets[i].Prefix.Bits())}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	return addRoutes(h, link, p.gateways, false)
}

// addRoutes has default routes lead over a container's interface. Those that are there stay,
// unless they are to be replaced.
func addRoutes(h *netlink.Handle, link netlink.Link, gateways []netip.Addr, replace bool) error {
	set := h.RouteAdd
	if replace {
		set = h.RouteReplace
	}
	for _, g := range gateways {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: g.AsSlice()}
		if err := set(route); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("default route by %s: %w", g, err)
		}
	}
	return nil
}

// withLinks runs f with a socket to the interfaces of a namespace.
func withLinks(ns *os.File, f func(h *netlink.Handle) error) error {
	return inNamespace(ns, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return f(h)
	})
}

// reroute is addRoutes for an interface that is there already.
func reroute(ns *os.File, name string, gateways []netip.Addr, replace bool) error {
	return withLinks(ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("look up %s: %w", name, err)
		}
		return addRoutes(h, link, gateways, replace)
	})
}

// has says whether a namespace has an interface.
func has(ns *os.File, name string) bool {
	return inNamespace(ns, func() error {
		_, err := net.InterfaceByName(name)
		return err
	}) == nil
}

// disconnect removes the interface of a container, if it is there.
func disconnect(ns *os.File, name string) error {
	return withLinks(ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if missing := new(netlink.LinkNotFoundError); errors.As(err, missing) {
			return nil
		}
		if err != nil {
			return err
		}
		return h.LinkDel(link)
	})
}

// unplug removes the interfaces of a hardware address that are ends of pairs, but
// those whose name is to stay.
func unplug(ns *os.File, mac net.HardwareAddr, stays func(name string) bool) error {
	return withLinks(ns, func(h *netlink.Handle) error {
		links, err := h.LinkList()
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		for _, l := range links {
			if l.Type() != "veth" || l.Attrs().HardwareAddr.String() != mac.String() || stays(l.Attrs().Name) {
				continue
			}
			if err := h.LinkDel(l); err != nil {
				return fmt.Errorf("remove %s: %w", l.Attrs().Name, err)
			}
		}
		return nil
	})
}
