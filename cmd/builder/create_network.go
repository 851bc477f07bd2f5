// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"builder/network"
	"builder/supervisor"

	"github.com/spf13/pflag"
)

// networkFlags are the flags about a container's network.
type networkFlags struct {
	networks, aliases, publish, expose, links []string

	publishAll bool

	ip, ip6, mac string
}

func (f *networkFlags) addFlags(fs *pflag.FlagSet) {
	wordsVar(fs, &f.networks, "network", "network: `bridge|host|none|container:NAME` or a name, with options NAME:ip=…,alias=…,mac=…")
	wordsVar(fs, &f.aliases, "network-alias", "further `NAME` on the network")
	wordsVar(fs, &f.links, "link", "know a container of the network by another name too: `NAME[:ALIAS]`")
	fs.StringVar(&f.ip, "ip", "", "IPv4 `ADDRESS` on the network")
	fs.StringVar(&f.ip6, "ip6", "", "IPv6 `ADDRESS` on the network")
	fs.StringVar(&f.mac, "mac-address", "", "hardware `ADDRESS`")
	wordsVarP(fs, &f.publish, "publish", "p", "publish a port, `[[IP:]PORT:]PORT[/udp]`")
	fs.BoolVarP(&f.publishAll, "publish-all", "P", false, "publish all exposed ports to free ones of this machine")
	wordsVar(fs, &f.expose, "expose", "expose a `PORT[/udp]`, or several FIRST-LAST")
}

// connect fills in what the flags say about a container's network.
func (f *networkFlags) connect(e *env, records supervisor.Records, c *supervisor.Config) error {
	bad := func(format string, args ...any) error {
		return &usageError{msg: "--" + fmt.Sprintf(format, args...)}
	}
	ports, err := f.ports(c)
	if err != nil {
		return err
	}
	names := f.networks
	if len(names) == 0 {
		s, err := e.store()
		if err != nil {
			return err
		}
		names = []string{e.defaultNetwork(s, "none")}
	}
	if alone := slices.IndexFunc(names, func(n string) bool {
		return n == "host" || n == "none" || strings.HasPrefix(n, "container:")
	}); alone >= 0 {
		mode := names[alone]
		switch {
		case len(names) > 1:
			return bad("network %s is not together with others", mode)
		case f.ip != "" || f.ip6 != "" || f.mac != "" || len(f.aliases) > 0 || len(f.links) > 0:
			return bad("network %s has no addresses or names of its own: leave out --ip, --ip6, --mac-address, --network-alias and --link", mode)
		case strings.HasPrefix(mode, "container:") && (len(f.publish) > 0 || f.publishAll || len(f.expose) > 0):
			return bad("network %s: ports are published by the container whose network it is", mode)
		case strings.HasPrefix(mode, "container:") && (c.Spec.Hostname != "" || len(c.Spec.Hosts) > 0 || c.Spec.DNS.Given()):
			return bad("network %s has the names of that container: leave out --hostname, --add-host, --dns, --dns-search and --dns-option", mode)
		}
		if len(ports) > 0 {
			e.warn(fmt.Sprintf("--publish has no effect with --network %s", mode))
		}
		c.NetworkMode = mode
		if name, ok := strings.CutPrefix(mode, "container:"); ok {
			other, err := records.Find(name)
			if err != nil {
				return err
			}
			c.NetworkMode = "container:" + other.ID
		}
		return nil
	}
	ep := &network.Endpoint{Ports: ports}
	for i, text := range names {
		conn, err := parseConnection(text)
		if err != nil {
			return bad("network %s: %v", text, err)
		}
		if i == 0 {
			if err := f.address(&conn); err != nil {
				return err
			}
		}
		net, err := records.Networks().Find(conn.Network)
		if err != nil {
			return fmt.Errorf("--network: %w", err)
		}
		conn.Network = net.Name
		if i == 0 {
			if err := f.link(records, &conn); err != nil {
				return err
			}
		}
		ep.Connections = append(ep.Connections, conn)
	}
	c.Endpoint = ep
	return nil
}

// address is what --ip and the like say of the first network.
func (f *networkFlags) address(conn *network.Connection) error {
	for _, a := range []struct {
		flag, text string
		to         *netip.Addr
		four       bool
	}{{"ip", f.ip, &conn.IP, true}, {"ip6", f.ip6, &conn.IP6, false}} {
		if a.text == "" {
			continue
		}
		ip, err := netip.ParseAddr(a.text)
		if err != nil || ip.Is4() != a.four {
			return &usageError{msg: fmt.Sprintf("--%s %q is no such address", a.flag, a.text)}
		}
		*a.to = ip
	}
	if f.mac != "" {
		if hw, err := net.ParseMAC(f.mac); err != nil || len(hw) != 6 {
			return &usageError{msg: fmt.Sprintf("--mac-address %q is no address of six bytes", f.mac)}
		}
		conn.MAC = f.mac
	}
	conn.Aliases = append(conn.Aliases, f.aliases...)
	return nil
}

// link is what --link says of a network. On one that resolves names the other may come
// later: until it is there, nobody has the name.
func (f *networkFlags) link(records supervisor.Records, conn *network.Connection) error {
	later := (&network.Network{Name: conn.Network}).Names()
	for _, w := range f.links {
		name, alias, given := strings.Cut(w, ":")
		name = strings.TrimPrefix(name, "/")
		if !given {
			alias = name
		}
		if name == "" || alias == "" || strings.ContainsAny(alias, " \t\n#/:") {
			return &usageError{msg: fmt.Sprintf("--link %s: want NAME or NAME:ALIAS", w)}
		}
		other, err := records.Find(name)
		for err == nil && strings.HasPrefix(other.NetworkMode, "container:") { // whose network it has
			other, err = records.Find(strings.TrimPrefix(other.NetworkMode, "container:"))
		}
		to := other.ID
		if later { // whoever has the name then
			to = first(other.Name, name)
		}
		if errors.Is(err, supervisor.ErrNotFound) && later {
			err = nil
		}
		switch {
		case err != nil:
			return fmt.Errorf("--link %s: %w", w, err)
		case !later && !other.OnNetwork(conn.Network):
			return &usageError{msg: fmt.Sprintf("--link %s: container %s is not on network %s", w, other.Name, conn.Network)}
		}
		if conn.Links == nil {
			conn.Links = map[string]string{}
		}
		conn.Links[alias] = to
	}
	return nil
}

// parseConnection reads NAME, NAME:OPTION,… as podman has it, or
// name=NAME,OPTION,… as docker does.
func parseConnection(text string) (network.Connection, error) {
	var c network.Connection
	name, options, _ := strings.Cut(text, ":")
	if strings.Contains(name, "=") {
		name, options = "", text
	}
	c.Network = name
	for _, o := range strings.Split(options, ",") {
		if o == "" {
			continue
		}
		key, value, _ := strings.Cut(o, "=")
		var err error
		switch key {
		case "name":
			c.Network = value
		case "alias":
			c.Aliases = append(c.Aliases, value)
		case "ip":
			c.IP, err = netip.ParseAddr(value)
		case "ip6":
			c.IP6, err = netip.ParseAddr(value)
		case "mac", "mac-address":
			c.MAC = value
		case "gw-priority":
			if c.GatewayPriority, err = strconv.Atoi(value); err != nil {
				err = fmt.Errorf("gw-priority=%s: want a number", value)
			}
		default:
			return c, fmt.Errorf("unknown option %q: there are name, alias, ip, ip6, mac-address and gw-priority", key)
		}
		if err != nil {
			return c, err
		}
	}
	if c.Network == "" {
		return c, errors.New("no name")
	}
	return c, nil
}

// ports are those to be published. Exposed ones are added to the record.
func (f *networkFlags) ports(c *supervisor.Config) ([]network.Port, error) {
	var out []network.Port
	for _, text := range f.publish {
		ports, err := network.ParsePorts(text)
		if err != nil {
			return nil, &usageError{msg: "--publish " + err.Error()}
		}
		out = append(out, ports...)
	}
	texts, exposed := append(c.Exposed, f.expose...), map[string]bool{}
	c.Exposed = nil
	for _, text := range texts {
		ports, err := network.ParsePorts(text)
		if err != nil || strings.Contains(text, ":") {
			return nil, &usageError{msg: fmt.Sprintf("--expose %q: want PORT[/tcp|udp]", text)}
		}
		for _, p := range ports {
			word := fmt.Sprintf("%d/%s", p.Container, p.Protocol)
			if exposed[word] {
				continue
			}
			exposed[word] = true
			c.Exposed = append(c.Exposed, word)
			taken := slices.ContainsFunc(out, func(have network.Port) bool { return have.Container == p.Container && have.Protocol == p.Protocol })
			if f.publishAll && !taken {
				out = append(out, p)
			}
		}
	}
	return out, nil
}
