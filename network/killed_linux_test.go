// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"io/fs"
	stdnet "net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"builder/internal/testutil"
)

// These tests do what a process does that is killed in the middle, and then what
// the next one does.

// bench are networks in a namespace of their own.
type bench struct {
	*Networks
	t       *testing.T
	threads *Threads
	gone    map[string]bool // containers that are not there any more
}

func (b *bench) Threads(bool) (*Threads, error) { return b.threads, nil }

func newBench(t *testing.T) *bench {
	testutil.Require(t, "root")
	ns, err := NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	b := &bench{t: t, threads: NewThreads(ns), gone: map[string]bool{}}
	dir := t.TempDir()
	b.Networks = Open(dir, dir, func(id string) bool { return !b.gone[id] })
	b.SetBase(b)
	return b
}

func (b *bench) create(name, subnet string) Network {
	b.t.Helper()
	net, err := b.Create(Network{Name: name, Subnets: []Subnet{{Prefix: netip.MustParsePrefix(subnet)}}}, false)
	if err != nil {
		b.t.Fatal(err)
	}
	return net
}

// containerID is the ID of one of a test's containers.
func containerID(n int) string { return strings.Repeat(string(rune('a'+n)), 64) }

// attach attaches a container, which publishes a port if it is to.
func (b *bench) attach(id string, publish bool, networks ...string) *Attachment {
	b.t.Helper()
	e := Endpoint{Container: id, Names: []string{"name-" + id[:1]}}
	for _, name := range networks {
		e.Connections = append(e.Connections, Connection{Network: name})
	}
	if publish {
		e.Ports = []Port{{Protocol: "tcp", HostIP: netip.MustParseAddr("127.0.0.1"), Container: 80}}
	}
	a, err := b.Attach(e, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { a.Close() })
	return a
}

// kill does to an attachment what the end of its process does.
func (b *bench) kill(a *Attachment) {
	for _, px := range a.proxies {
		px.close()
	}
	for _, stop := range a.names {
		stop()
	}
	if a.ns != nil {
		a.ns.Close()
	}
	a.Connected, a.Ports, a.proxies, a.names, a.ns = nil, nil, nil, nil, nil
}

// leads are the addresses to which rules of published ports lead.
func (b *bench) leads() (to []netip.Addr) {
	b.t.Helper()
	for _, e := range b.rules("prerouting") {
		if imm, ok := e.(*expr.Immediate); ok && imm.Register == 1 {
			a, _ := netip.AddrFromSlice(imm.Data)
			to = append(to, a)
		}
	}
	return to
}

// rules are what those of a chain are made of.
func (b *bench) rules(chain string) (all []expr.Any) {
	b.t.Helper()
	err := b.threads.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := &nftables.Table{Name: b.table, Family: nftables.TableFamilyINet}
		list, err := c.GetRules(table, &nftables.Chain{Name: chain, Table: table})
		for _, r := range list {
			all = append(all, r.Exprs...)
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

// onNetwork are the containers that have a lease.
func (b *bench) onNetwork(name string) (ids []string) {
	b.t.Helper()
	have, err := b.leases(name)
	if err != nil {
		b.t.Fatal(err)
	}
	for id := range have {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// links are the interfaces of a type where the bridges are.
func (b *bench) links(kind string) (names []string) {
	b.t.Helper()
	err := b.threads.Do(func() error {
		list, err := netlink.LinkList()
		for _, l := range list {
			if l.Type() == kind {
				names = append(names, l.Attrs().Name)
			}
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return names
}

func (b *bench) want(when string, leads int, name string, ids ...string) {
	b.t.Helper()
	if to := b.leads(); len(to) != leads {
		b.t.Errorf("%s published ports lead to %v, want %d", when, to, leads)
	}
	if on := b.onNetwork(name); !slices.Equal(on, ids) {
		b.t.Errorf("%s leases of %s are %v, want %v", when, name, on, ids)
	}
}

func TestDropKilled(t *testing.T) {
	b := newBench(t)
	b.create("one", "10.91.1.0/24")
	b.create("two", "10.91.2.0/24")
	first, second := containerID(0), containerID(1)
	b.kill(b.attach(first, true, "one", "two"))
	b.want("while it runs", 1, "one", first)
	b.gone[first] = true
	for range 2 {
		if err := b.Drop(first); err != nil {
			t.Fatal(err)
		}
		b.want("after Drop", 0, "one")
		b.want("after Drop", 0, "two")
	}
	delete(b.gone, first)

	// It is started again, on less.
	b.kill(b.attach(first, true, "one", "two"))
	a := b.attach(first, false, "two")
	b.want("started again", 0, "one")
	b.want("started again", 0, "two", first)

	// One of others that is gone goes with the next lease on its network.
	b.kill(b.attach(second, true, "one"))
	b.gone[second] = true
	if err := a.Connect(Connection{Network: "one"}, nil, nil); err != nil {
		t.Fatal(err)
	}
	b.want("after another's lease", 0, "one", first)
}

// TestCloseWithoutLease closes an attachment whose lease somebody else has
// dropped.
func TestCloseWithoutLease(t *testing.T) {
	b := newBench(t)
	b.create("one", "10.91.1.0/24")
	id := containerID(0)
	a := b.attach(id, true, "one")
	if err := save(b.file("one", ".leases"), leases{}); err != nil {
		t.Fatal(err)
	}
	b.want("before", 1, "one")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	b.want("after Close", 0, "one")
}

// runIn runs a process in a container's namespace until the test ends.
func (b *bench) runIn(a *Attachment) (pid int) {
	b.t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := inNamespace(a.ns, cmd.Start); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd.Process.Pid
}

// adopted is what a process goes on with that takes over from one that was killed,
// which had written the attachment down.
func (b *bench) adopted(written *Attachment, pid int) *Attachment {
	b.t.Helper()
	a := &Attachment{Container: written.Container, Connected: slices.Clone(written.Connected), Ports: slices.Clone(written.Ports), DNS: slices.Clone(written.DNS)}
	if err := b.Adopt(a, pid, func() bool { return true }); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { a.Close() })
	return a
}

// TestConnectFails has an interface not be made once the lease is.
func TestConnectFails(t *testing.T) {
	b := newBench(t)
	b.create("one", "10.91.1.0/24")
	b.create("two", "10.91.2.0/24")
	id := containerID(0)
	a := b.attach(id, false, "one")
	before := len(b.links("veth"))
	if err := a.Connect(Connection{Network: "two", MAC: "01:00:00:00:00:01"}, nil, nil); err == nil { // of a group
		t.Fatal("it got the address")
	}
	if on := b.onNetwork("two"); len(on) > 0 || a.On("two") || len(b.links("veth")) != before {
		t.Errorf("after a failure the leases are %v, and it has %+v", on, a.Connected)
	}
	if err := a.Connect(Connection{Network: "two"}, nil, nil); err != nil {
		t.Errorf("once more: %v", err)
	}
}

// TestInterfaceTaken has a container already have an interface of the name that it
// would get.
func TestInterfaceTaken(t *testing.T) {
	b := newBench(t)
	b.create("one", "10.91.1.0/24")
	b.create("two", "10.91.2.0/24")
	b.create("three", "10.91.3.0/24")
	a := b.attach(containerID(0), false, "one")
	err := inNamespace(a.ns, func() error {
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth1"}})
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"two", "three"} {
		if err := a.Connect(Connection{Network: name}, nil, nil); err != nil {
			t.Fatal(err)
		}
		if got := a.Connected[1+i].Interface; got != fmt.Sprintf("eth%d", 2+i) || !has(a.ns, got) {
			t.Errorf("on network %s by %s", name, got)
		}
	}
	if err := a.Disconnect("two"); err != nil || !has(a.ns, "eth1") || has(a.ns, "eth2") {
		t.Errorf("after it has left (%v) there is eth1: %v, eth2: %v", err, has(a.ns, "eth1"), has(a.ns, "eth2"))
	}
}

// TestConnectKilled kills a process after each step of Connect.
func TestConnectKilled(t *testing.T) {
	for _, steps := range []string{"lease", "lease and interface"} {
		t.Run(steps, func(t *testing.T) {
			b := newBench(t)
			testutil.Require(t, "sleep")
			b.create("one", "10.91.1.0/24")
			net := b.create("two", "10.91.2.0/24")
			id := containerID(0)
			a := b.attach(id, false, "one")
			pid := b.runIn(a)
			got, err := b.lease(&net, a, Connection{Network: "two"}, nil, false)
			if err != nil {
				t.Fatal(err)
			}
			written := &Attachment{Container: id, Connected: slices.Clone(a.Connected), DNS: a.DNS}
			if steps != "lease" {
				if err := a.join(net, got); err != nil {
					t.Fatal(err)
				}
			}
			b.kill(a)
			next := b.adopted(written, pid)
			if on := b.onNetwork("two"); len(on) > 0 || has(next.ns, "eth1") || !has(next.ns, "eth0") {
				t.Errorf("taken over, the leases are %v, and there is eth0: %v, eth1: %v", on, has(next.ns, "eth0"), has(next.ns, "eth1"))
			}
			if err := next.Connect(Connection{Network: "two"}, nil, nil); err != nil {
				t.Errorf("once more: %v", err)
			}
		})
	}
}

// TestDisconnectKilled kills a process after each step of Disconnect.
func TestDisconnectKilled(t *testing.T) {
	for _, steps := range []string{"interface", "interface and lease"} {
		t.Run(steps, func(t *testing.T) {
			b := newBench(t)
			testutil.Require(t, "sleep")
			b.create("one", "10.91.1.0/24")
			b.create("two", "10.91.2.0/24")
			id := containerID(0)
			a := b.attach(id, false, "one", "two")
			pid := b.runIn(a)
			written := &Attachment{Container: id, Connected: slices.Clone(a.Connected), DNS: a.DNS}
			if err := disconnect(a.ns, "eth1"); err != nil {
				t.Fatal(err)
			}
			if steps != "interface" {
				if err := b.release(id, false, "two"); err != nil {
					t.Fatal(err)
				}
			}
			b.kill(a)
			next := b.adopted(written, pid)
			if next.On("two") != (steps == "interface") {
				t.Errorf("taken over, it is on two: %v", next.On("two"))
			}
			if steps == "interface" {
				// Where it isn't plugged in again, as in a Base.
				if err := disconnect(next.ns, "eth1"); err != nil {
					t.Fatal(err)
				}
				if err := next.Disconnect("two"); err != nil {
					t.Errorf("once more: %v", err)
				}
			}
			if on := b.onNetwork("two"); len(on) > 0 || next.On("two") || has(next.ns, "eth1") || !has(next.ns, "eth0") {
				t.Errorf("the leases are %v, and it has %+v", on, next.Connected)
			}
			if err := next.Disconnect("two"); err == nil {
				t.Error("it left a network that it was not on")
			}
		})
	}
}

// TestLeaveRouteKilled kills a process after it has left the network that the default
// route led over, and published ports to.
func TestLeaveRouteKilled(t *testing.T) {
	for _, steps := range []string{"lease", "route", "lease with ports", "rules"} {
		t.Run(steps, func(t *testing.T) {
			b := newBench(t)
			testutil.Require(t, "sleep")
			b.create("one", "10.91.1.0/24")
			net := b.create("two", "10.91.2.0/24")
			a := b.attach(containerID(0), true, "one", "two")
			pid := b.runIn(a)
			written := &Attachment{Container: a.Container, Connected: slices.Clone(a.Connected), Ports: a.Ports, DNS: a.DNS}
			to := a.Connected[1].Addrs
			if err := errors.Join(disconnect(a.ns, "eth0"), b.release(a.Container, false, "one")); err != nil {
				t.Fatal(err)
			}
			if steps != "lease" {
				if err := reroute(a.ns, "eth1", []netip.Addr{net.Subnets[0].Gateway}, false); err != nil {
					t.Fatal(err)
				}
			}
			switch steps {
			case "lease with ports":
				l := b.leaseOf("two", a.Container)
				l.Ports = a.Ports
				if err := save(b.file("two", ".leases"), leases{a.Container: l}); err != nil {
					t.Fatal(err)
				}
			case "rules":
				if err := b.lead(a.Container, "two", a.Ports); err != nil {
					t.Fatal(err)
				}
			}
			b.kill(a)
			next := b.adopted(written, pid)
			if !slices.Equal(next.Ports, written.Ports) || !slices.Equal(b.leads(), to) || next.proxies[0].to.Load().Addr() != to[0] {
				t.Errorf("taken over, %v lead to %v, by loopback to %v; want %v to %v", next.Ports, b.leads(), next.proxies[0].to.Load(), written.Ports, to)
			}
			if l := b.leaseOf("two", a.Container); !slices.Equal(l.Ports, written.Ports) {
				t.Errorf("taken over, the lease is %+v", l)
			}
			if got := next.Gateway(); got != net.Subnets[0].Gateway || !slices.Equal(next.defaultRoutes(t), []netip.Addr{got}) {
				t.Errorf("taken over, it goes out by %v, which is told to be %v", next.defaultRoutes(t), got)
			}
		})
	}
}

func (b *bench) leaseOf(network, id string) lease {
	b.t.Helper()
	have, err := b.leases(network)
	if err != nil {
		b.t.Fatal(err)
	}
	return have[id]
}

// TestLeaveAllKilled kills a process after it has left the last network that leads out.
func TestLeaveAllKilled(t *testing.T) {
	b := newBench(t)
	testutil.Require(t, "sleep")
	b.create("one", "10.91.1.0/24")
	a := b.attach(containerID(0), true, "one")
	pid := b.runIn(a)
	written := &Attachment{Container: a.Container, Connected: slices.Clone(a.Connected), Ports: a.Ports, DNS: a.DNS}
	if err := errors.Join(disconnect(a.ns, "eth0"), b.release(a.Container, false, "one")); err != nil {
		t.Fatal(err)
	}
	b.kill(a)
	next := b.adopted(written, pid)
	if len(next.Ports)+len(next.proxies)+len(b.leads()) > 0 {
		t.Errorf("taken over, it publishes %v, listens on %d and has rules to %v", next.Ports, len(next.proxies), b.leads())
	}
	if err := next.Connect(Connection{Network: "one"}, nil, written.Ports); err != nil {
		t.Fatal(err)
	}
	if to := next.Connected[0].Addrs; !slices.Equal(next.Ports, written.Ports) || !slices.Equal(b.leads(), to) || next.proxies[0].to.Load().Addr() != to[0] {
		t.Errorf("on a network again %v lead to %v, want %v to %v", next.Ports, b.leads(), written.Ports, to)
	}
}

// TestNobodyStandsIn has a container remove the interface of the network that would
// stand in for the one that is left.
func TestNobodyStandsIn(t *testing.T) {
	b := newBench(t)
	b.create("one", "10.91.1.0/24")
	b.create("two", "10.91.2.0/24")
	b.create("three", "10.91.3.0/24")
	a := b.attach(containerID(0), true, "one", "two")
	ports := slices.Clone(a.Ports)
	if err := disconnect(a.ns, "eth1"); err != nil {
		t.Fatal(err)
	}
	if err := a.Disconnect("one"); err == nil || a.On("one") || len(b.leads()) > 0 {
		t.Errorf("after it has left (%v) it is on %+v, and ports lead to %v", err, a.Connected, b.leads())
	}
	if err := a.Connect(Connection{Network: "three"}, nil, ports); err != nil {
		t.Fatal(err)
	}
	if to := a.Connected[1].Addrs; !slices.Equal(a.Ports, ports) || !slices.Equal(b.leads(), to) {
		t.Errorf("on another network %v lead to %v, want %v to %v", a.Ports, b.leads(), ports, to)
	}
}

// defaultRoutes are the gateways of a container's default routes.
func (a *Attachment) defaultRoutes(t *testing.T) (gateways []netip.Addr) {
	t.Helper()
	err := inNamespace(a.ns, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		list, err := h.RouteList(nil, netlink.FAMILY_V4)
		for _, r := range list {
			if g, ok := netip.AddrFromSlice(r.Gw); ok {
				gateways = append(gateways, g.Unmap())
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return gateways
}

// TestHalfWritten leaves what a process leaves that is killed while it writes, and
// what a power cut leaves.
func TestHalfWritten(t *testing.T) {
	b := newBench(t)
	b.create("one", "10.91.1.0/24")
	left := b.file(".tmp-one.leases-12345", "")
	if err := os.WriteFile(left, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.attach(containerID(0), false, "one")
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there (%v)", err)
	}
	b.want("after a start", 0, "one", containerID(0))
	if err := os.WriteFile(b.file("one", ".leases"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.attach(containerID(1), true, "one")
	b.want("after a power cut", 1, "one", containerID(1))
}

// TestBridgeKilled kills a process after each step of making a network's bridge
// and rules.
func TestBridgeKilled(t *testing.T) {
	b := newBench(t)
	b.attach(containerID(0), false, b.create("one", "10.91.1.0/24").Name)
	for i, steps := range []func(net *Network) error{
		func(net *Network) error {
			_, err := makeBridge(net)
			return err
		},
		func(net *Network) error {
			link, err := makeBridge(net)
			if err != nil {
				return err
			}
			return netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(net.Subnets[0].Gateway, 24)})
		},
		ensureBridge,
		func(net *Network) error {
			link, err := makeBridge(net)
			if err == nil {
				err = netlink.LinkSetName(link, net.ownBridge())
			}
			return err
		},
	} {
		net, err := b.Create(Network{
			Name: fmt.Sprintf("killed-%d", i), Bridge: fmt.Sprintf("bridge-%d", i),
			Subnets: []Subnet{{Prefix: netip.MustParsePrefix(fmt.Sprintf("10.91.%d.0/24", 10+i))}},
		}, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.threads.Do(func() error { return steps(&net) }); err != nil {
			t.Fatal(err)
		}
		if b.masquerades(net) {
			t.Errorf("after %d steps its rules are there", i+1)
		}
		a := b.attach(containerID(1+i), false, net.Name)
		err = b.threads.Do(func() error {
			link, err := netlink.LinkByName(net.Bridge)
			if err != nil {
				return err
			}
			addrs, err := netlink.AddrList(link, unix.AF_INET)
			if len(addrs) != 1 || link.Attrs().Flags&stdnet.FlagUp == 0 {
				t.Errorf("after %d steps and a start its bridge is %+v and has %v", i+1, link.Attrs(), addrs)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		var marked bool
		if err := b.threads.Do(func() error { marked = b.hasRules(&net); return nil }); err != nil {
			t.Fatal(err)
		}
		if !marked || !b.masquerades(net) {
			t.Errorf("after %d steps and a start its rules are there: %v, and marked: %v", i+1, b.masquerades(net), marked)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if err := b.Remove(net.Name); err != nil {
			t.Fatal(err)
		}
		if left := b.links("bridge"); len(left) != 1 {
			t.Errorf("after %d steps, a start and its removal there are %v", i+1, left)
		}
	}
}

// TestForeignBridge removes a network whose bridge was there before.
func TestForeignBridge(t *testing.T) {
	b := newBench(t)
	err := b.threads.Do(func() error {
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "office"}})
	})
	if err != nil {
		t.Fatal(err)
	}
	net, err := b.Create(Network{Name: "one", Bridge: "office"}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.attach(containerID(0), false, net.Name).Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove(net.Name); err != nil {
		t.Fatal(err)
	}
	if left := b.links("bridge"); !slices.Equal(left, []string{"office"}) {
		t.Errorf("the machine's bridges are %v", left)
	}
}

// masquerades says whether there are rules about packets that leave a network.
func (b *bench) masquerades(net Network) (is bool) {
	b.t.Helper()
	for _, e := range b.rules("postrouting") {
		cmp, ok := e.(*expr.Cmp)
		is = is || ok && strings.TrimRight(string(cmp.Data), "\x00") == net.Bridge
	}
	return is
}

// TestRemoveKilled removes a network where another program drops what it doesn't
// know, after a process was killed that was about to.
func TestRemoveKilled(t *testing.T) {
	b := newBench(t)
	b.create("one", "10.91.1.0/24")
	net := b.create("two", "10.91.2.0/24")
	other := &nftables.Table{Name: "other", Family: nftables.TableFamilyINet}
	drop := nftables.ChainPolicyDrop
	chain := &nftables.Chain{Name: "forward", Table: other, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop}
	err := b.threads.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.AddTable(other)
		c.AddChain(chain)
		return c.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
	// passed are the rules of the other program that let the network's packets pass.
	passed := func() (n int) {
		t.Helper()
		err := b.threads.Do(func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			list, err := c.GetRules(other, chain)
			for _, r := range list {
				if string(r.UserData) == passMark(net.Bridge) {
					n++
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	check := func(when string, there bool) {
		t.Helper()
		if is := b.masquerades(net); is != there {
			t.Errorf("%s its rules are there: %v", when, is)
		}
		want := 0
		if there {
			want = 2
		}
		if n := passed(); n != want {
			t.Errorf("%s the other program has %d rules for it", when, n)
		}
	}
	a := b.attach(containerID(0), false, "one", "two")
	check("in use", true)
	if err := a.Disconnect("two"); err != nil {
		t.Fatal(err)
	}
	if err := b.threads.Do(func() error { return b.writeRules(net.ID) }); err != nil {
		t.Fatal(err)
	}
	check("when it was about to be removed", false)
	if err := a.Connect(Connection{Network: "two"}, nil, nil); err != nil {
		t.Fatal(err)
	}
	check("in use again", true)
	if err := a.Disconnect("two"); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove("two"); err != nil {
		t.Fatal(err)
	}
	check("removed", false)
}

// TestPortTakenMeanwhile has somebody take one of the ports of a killed process.
func TestPortTakenMeanwhile(t *testing.T) {
	b := newBench(t)
	testutil.Require(t, "sleep")
	b.create("one", "10.91.1.0/24")
	port := Port{Protocol: "tcp", HostIP: netip.MustParseAddr("127.0.0.1"), Container: 80}
	a, err := b.Attach(Endpoint{Container: containerID(0), Connections: []Connection{{Network: "one"}}, Ports: []Port{port, port}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	pid := b.runIn(a)
	next := &Attachment{Container: a.Container, Connected: slices.Clone(a.Connected), Ports: slices.Clone(a.Ports)}
	ports := slices.Clone(a.Ports)
	b.kill(a)
	l, err := stdnet.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].HostPort))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = b.Adopt(next, pid, func() bool { return true })
	t.Cleanup(func() { next.Close() })
	if err == nil || !slices.Equal(next.Ports, ports) || len(next.proxies) != 1 || next.proxies[0].port != ports[1] {
		t.Errorf("taken over (%v), it publishes %v, and %d of that are listened on", err, next.Ports, len(next.proxies))
	}
}
