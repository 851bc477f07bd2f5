// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"builder/network"
	"builder/supervisor"

	"github.com/opencontainers/go-digest"
)

// runNetwork calls the subcommands about networks.
func runNetwork(ctx context.Context, e *env, args []string) error {
	subs := map[string]func(context.Context, *env, []string) error{
		"ls": runNetworkLs, "list": runNetworkLs, "create": runNetworkCreate, "rm": runNetworkRm, "remove": runNetworkRm,
		"inspect": runNetworkInspect, "connect": runNetworkConnect, "disconnect": runNetworkDisconnect, "prune": runNetworkPrune,
	}
	if len(args) == 0 || subs[args[0]] == nil {
		fs := flags("network")
		if _, err := e.parse(fs, args, 1, -1); err != nil {
			return err
		}
		return &usageError{msg: fmt.Sprintf("network: unknown command %q", args[0]), hint: "there are ls, create, rm, inspect, connect, disconnect and prune"}
	}
	return subs[args[0]](ctx, e, args[1:])
}

func (e *env) networks() (*network.Networks, error) {
	s, err := e.store()
	if err != nil {
		return nil, err
	}
	return e.records(s).Networks(), nil
}

// networkRow is what a --format of network ls can show. The names are docker's.
type networkRow struct {
	CreatedAt string
	Driver    string
	ID        string
	IPv6      string
	Internal  string
	Labels    string
	Name      string
	Scope     string

	labels map[string]string
}

// Label is the value of one label, for templates.
func (r networkRow) Label(name string) string { return r.labels[name] }

var networkHeader = networkRow{
	CreatedAt: "CREATED AT", Driver: "DRIVER", ID: "NETWORK ID", IPv6: "IPV6", Internal: "INTERNAL", Labels: "LABELS", Name: "NAME", Scope: "SCOPE",
}

func runNetworkLs(_ context.Context, e *env, args []string) error {
	fs := flags("network")
	quiet := fs.BoolP("quiet", "q", false, "show only IDs")
	noTrunc := fs.Bool("no-trunc", false, "don't shorten")
	format := fs.String("format", "", "a Go template, `json`, or \"table TEMPLATE\"")
	filters := fs.StringArrayP("filter", "f", nil, "show only networks of a `NAME=VALUE`: dangling, driver, id, label, name, type")
	if _, err := e.parse(fs, args, 0, 0); err != nil {
		return err
	}
	n, err := e.networks()
	if err != nil {
		return err
	}
	match, err := parseNetworkFilters(n, *filters)
	if err != nil {
		return err
	}
	list, err := allNetworks(n)
	if err != nil {
		return err
	}
	var rows []any
	for _, net := range list {
		if !match(net) {
			continue
		}
		r := networkRow{
			CreatedAt: net.Created.Local().String(), Driver: net.Driver, ID: net.ID, IPv6: strconv.FormatBool(net.IPv6()),
			Internal: strconv.FormatBool(net.Internal), Labels: labelText(net.Labels), Name: net.Name, Scope: "local", labels: net.Labels,
		}
		if !*noTrunc {
			r.ID = truncate(r.ID, 12)
		}
		if *quiet {
			fmt.Fprintln(e.stdout, r.ID)
			continue
		}
		rows = append(rows, r)
	}
	if *quiet {
		return nil
	}
	return table{format: first(*format, e.dockerConfig().NetworksFormat), columns: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}", header: networkHeader}.print(e.stdout, rows)
}

// ways are the networks that docker shows beside those with a bridge, of which there is
// always one: the machine's and none. The names are those of --network.
func ways() []network.Network {
	return []network.Network{
		{Name: "host", Driver: "host", ID: digest.FromString("host").Encoded()},
		{Name: "none", Driver: "null", ID: digest.FromString("none").Encoded()},
	}
}

// isWay tells whether a network is the machine's or none.
func isWay(net network.Network) bool { return net.Driver == "host" || net.Driver == "null" }

// allNetworks are the networks with the default one, the machine's and none, by name.
func allNetworks(n *network.Networks) ([]network.Network, error) {
	if _, err := n.Find(network.Default); err != nil {
		return nil, err
	}
	list, err := n.List()
	list = append(list, ways()...)
	slices.SortFunc(list, func(a, b network.Network) int { return strings.Compare(a.Name, b.Name) })
	return list, err
}

// findNetwork finds a network as [network.Networks.Find] does, and the machine's and none.
func findNetwork(n *network.Networks, word string) (network.Network, error) {
	for _, way := range ways() {
		if word == way.Name || len(word) >= 12 && strings.HasPrefix(way.ID, word) {
			return way, nil
		}
	}
	return n.Find(word)
}

// ownNetwork finds a network that isn't the machine's or none.
func ownNetwork(n *network.Networks, word string) (network.Network, error) {
	net, err := findNetwork(n, word)
	if err == nil && isWay(net) {
		err = fmt.Errorf("network %s is no network of containers' own: it is chosen by run --network %[1]s, and stays", net.Name)
	}
	return net, err
}

// builtIn tells whether a network is there without having been made.
func builtIn(net network.Network) bool { return net.Name == network.Default || isWay(net) }

func parseNetworkFilters(n *network.Networks, words []string) (func(network.Network) bool, error) {
	groups := map[string][]func(network.Network) bool{}
	for i, w := range words {
		name, value, ok := strings.Cut(w, "=")
		var f func(network.Network) bool
		switch {
		case !ok:
			return nil, &usageError{msg: fmt.Sprintf("--filter %q: want NAME=VALUE", w)}
		case name == "name":
			re, err := regexp.Compile(value)
			if err != nil {
				return nil, &usageError{msg: fmt.Sprintf("--filter %s: %v", w, err)}
			}
			f = func(net network.Network) bool { return re.MatchString(net.Name) }
		case name == "id":
			f = func(net network.Network) bool { return strings.HasPrefix(net.ID, value) }
		case name == "driver":
			f = func(net network.Network) bool { return net.Driver == value }
		case name == "scope":
			f = func(network.Network) bool { return value == "local" }
		case name == "type" && (value == "custom" || value == "builtin"):
			f = func(net network.Network) bool { return builtIn(net) == (value == "builtin") }
		case name == "label" || name == "label!":
			match := labelFilter(name, value)
			f = func(net network.Network) bool { return match(net.Labels) }
			name += strconv.Itoa(i)
		case name == "dangling":
			want, err := strconv.ParseBool(value)
			if err != nil {
				return nil, &usageError{msg: fmt.Sprintf("--filter %s: want true or false", w)}
			}
			f = func(net network.Network) bool {
				if builtIn(net) {
					return !want
				}
				members, err := n.Members(net.Name)
				return err == nil && (len(members) == 0) == want
			}
		case name == "until":
			t, err := parseTime(value)
			if err != nil {
				return nil, &usageError{msg: fmt.Sprintf("--filter %s: want a time or a duration", w)}
			}
			f = func(net network.Network) bool { return net.Created.Before(t) }
		default:
			return nil, &usageError{msg: fmt.Sprintf("--filter %s: there is no such filter; there are dangling, driver, id, label, name, type and until", w)}
		}
		groups[name] = append(groups[name], f)
	}
	return func(net network.Network) bool {
		for _, group := range groups {
			if !slices.ContainsFunc(group, func(f func(network.Network) bool) bool { return f(net) }) {
				return false
			}
		}
		return true
	}, nil
}

func runNetworkCreate(_ context.Context, e *env, args []string) error {
	fs := flags("network")
	driver := fs.StringP("driver", "d", "bridge", "`bridge` is the only one")
	subnets := fs.StringArray("subnet", nil, "addresses of the network, such as 10.1.0.0/24; one of IPv4 and one of IPv6")
	gateways := fs.StringArray("gateway", nil, "the machine's `ADDRESS` on a subnet (default its first)")
	ranges := fs.StringArray("ip-range", nil, "part of a subnet from which addresses are given")
	reserved := fs.StringArray("aux-address", nil, "address that no container gets, `NAME=ADDRESS`")
	internal := fs.Bool("internal", false, "nothing outside can be reached")
	ipv6 := fs.Bool("ipv6", false, "have an IPv6 subnet too")
	labels := fs.StringArrayP("label", "l", nil, "set a label, `NAME=VALUE`")
	options := fs.StringArrayP("opt", "o", nil, "`NAME=VALUE` of docker's bridge driver: mtu, and of com.docker.network.bridge. name, enable_icc, enable_ip_masquerade and host_binding_ipv4")
	fs.Bool("attachable", false, "accepted: all are")
	addRefused(fs, refusedByNetwork)
	ignore := fs.Bool("ignore", false, "don't mind if it is there already")
	words, err := e.parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	if *driver != "bridge" {
		return &usageError{msg: fmt.Sprintf("network create: --driver %q is not supported: there is bridge", *driver)}
	}
	if slices.Contains([]string{"host", "none", "default", "container"}, words[0]) {
		return &usageError{msg: fmt.Sprintf("network create: the name %s has a meaning of its own", words[0])}
	}
	net := network.Network{Name: words[0], Internal: *internal, Labels: map[string]string{}}
	if err := addLabels(net.Labels, *labels); err != nil {
		return err
	}
	if err := networkOptions(&net, *options); err != nil {
		return err
	}
	if net.Subnets, err = parseSubnets(*subnets, *gateways, *ranges, *reserved); err != nil {
		return &usageError{msg: "network create: " + err.Error()}
	}
	n, err := e.networks()
	if err != nil {
		return err
	}
	made, err := n.Create(net, *ipv6)
	switch {
	case err == nil:
		e.noteNetwork("create", made)
	case *ignore && errors.Is(err, network.ErrExists):
		made, err = n.Find(words[0])
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, made.ID)
	return nil
}

// noteNetwork notes that a network was made or removed.
func (e *env) noteNetwork(action string, net network.Network) {
	if s, err := e.store(); err == nil {
		supervisor.NewRecords(s).Note(supervisor.Event{
			Type: supervisor.NetworkEvent, Action: action, ID: net.ID, Attributes: map[string]string{"name": net.Name, "type": net.Driver},
		})
	}
}

func networkOptions(net *network.Network, words []string) error {
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		if err := net.SetOption(k, v); err != nil {
			return &usageError{msg: fmt.Sprintf("network create: --opt %s: %v", w, err)}
		}
	}
	return nil
}

func parseSubnets(subnets, gateways, ranges, reserved []string) ([]network.Subnet, error) {
	var out []network.Subnet
	for _, text := range subnets {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("--subnet %q: want an address and a length, such as 10.1.0.0/24", text)
		}
		if slices.ContainsFunc(out, func(s network.Subnet) bool { return s.Prefix.Addr().Is4() == p.Addr().Is4() }) {
			return nil, fmt.Errorf("--subnet %s: one of IPv4 and one of IPv6 are possible", text)
		}
		out = append(out, network.Subnet{Prefix: p})
	}
	for _, text := range gateways {
		a, err := netip.ParseAddr(text)
		i := slices.IndexFunc(out, func(s network.Subnet) bool { return err == nil && s.Prefix.Contains(a) })
		if i < 0 {
			return nil, fmt.Errorf("--gateway %q is no address in a --subnet", text)
		}
		if out[i].Gateway.IsValid() {
			return nil, fmt.Errorf("--gateway %s: subnet %s has another one", text, out[i].Prefix)
		}
		out[i].Gateway = a
	}
	for _, text := range ranges {
		p, err := netip.ParsePrefix(text)
		i := slices.IndexFunc(out, func(s network.Subnet) bool { return err == nil && s.Prefix.Overlaps(p) })
		if i < 0 {
			return nil, fmt.Errorf("--ip-range %q is no part of a --subnet", text)
		}
		out[i].Range = p
	}
	for _, text := range reserved {
		name, addr, _ := strings.Cut(text, "=")
		a, err := netip.ParseAddr(addr)
		i := slices.IndexFunc(out, func(s network.Subnet) bool { return err == nil && s.Prefix.Contains(a) })
		if i < 0 || name == "" {
			return nil, fmt.Errorf("--aux-address %q: want NAME=ADDRESS, in a --subnet", text)
		}
		if out[i].Reserved == nil {
			out[i].Reserved = map[string]netip.Addr{}
		}
		out[i].Reserved[name] = a
	}
	// The first of a network is the IPv4 one.
	slices.SortStableFunc(out, func(a, b network.Subnet) int { return a.Prefix.Addr().BitLen() - b.Prefix.Addr().BitLen() })
	return out, nil
}

func runNetworkRm(_ context.Context, e *env, args []string) error {
	fs := flags("network")
	force := fs.BoolP("force", "f", false, "don't mind networks that are not there")
	words, err := e.parse(fs, args, 1, -1)
	if err != nil {
		return err
	}
	n, err := e.networks()
	if err != nil {
		return err
	}
	var errs []error
	for _, w := range words {
		net, err := ownNetwork(n, w)
		if err == nil {
			err = n.Remove(net.Name)
		}
		if *force && errors.Is(err, network.ErrNotFound) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		e.noteNetwork("destroy", net)
		fmt.Fprintln(e.stdout, w)
	}
	return errors.Join(errs...)
}

// inspectedNetwork is what network inspect shows. The names are docker's.
type inspectedNetwork struct {
	Name       string
	ID         string `json:"Id"`
	Created    time.Time
	Scope      string
	Driver     string
	EnableIPv4 bool
	EnableIPv6 bool
	IPAM       inspectedIPAM
	Internal   bool
	Attachable bool
	Ingress    bool
	ConfigOnly bool
	Containers map[string]inspectedMember
	Options    map[string]string
	Labels     map[string]string
}

type inspectedIPAM struct {
	Driver  string
	Options map[string]string
	Config  []inspectedSubnet
}

type inspectedSubnet struct {
	Subnet             string
	IPRange            string `json:",omitempty"`
	Gateway            string
	AuxiliaryAddresses map[string]netip.Addr `json:",omitempty"`
}

type inspectedMember struct {
	Name        string
	MacAddress  string
	IPv4Address string
	IPv6Address string
}

func runNetworkInspect(_ context.Context, e *env, args []string) error {
	fs := flags("network")
	format := fs.StringP("format", "f", "", "a Go template, or `json`")
	fs.BoolP("verbose", "v", false, "accepted: there is no more to show")
	words, err := e.parse(fs, args, 1, -1)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	records := e.records(s)
	found := []any{}
	var errs []error
	for _, w := range words {
		net, err := findNetwork(records.Networks(), w)
		var in inspectedNetwork
		if err == nil {
			in, err = inspectNetwork(records, net)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found = append(found, in)
	}
	return errors.Join(append([]error{printObjects(e.stdout, *format, found)}, errs...)...)
}

// printObjects prints what inspect found: as JSON, or each by a template.
func printObjects(w io.Writer, format string, found []any) error {
	var buf bytes.Buffer
	switch format {
	case "":
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "    ")
		if err := enc.Encode(found); err != nil {
			return err
		}
	case "json":
		text, err := toJSON(found)
		if err != nil {
			return err
		}
		buf.WriteString(text + "\n")
	default:
		tmpl, err := parseTemplate(format)
		if err != nil {
			return err
		}
		for _, o := range found {
			if err := executeOn(tmpl, &buf, o); err != nil {
				return &usageError{msg: fmt.Sprintf("--format: %v", err)}
			}
			buf.WriteByte('\n')
		}
	}
	_, err := buf.WriteTo(w)
	return err
}

func inspectNetwork(records supervisor.Records, net network.Network) (inspectedNetwork, error) {
	in := inspectedNetwork{
		Name: net.Name, ID: net.ID, Created: net.Created, Scope: "local", Driver: net.Driver, EnableIPv4: true, EnableIPv6: net.IPv6(), Internal: net.Internal,
		IPAM: inspectedIPAM{Driver: "default"}, Containers: map[string]inspectedMember{}, Options: net.Options, Labels: net.Labels,
	}
	if in.Options == nil {
		in.Options = map[string]string{}
	}
	if in.Labels == nil {
		in.Labels = map[string]string{}
	}
	for _, s := range net.Subnets {
		sub := inspectedSubnet{Subnet: s.Prefix.String(), Gateway: s.Gateway.String(), AuxiliaryAddresses: s.Reserved}
		if s.Range.IsValid() {
			sub.IPRange = s.Range.String()
		}
		in.IPAM.Config = append(in.IPAM.Config, sub)
	}
	if isWay(net) {
		list, err := records.List()
		for _, c := range list {
			if c.NetworkMode == net.Name && c.State.Alive() {
				in.Containers[c.ID] = inspectedMember{Name: c.Name}
			}
		}
		return in, err
	}
	members, err := records.Networks().Members(net.Name)
	if err != nil {
		return in, err
	}
	for _, m := range members {
		im := inspectedMember{MacAddress: m.MAC}
		if c, err := records.Find(m.ID); err == nil {
			im.Name = c.Name
		}
		for i, a := range m.Addrs {
			text := netip.PrefixFrom(a, net.Subnets[i].Prefix.Bits()).String()
			if a.Is4() {
				im.IPv4Address = text
			} else {
				im.IPv6Address = text
			}
		}
		in.Containers[m.ID] = im
	}
	return in, nil
}

func runNetworkConnect(ctx context.Context, e *env, args []string) error {
	fs := flags("network")
	f := networkFlags{}
	fs.StringVar(&f.ip, "ip", "", "IPv4 `ADDRESS` on the network")
	fs.StringVar(&f.ip6, "ip6", "", "IPv6 `ADDRESS` on the network")
	fs.StringVar(&f.mac, "mac-address", "", "hardware `ADDRESS`")
	priority := fs.Int("gw-priority", 0, "how much default routes are to lead over this network: the highest `NUMBER` of the container's has them")
	wordsVar(fs, &f.aliases, "alias", "further `NAME` on the network")
	wordsVar(fs, &f.links, "link", "know a container of the network by another name too: `NAME[:ALIAS]`")
	words, err := e.parse(fs, args, 2, 2)
	if err != nil {
		return err
	}
	client, err := e.client()
	if err != nil {
		return err
	}
	net, err := ownNetwork(client.Records.Networks(), words[0])
	if err != nil {
		return err
	}
	c, err := client.Records.Find(words[1])
	if err != nil {
		return err
	}
	conn := network.Connection{Network: net.Name, GatewayPriority: *priority}
	if err := f.address(&conn); err != nil {
		return err
	}
	if len(f.links) > 0 && !net.Names() {
		return &usageError{msg: fmt.Sprintf("network connect: --link is for networks that resolve names, which %s doesn't", net.Name)}
	}
	if err := f.link(client.Records, &conn); err != nil {
		return err
	}
	return client.Connect(ctx, c, conn)
}

func runNetworkDisconnect(ctx context.Context, e *env, args []string) error {
	fs := flags("network")
	fs.BoolP("force", "f", false, "accepted: it is always done at once")
	words, err := e.parse(fs, args, 2, 2)
	if err != nil {
		return err
	}
	client, err := e.client()
	if err != nil {
		return err
	}
	c, err := client.Records.Find(words[1])
	if err != nil {
		return err
	}
	net, err := ownNetwork(client.Records.Networks(), words[0])
	if errors.Is(err, network.ErrNotFound) && c.OnNetwork(words[0]) { // it was removed
		net.Name, err = words[0], nil
	}
	if err != nil {
		return err
	}
	return client.Disconnect(ctx, c, net.Name)
}

func runNetworkPrune(_ context.Context, e *env, args []string) error {
	fs := flags("network")
	force := fs.BoolP("force", "f", false, "don't ask")
	filters := fs.StringArray("filter", nil, "only networks of a `NAME=VALUE`: label, until, …")
	if _, err := e.parse(fs, args, 0, 0); err != nil {
		return err
	}
	if !*force {
		if err := e.confirmed("network prune", "all networks that no container is on"); err != nil {
			return err
		}
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	gone, err := e.pruneNetworks(e.records(s), e.pruneFilters(*filters))
	for _, name := range gone {
		fmt.Fprintln(e.stdout, name)
	}
	return err
}

// pruneNetworks removes networks that no container is to be on, running or not.
func (e *env) pruneNetworks(records supervisor.Records, filters []string) (gone []string, err error) {
	n := records.Networks()
	match, err := parseNetworkFilters(n, filters)
	if err != nil {
		return nil, err
	}
	list, err := n.List()
	if err != nil {
		return nil, err
	}
	containers, err := records.List()
	if err != nil {
		return nil, err
	}
	for _, net := range list {
		used := slices.ContainsFunc(containers, func(c supervisor.Container) bool { return c.OnNetwork(net.Name) })
		if net.Name == network.Default || used || !match(net) {
			continue
		}
		err := n.Remove(net.Name)
		if errors.Is(err, network.ErrInUse) || errors.Is(err, network.ErrNotFound) {
			continue
		}
		if err != nil {
			return gone, err
		}
		e.noteNetwork("destroy", net)
		gone = append(gone, net.Name)
	}
	return gone, nil
}

// runPort shows which ports of this machine lead to a container.
func runPort(_ context.Context, e *env, args []string) error {
	fs := flags("port")
	words, err := e.parse(fs, args, 1, 2)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	c, err := e.records(s).Find(words[0])
	if err != nil {
		return err
	}
	want := ""
	if len(words) == 2 {
		if want = words[1]; !strings.Contains(want, "/") {
			want += "/tcp"
		}
	}
	found := false
	if c.State.Network != nil {
		for _, p := range c.State.Network.Ports {
			inside := fmt.Sprintf("%d/%s", p.Container, p.Protocol)
			for _, host := range p.Bindings() {
				switch want {
				case "":
					fmt.Fprintf(e.stdout, "%s -> %s\n", inside, host)
				case inside:
					fmt.Fprintln(e.stdout, host)
				default:
					continue
				}
				found = true
			}
		}
	}
	if want != "" && !found {
		return fmt.Errorf("no port of this machine leads to %s of container %s", want, c.Name)
	}
	return nil
}
