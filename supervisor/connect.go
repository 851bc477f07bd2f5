// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"builder/container"
	"builder/network"
)

// connect gives a container that is about to start its network. The Attachment
// is nil if it has none of its own; else it has taken ns, if that is not nil.
func (h *holder) connect(spec *container.Spec, ns *os.File) (*network.Attachment, error) {
	mode := h.config.NetworkMode
	if other, ok := strings.CutPrefix(mode, "container:"); ok {
		return nil, h.join(spec, other)
	}
	if h.config.Endpoint == nil {
		if spec.Network = container.Network(mode); spec.Network == container.NetworkNone {
			spec.NetNS = ns
		}
		return nil, nil
	}
	e := *h.config.Endpoint
	name := h.records.nameOf(h.config)
	e.Container, e.Names, e.Upstream = h.config.ID, h.config.names(name), upstream(spec.DNS.Servers)
	att, err := h.records.networks.Attach(e, ns)
	if err == nil {
		err = h.renamed(name)
	}
	if err != nil {
		return nil, errors.Join(err, att.Close())
	}
	links, err := h.records.linkedHosts(e)
	if err == nil {
		spec.Hosts = append(slices.Clone(spec.Hosts), links...)
		err = private(spec, att)
	}
	if err != nil {
		return nil, errors.Join(err, att.Close())
	}
	return att, nil
}

// linkedHosts are the lines of /etc/hosts for links to containers on a network that resolves
// no names. They run, and what they are called and have there now is what counts.
func (r Records) linkedHosts(e network.Endpoint) (lines []container.Host, err error) {
	for _, conn := range e.Connections {
		if conn.Network != network.Default {
			continue
		}
		for _, alias := range slices.Sorted(maps.Keys(conn.Links)) {
			id := conn.Links[alias]
			c, err := r.Find(id)
			if err == nil && (!c.State.Alive() || c.State.Network == nil || !c.State.Network.On(conn.Network)) {
				err = &NotRunningError{c.Name}
			}
			if err != nil {
				return nil, fmt.Errorf("--link %s: %w", alias, err)
			}
			host := container.Host{Name: alias, Aliases: []string{or(c.Spec.Hostname, c.ID[:12])}}
			if c.Name != alias {
				host.Aliases = append(host.Aliases, c.Name)
			}
			for _, on := range c.State.Network.Connected {
				if on.Network != conn.Network {
					continue
				}
				for _, a := range on.Addrs {
					host.IP = a
					lines = append(lines, host)
				}
			}
		}
	}
	return lines, nil
}

// ownNetwork are docker's settings of a network that a container has for itself: ports
// below 1024 are anybody's, as the machine's are out of reach, and so are echo requests.
func ownNetwork() map[string]string {
	return map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
}

// private puts a container into the namespace of an attachment.
func private(spec *container.Spec, att *network.Attachment) (err error) {
	spec.Network, spec.NetNS = container.NetworkPrivate, att.Namespace()
	spec.Hosts = slices.Clone(spec.Hosts)
	for _, c := range att.Connected {
		for _, a := range c.Addrs {
			spec.Hosts = append(spec.Hosts, ownHost(spec, a))
		}
	}
	if len(spec.DNS.Servers) == 0 || att.Names() && len(att.Upstream) > 0 { // what answers names asks them
		spec.DNS.Servers = att.DNS
	}
	spec.Gateway = att.Gateway()
	spec.ResolvConf, err = container.ResolvConf(spec)
	return err
}

// names are those that a container of a name has on every network that resolves them.
// Its host name is there even if it is the same: that stays when it is renamed.
func (c *Config) names(name string) []string {
	names := append([]string{name}, c.Endpoint.Names...)
	if c.Spec.Hostname != "" {
		names = append(names, c.Spec.Hostname)
	}
	return names
}

// upstream are name servers of a container that another process can ask for it: none if
// one of them is the container itself, or of a link.
func upstream(servers []netip.Addr) []netip.Addr {
	if slices.ContainsFunc(servers, func(a netip.Addr) bool { return a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() }) {
		return nil
	}
	return servers
}

// renamed has a container be known by its name on networks that it has come to by
// another one, as it was renamed meanwhile.
func (h *holder) renamed(from string) error {
	if now := h.records.nameOf(h.config); now != from {
		return h.records.networks.Rename(h.config.ID, from, now)
	}
	return nil
}

// ownHost has a container on networks know its own name.
func ownHost(spec *container.Spec, addr netip.Addr) container.Host {
	return container.OwnHost(or(spec.Hostname, spec.ID[:12]), spec.Domainname, addr)
}

// resolvSum tells what builder has written to a resolv.conf from what others have.
func resolvSum(text []byte) string {
	sum := sha256.Sum256(bytes.TrimRight(text, "\n"))
	return hex.EncodeToString(sum[:8])
}

// tellNetworks brings two files of a container that runs in line with the networks that
// it is on: its own addresses in /etc/hosts, and /etc/resolv.conf if that is as builder
// has written it. The state, which is to be saved then, tells that. h.mu is held.
func (h *holder) tellNetworks() {
	spec := h.config.Spec
	spec.ID = h.config.ID
	err := private(&spec, h.state.Network)
	if err == nil {
		t := container.Target{Pid: h.state.Pid, Start: h.state.PidStart, Spec: spec}
		self := ownHost(&spec, netip.Addr{})
		var own []netip.Addr
		for _, host := range spec.Hosts {
			if host.Gateway {
				host.IP = spec.Gateway
			}
			if host.Name == self.Name && host.IP.IsValid() {
				own = append(own, host.IP)
			}
		}
		want, ours := resolvSum(spec.ResolvConf), false
		errHosts := container.EditEtc(t, "hosts", func(text []byte) []byte { return container.WithAddresses(text, self, own) })
		err = container.EditEtc(t, "resolv.conf", func(text []byte) []byte {
			has := resolvSum(text)
			if ours = has == h.state.Resolv || has == want; !ours {
				return nil
			}
			return spec.ResolvConf
		})
		if err == nil && ours {
			h.state.Resolv = want
		}
		err = errors.Join(errHosts, err)
	}
	if err != nil && !errors.Is(err, container.ErrGone) {
		h.warn(fmt.Sprintf("tell container %s of its networks: %v", h.config.Name, err))
	}
}

// join has a container use the network of another one, which runs.
func (h *holder) join(spec *container.Spec, id string) error {
	c, err := h.records.Find(id)
	if err != nil {
		return fmt.Errorf("--network container:%s: %w", id, err)
	}
	if !c.State.Alive() {
		return fmt.Errorf("--network container:%s: %w", id, &NotRunningError{c.Name})
	}
	if c.State.Network == nil && c.NetworkMode == string(container.NetworkHost) {
		spec.Network = container.NetworkHost
		return nil
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(c.State.Pid) + "/ns/net")
	if err != nil {
		return err
	}
	if container.StartTime(c.State.Pid) != c.State.PidStart {
		ns.Close()
		return fmt.Errorf("--network container:%s: %w", id, &NotRunningError{c.Name})
	}
	spec.Network, spec.NetNS = container.NetworkPrivate, ns
	spec.Hostname = or(spec.Hostname, or(c.Spec.Hostname, c.ID[:12]))
	if att := c.State.Network; att != nil {
		var addrs []netip.Addr
		for _, on := range att.Connected {
			addrs = append(addrs, on.Addrs...)
		}
		for _, a := range addrs {
			spec.Hosts = append(spec.Hosts, ownHost(spec, a))
		}
		if len(spec.DNS.Servers) == 0 {
			spec.DNS.Servers = att.DNS
		}
		spec.Gateway = att.Gateway()
	}
	h.joined = ns
	return nil
}

// OnNetwork says whether a container is to be on a network.
func (c *Config) OnNetwork(name string) bool {
	return c.Endpoint != nil && slices.ContainsFunc(c.Endpoint.Connections, func(have network.Connection) bool { return have.Network == name })
}

// enter has a container be on a network from its next start on.
func (c *Config) enter(conn network.Connection) {
	c.leave(conn.Network)
	c.Endpoint.Connections = append(c.Endpoint.Connections, conn)
}

// leave has it not be on it.
func (c *Config) leave(name string) {
	c.Endpoint.Connections = slices.DeleteFunc(c.Endpoint.Connections, func(have network.Connection) bool { return have.Network == name })
}

func (c *Config) errOn(name string) error {
	return fmt.Errorf("container %s is on network %s already", c.Name, name)
}

func (c *Config) errNotOn(name string) error {
	return fmt.Errorf("container %s is not on network %s", c.Name, name)
}

// attached is what a container that runs has of networks, nil for one that waits
// to be started again. The error is a [NotRunningError] for one that has ended, or
// is just being started. h.mu is held.
func (h *holder) attached() (*network.Attachment, error) {
	if h.process == nil {
		if !h.resting {
			return nil, &NotRunningError{h.config.Name}
		}
		return nil, h.config.checkConnects()
	}
	if h.state.Network == nil {
		return nil, fmt.Errorf("container %s has no network of its own", h.config.Name)
	}
	return h.state.Network, h.config.checkConnects()
}

// checkConnects says why a container can't be put on networks.
func (c *Config) checkConnects() error {
	if c.Endpoint == nil {
		return fmt.Errorf("container %s has no network of its own: it was made with --network %s", c.Name, c.NetworkMode)
	}
	return nil
}

// connectTo joins the container to one more network. If a holder was killed
// between the network and the record, one that has the one or the other gets both.
func (h *holder) connectTo(c network.Connection, repeated bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	att, err := h.attached()
	if err != nil {
		return err
	}
	wanted := h.config.OnNetwork(c.Network)
	if wanted && (att == nil || att.On(c.Network)) {
		if repeated {
			return nil
		}
		return h.config.errOn(c.Network)
	}
	enter := func(cfg *Config) { cfg.enter(c) }
	if att == nil {
		return h.change(enter)
	}
	if att.On(c.Network) { // perhaps with other addresses and names
		if err := att.Disconnect(c.Network); att.On(c.Network) {
			return err
		}
	}
	name := h.records.nameOf(h.config)
	err = att.Connect(c, h.config.names(name), h.config.Endpoint.Ports)
	h.save()
	if err == nil {
		err = h.renamed(name)
	}
	if err != nil {
		return err
	}
	if err := h.change(enter); err != nil {
		err = errors.Join(err, att.Disconnect(c.Network))
		h.save()
		return err
	}
	h.tellNetworks()
	h.save()
	h.records.noteConnection("connect", c.Network, h.config.ID)
	return nil
}

// noteConnection tells that a container that runs came to a network, or left it.
func (r Records) noteConnection(action, name, container string) {
	if net, err := r.networks.Find(name); err == nil {
		r.Note(networkEvent(name, net.ID, action, container))
	}
}

// disconnectFrom takes it from one, as far as it is on it.
func (h *holder) disconnectFrom(name string, repeated bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	att, err := h.attached()
	if err != nil {
		return err
	}
	wanted, on := h.config.OnNetwork(name), att != nil && att.On(name)
	if !wanted && !on {
		if repeated {
			return nil
		}
		return h.config.errNotOn(name)
	}
	if on {
		if err = att.Disconnect(name); att.On(name) {
			return err
		}
	}
	if att != nil {
		h.tellNetworks()
		h.save()
	}
	if on {
		h.records.noteConnection("disconnect", name, h.config.ID)
	}
	if wanted {
		err = errors.Join(err, h.change(func(cfg *Config) { cfg.leave(name) }))
	}
	return err
}

// Connect joins a container to one more network, now if it runs.
func (cl *Client) Connect(ctx context.Context, c Container, conn network.Connection) error {
	return cl.changeNetworks(ctx, c.Config, request{Op: "connect", Connection: &conn}, func(cfg *Config) error {
		if cfg.OnNetwork(conn.Network) {
			return cfg.errOn(conn.Network)
		}
		cfg.enter(conn)
		return nil
	})
}

// Disconnect takes it from one.
func (cl *Client) Disconnect(ctx context.Context, c Container, name string) error {
	return cl.changeNetworks(ctx, c.Config, request{Op: "disconnect", Connection: &network.Connection{Network: name}}, func(cfg *Config) error {
		if !cfg.OnNetwork(name) {
			return cfg.errNotOn(name)
		}
		cfg.leave(name)
		return nil
	})
}

// changeNetworks asks the holder of a container, or changes what it is to be if
// nobody holds it.
func (cl *Client) changeNetworks(ctx context.Context, c Config, req request, change func(*Config) error) error {
	if err := c.checkConnects(); err != nil {
		return err
	}
	for deadline := time.Now().Add(releaseWait); ; {
		_, err := cl.simple(ctx, c, req)
		if not := new(NotRunningError); !errors.As(err, &not) {
			return err
		}
		lock, err := cl.Records.Hold(c)
		switch {
		case errors.Is(err, ErrRunning) && time.Now().Before(deadline):
			time.Sleep(10 * time.Millisecond) // it is just being started, or let go of
			continue
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%w: %s", ErrNotFound, c.Name)
		case err != nil:
			return err
		}
		defer lock.Release()
		var failed error
		err = cl.Records.Change(c.ID, func(cfg *Config) { failed = change(cfg) })
		return errors.Join(failed, err)
	}
}
