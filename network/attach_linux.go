// SPDX-License-Identifier: Apache-2.0

package network

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"
)

// Endpoint is what a container wants of networks.
type Endpoint struct {
	Container   string       `json:"container"` // its ID
	Names       []string     `json:"names"`     // that it has on every network that resolves names
	Connections []Connection `json:"connections"`
	Ports       []Port       `json:"ports,omitempty"` // on the network by which it goes out
	Upstream    []netip.Addr `json:"-"`               // name servers for what is no name on its networks; none for the machine's
}

// Connection is one network that a container is to be on.
type Connection struct {
	Network string     `json:"network"`
	Aliases []string   `json:"aliases,omitempty"`
	IP      netip.Addr `json:"ip,omitzero"`
	IP6     netip.Addr `json:"ip6,omitzero"`
	MAC     string     `json:"mac,omitempty"`
	// Links are names by which the container, and no other, knows others on this
	// network: their names, or on the default network, which resolves none, their IDs.
	Links map[string]string `json:"links,omitempty"`
	// GatewayPriority is how much this network is to be the one by which default routes
	// lead, among those that lead out. Of several of one priority it is the first.
	GatewayPriority int `json:"gatewayPriority,omitempty"`
}

// Attachment is what a container has. It is kept as JSON, by which another
// process goes on with it: see [Networks.Adopt].
type Attachment struct {
	Container string       `json:"container"`
	Connected []Connected  `json:"connected"`
	Ports     []Port       `json:"ports,omitempty"` // with the host ports that were chosen
	DNS       []netip.Addr `json:"dns,omitempty"`   // name servers of its own; else the machine's
	Upstream  []netip.Addr `json:"upstream,omitempty"`

	ns       *os.File
	networks *Networks
	proxies  []*proxy
	names    map[string]func() // ends the answering of names, by network
}

// Connected is a network that a container is on.
type Connected struct {
	Network   string       `json:"network"`
	ID        string       `json:"id"`
	Interface string       `json:"interface"`
	Addrs     []netip.Addr `json:"addrs"`
	Bits      []int        `json:"bits"`     // lengths of their subnets
	Gateways  []netip.Addr `json:"gateways"` // by which default routes lead
	MAC       string       `json:"mac"`
	Aliases   []string     `json:"aliases,omitempty"`
	Priority  int          `json:"priority,omitempty"` // see [Connection]
}

// near says whether an address is of a subnet of the network.
func (c *Connected) near(addr netip.Addr) bool {
	for i, own := range c.Addrs {
		if netip.PrefixFrom(own, c.Bits[i]).Contains(addr) {
			return true
		}
	}
	return false
}

// Namespace is the network namespace. It is the Attachment's.
func (a *Attachment) Namespace() *os.File { return a.ns }

// Gateway is the address by which the container reaches this machine, invalid
// if no network of it leads out.
func (a *Attachment) Gateway() netip.Addr {
	for _, c := range a.Connected {
		if len(c.Gateways) > 0 {
			return c.Gateways[0]
		}
	}
	return netip.Addr{}
}

// Attach makes a network namespace and joins it to networks. What has been made
// is gone again after a failure. [Attachment.Close] ends it. ns, if it is not
// nil, is a namespace in which nothing is set up, which is taken instead, and is
// the Attachment's from then on. What the container has of an earlier start, whose
// holder was killed, is dropped.
func (n *Networks) Attach(e Endpoint, ns *os.File) (_ *Attachment, err error) {
	a := &Attachment{Container: e.Container, Upstream: e.Upstream, networks: n}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if a.ns = ns; ns == nil {
		a.ns, err = NewNamespace()
	} else {
		err = inNamespace(ns, setLoopbackUp)
	}
	if err == nil {
		err = n.Drop(e.Container)
	}
	if err != nil {
		return nil, err
	}
	for _, c := range e.byPriority() {
		if err := a.Connect(c, e.Names, e.Ports); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// byPriority are the connections in the order in which they may be the way out.
func (e Endpoint) byPriority() []Connection {
	return slices.SortedStableFunc(slices.Values(e.Connections), func(a, b Connection) int { return cmp.Compare(b.GatewayPriority, a.GatewayPriority) })
}

// answerNames has the names of a network answered as long as the container is
// on it.
func (a *Attachment) answerNames(net Network) {
	if !slices.ContainsFunc(net.Subnets, func(s Subnet) bool { return slices.Contains(a.DNS, s.Gateway) }) {
		return
	}
	if a.names == nil {
		a.names = map[string]func(){}
	}
	if a.names[net.Name] == nil {
		a.names[net.Name] = a.networks.answerNames(net)
	}
}

// On says whether the container is on a network.
func (a *Attachment) On(name string) bool {
	return slices.ContainsFunc(a.Connected, func(c Connected) bool { return c.Network == name })
}

// Names says whether the container is on a network that resolves names.
func (a *Attachment) Names() bool {
	return slices.ContainsFunc(a.Connected, func(c Connected) bool { return (&Network{Name: c.Network}).Names() })
}

// exit is the index of the network by which the container goes out, -1 if there is
// none. Published ports lead to it.
func (a *Attachment) exit() int {
	at := slices.IndexFunc(a.Connected, func(c Connected) bool { return slices.ContainsFunc(c.Gateways, netip.Addr.Is4) })
	if at < 0 {
		at = slices.IndexFunc(a.Connected, func(c Connected) bool { return len(c.Gateways) > 0 })
	}
	return at
}

// Connect joins one more network: the lease first, which others see, then the
// interfaces. If it is the first that leads out the ports are published. What has been
// made is gone again after a failure.
func (a *Attachment) Connect(c Connection, names []string, ports []Port) error {
	net, err := a.networks.Find(c.Network)
	if err != nil {
		return err
	}
	if a.On(net.Name) {
		return fmt.Errorf("container %s is on network %s already", a.Container[:12], net.Name)
	}
	if !net.Names() && len(c.Aliases) > 0 {
		return fmt.Errorf("network %s resolves no names: aliases are for networks that were made", net.Name)
	}
	ports = net.bind(ports)
	first := !net.Internal && a.exit() < 0
	if first {
		a.unpublish() // what nobody could be found to stand in for
		err = a.reserve(&net, ports)
	}
	var got Connected
	if err == nil {
		got, err = a.networks.lease(&net, a, c, names, first)
	}
	if err == nil {
		err = a.join(net, got)
	}
	if err == nil && !net.Internal && !first && c.GatewayPriority > a.Connected[a.exit()].Priority {
		err = a.goOutBy(len(a.Connected)-1, &net)
	}
	if err != nil {
		if first {
			a.unpublish()
		}
		return fmt.Errorf("network %s: %w", net.Name, errors.Join(err, a.networks.release(a.Container, false, net.Name)))
	}
	a.aim()
	return nil
}

// goOutBy has default routes lead over a network, and published ports to it.
func (a *Attachment) goOutBy(at int, net *Network) error {
	c, was := &a.Connected[at], a.exit()
	var gateways []netip.Addr
	for _, s := range net.Subnets {
		gateways = append(gateways, s.Gateway)
	}
	if err := reroute(a.ns, c.Interface, gateways, true); err != nil {
		return err
	}
	for i := range a.Connected {
		other := &a.Connected[i]
		other.Gateways = slices.DeleteFunc(other.Gateways, func(g netip.Addr) bool {
			return slices.ContainsFunc(gateways, func(own netip.Addr) bool { return own.Is4() == g.Is4() })
		})
	}
	c.Gateways = gateways
	if len(a.Ports) == 0 || a.exit() != at {
		return nil
	}
	return errors.Join(a.networks.lead(a.Container, a.Connected[was].Network, nil), a.networks.lead(a.Container, c.Network, a.Ports))
}

// maxInterfaces bounds how many names are tried for an interface.
const maxInterfaces = 100

// join gives the container the interface for a lease.
func (a *Attachment) join(net Network, got Connected) error {
	mac, err := parseMAC(got.MAC)
	if err != nil {
		return err
	}
	got.Gateways = a.gateways(&net)
	err = fs.ErrExist
	for i := 0; i < maxInterfaces && errors.Is(err, fs.ErrExist); i++ { // the container may have made some of its own
		if got.Interface = "eth" + strconv.Itoa(i); !a.hasInterface(got.Interface) {
			err = a.networks.plugIn(&net, a.ns, plug{name: got.Interface, mac: mac, addrs: got.Addrs, gateways: got.Gateways})
		}
	}
	if err != nil {
		return err
	}
	a.Connected = append(a.Connected, got)
	if net.Names() || !net.Internal && !reachable(nameServers()) {
		for _, s := range net.Subnets {
			if !slices.Contains(a.DNS, s.Gateway) {
				a.DNS = append(a.DNS, s.Gateway)
			}
		}
	}
	a.answerNames(net)
	return nil
}

// gateways are those of a network by which default routes are to lead: IPv4 and IPv6
// each, unless those lead over another network already.
func (a *Attachment) gateways(net *Network) (out []netip.Addr) {
	for _, s := range net.Subnets {
		taken := slices.ContainsFunc(a.Connected, func(c Connected) bool {
			return c.Network != net.Name && slices.ContainsFunc(c.Gateways, func(g netip.Addr) bool { return g.Is4() == s.Gateway.Is4() })
		})
		if !net.Internal && !taken {
			out = append(out, s.Gateway)
		}
	}
	return out
}

// standIn has the networks that are left stand in for one that was left, whose name
// server is none any more: a default route leads over the first that leads out, and
// published ports to it. Without one there are none.
func (a *Attachment) standIn() error {
	var dns []netip.Addr
	for _, server := range a.DNS {
		if slices.ContainsFunc(a.Connected, func(c Connected) bool { return c.near(server) }) {
			dns = append(dns, server)
		}
	}
	a.DNS = dns
	var errs []error
	order := make([]*Connected, len(a.Connected))
	for i := range a.Connected {
		order[i] = &a.Connected[i]
	}
	slices.SortStableFunc(order, func(a, b *Connected) int { return cmp.Compare(b.Priority, a.Priority) })
	for _, c := range order {
		net, err := a.networks.load(c.Network)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		gateways := a.gateways(&net)
		if len(gateways) == len(c.Gateways) {
			continue
		}
		if err := reroute(a.ns, c.Interface, gateways, false); err != nil {
			errs = append(errs, err) // another one may do
			continue
		}
		c.Gateways = gateways
	}
	at := a.exit()
	if at < 0 {
		a.unpublish()
	}
	if len(a.Ports) > 0 {
		a.aim()
		errs = append(errs, a.networks.lead(a.Container, a.Connected[at].Network, a.Ports))
	}
	return errors.Join(errs...)
}

// lead has ports of the machine lead to a container by a network that it is on.
func (n *Networks) lead(id, network string, ports []Port) error {
	lock, err := n.lock()
	if err != nil {
		return err
	}
	defer lock.Release()
	have, err := n.leases(network)
	if err != nil {
		return err
	}
	l := have[id]
	l.Ports = ports
	have[id] = l
	if err := save(n.file(network, ".leases"), have); err != nil {
		return err
	}
	return n.inBase(func() error { return n.writeRules("", ports...) })
}

// plugIn gives a container an interface on a network.
func (n *Networks) plugIn(net *Network, ns *os.File, p plug) error {
	return n.inBase(func() error { return connect(net, ns, p) })
}

func parseMAC(text string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(text)
	if err == nil && len(mac) != 6 {
		err = fmt.Errorf("address %s: want six bytes", text)
	}
	return mac, err
}

// lease finds addresses for a container on a network, sees to the bridge and
// the rules, and notes all.
func (n *Networks) lease(net *Network, a *Attachment, c Connection, names []string, publish bool) (got Connected, err error) {
	lock, err := n.lock()
	if err != nil {
		return got, err
	}
	defer lock.Release()
	if *net, err = n.load(net.Name); err != nil {
		return got, err // it was removed meanwhile
	}
	have, err := n.leases(net.Name)
	if err != nil {
		return got, err
	}
	delete(have, a.Container) // of a connect that could not be undone
	stale := n.sweep(have, lookAt)
	addrs, err := net.assign(have, c)
	if err != nil {
		stale = n.sweep(have, len(have)) || stale
		addrs, err = net.assign(have, c)
	}
	if err != nil {
		return got, err
	}
	got = Connected{Network: net.Name, ID: net.ID, Addrs: addrs, MAC: c.MAC, Aliases: c.Aliases, Priority: c.GatewayPriority}
	for _, s := range net.Subnets {
		got.Bits = append(got.Bits, s.Prefix.Bits())
	}
	if got.MAC == "" {
		got.MAC = macOf(addrs[0])
	}
	l := lease{Addrs: addrs, MAC: got.MAC, Created: time.Now(), Links: c.Links, Upstream: a.Upstream}
	if publish {
		l.Ports = a.Ports
	}
	if net.Names() {
		l.Names = append(slices.Concat(names, c.Aliases), a.Container[:12])
	}
	have[a.Container] = l
	return got, n.inBase(func() error {
		if stale { // first: once the lease is gone nobody knows of its rules
			if err := n.writeRules(""); err != nil {
				return err
			}
		}
		if err := ensureBridge(net); err != nil {
			return err
		}
		if err := save(n.file(net.Name, ".leases"), have); err != nil {
			return err
		}
		if len(l.Ports) > 0 || !n.hasRules(net) {
			return n.writeRules("", l.Ports...)
		}
		return nil
	})
}

// lookAt is how many leases are looked at for each new one. As no more than one is
// left by each, there are by and by no more than a third as many of containers that
// are gone as of others.
const lookAt = 4

// sweep deletes leases of containers that are gone, among that many of them,
// chosen by chance. ports says that ports led to one.
func (n *Networks) sweep(have leases, many int) (ports bool) {
	for id, l := range have {
		if many--; many < 0 {
			break
		}
		if !n.alive(id) {
			delete(have, id)
			ports = ports || len(l.Ports) > 0
		}
	}
	return ports
}

// assign chooses the addresses of a container.
func (n *Network) assign(have leases, c Connection) ([]netip.Addr, error) {
	used := map[netip.Addr]bool{}
	var newest lease
	for _, l := range have {
		for _, a := range l.Addrs {
			used[a] = true
		}
		if l.Created.After(newest.Created) {
			newest = l
		}
	}
	var out []netip.Addr
	for i, s := range n.Subnets {
		for _, a := range s.Reserved {
			used[a] = true
		}
		want := c.IP
		if s.Prefix.Addr().Is6() {
			want = c.IP6
		}
		var last netip.Addr
		if i < len(newest.Addrs) {
			last = newest.Addrs[i]
		}
		got, err := s.assign(want, used, last)
		if err != nil {
			return nil, err
		}
		out = append(out, got)
	}
	return out, nil
}

// macOf makes a hardware address of an address, as docker does: who has the
// same address again has the same one.
func macOf(a netip.Addr) string {
	b := a.AsSlice()
	b = b[len(b)-4:]
	return fmt.Sprintf("02:42:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
}

func randomNumber() uint32 {
	var b [4]byte
	rand.Read(b[:])
	return binary.NativeEndian.Uint32(b[:])
}

// Disconnect leaves a network, whose name server goes from DNS. Another one takes over
// the default routes that led over it, and published ports; without one that leads out
// these are given back. After a failure or a kill it can be repeated; if the network was
// left the failure was another's to stand in.
func (a *Attachment) Disconnect(name string) error {
	i := slices.IndexFunc(a.Connected, func(c Connected) bool { return c.Network == name })
	if i < 0 {
		return fmt.Errorf("container %s is not on network %s", a.Container[:12], name)
	}
	if err := disconnect(a.ns, a.Connected[i].Interface); err != nil {
		return err
	}
	if err := a.networks.release(a.Container, false, name); err != nil {
		return err
	}
	a.Connected = slices.Delete(a.Connected, i, i+1)
	if stop := a.names[name]; stop != nil {
		stop()
		delete(a.names, name)
	}
	return a.standIn()
}

// Close ends the attachment: proxies, leases and rules. The interfaces go with
// the namespace, that is, with its last process. Repeating it does nothing, nor
// does closing nil.
func (a *Attachment) Close() error {
	if a == nil {
		return nil
	}
	published := len(a.Ports) > 0
	a.unpublish()
	for _, stop := range a.names {
		stop()
	}
	a.names = nil
	var on []string
	for _, c := range a.Connected {
		on = append(on, c.Network)
	}
	var errs []error
	if len(on) > 0 {
		errs = append(errs, a.networks.release(a.Container, published, on...))
	}
	a.Connected = nil
	if a.ns != nil {
		errs = append(errs, a.ns.Close())
		a.ns = nil
	}
	return errors.Join(errs...)
}

// release gives a container's leases of networks back. ports says that ports lead
// to it, whether a lease says so or not. The rules go first: while a lease is
// there somebody knows of them.
func (n *Networks) release(id string, ports bool, names ...string) error {
	lock, err := n.lock()
	if err != nil {
		return err
	}
	defer lock.Release()
	left := map[string]leases{}
	for _, name := range names {
		have, err := n.leases(name)
		if err != nil {
			return err
		}
		if l, ok := have[id]; ok {
			ports = ports || len(l.Ports) > 0
			delete(have, id)
			left[name] = have
		}
	}
	if ports {
		if err := n.inBaseIfThere(func() error { return n.writeRules(id) }); err != nil {
			return err
		}
	}
	for name, have := range left {
		if _, err := os.Stat(n.file(name, ".json")); errors.Is(err, fs.ErrNotExist) {
			continue // the network was removed
		}
		if err := save(n.file(name, ".leases"), have); err != nil {
			return err
		}
	}
	return nil
}

// Adopt goes on with an attachment of a process that was killed, for a
// container that runs on: pid is a process in it, as long as lives says that it is
// the one that is meant. A Connect that was under way is undone, a Disconnect is
// finished if it had come as far as the lease. After an error, too, the Attachment is
// to be closed.
func (n *Networks) Adopt(a *Attachment, pid int, lives func() bool) error {
	a.networks = n
	ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/net")
	if err != nil {
		return err
	}
	if !lives() {
		return errors.Join(fmt.Errorf("process %d: %w", pid, os.ErrProcessDone), ns.Close())
	}
	a.ns = ns
	left, err := a.settle()
	errs := []error{err, a.reserveAgain()}
	for _, c := range a.Connected {
		if net, err := n.load(c.Network); err == nil {
			errs = append(errs, a.replug(&net, c))
			a.answerNames(net)
		}
	}
	if left {
		errs = append(errs, a.standIn())
	}
	a.aim()
	return errors.Join(errs...)
}

// settle has the attachment say what is so, whatever a killed process was about. A
// Connect has left a lease that it doesn't know, and perhaps an interface with the
// hardware address of that; a Disconnect an entry without a lease. left says that it
// has left a network so.
func (a *Attachment) settle() (left bool, err error) {
	on, err := a.networks.on(a.Container)
	if err != nil {
		return false, err
	}
	var errs []error
	had := len(a.Connected)
	a.Connected = slices.DeleteFunc(a.Connected, func(c Connected) bool {
		gone := !slices.Contains(on, c.Network)
		if gone {
			errs = append(errs, disconnect(a.ns, c.Interface))
		}
		return gone
	})
	left = len(a.Connected) < had
	for _, name := range on {
		if a.On(name) {
			continue
		}
		have, err := a.networks.leases(name)
		if err == nil {
			err = a.unplug(have[a.Container].MAC)
		}
		if err == nil {
			err = a.networks.release(a.Container, false, name)
		}
		errs = append(errs, err)
	}
	return left, errors.Join(errs...)
}

// unplug removes the interfaces of a hardware address, but none that is known to
// be on a network.
func (a *Attachment) unplug(address string) error {
	mac, err := parseMAC(address)
	if err != nil {
		return nil //nolint:nilerr // then no interface has it
	}
	return unplug(a.ns, mac, a.hasInterface)
}

// hasInterface says whether an interface is known to be on a network.
func (a *Attachment) hasInterface(name string) bool {
	return slices.ContainsFunc(a.Connected, func(c Connected) bool { return c.Interface == name })
}

// replug gives a container its interface again, which is gone if the namespace
// of the bridges is: nobody was left who had it open.
func (a *Attachment) replug(net *Network, c Connected) error {
	if a.networks.base == nil || has(a.ns, c.Interface) {
		return nil
	}
	lock, err := a.networks.lock()
	if err != nil {
		return err
	}
	defer lock.Release()
	err = a.networks.inBase(func() error {
		if err := ensureBridge(net); err != nil {
			return err
		}
		return a.networks.writeRules("")
	})
	if err != nil {
		return err
	}
	mac, err := parseMAC(c.MAC)
	if err != nil {
		return err
	}
	return a.networks.plugIn(net, a.ns, plug{name: c.Interface, mac: mac, addrs: c.Addrs, gateways: c.Gateways})
}
