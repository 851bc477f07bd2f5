// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"builder/image"
	"builder/network"
	"builder/store"
	"builder/supervisor"

	"github.com/docker/go-units"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// psRow is what a --format of ps can show. The names are docker's.
type psRow struct {
	Command      string
	CreatedAt    string
	ID           string
	Image        string
	Labels       string
	LocalVolumes string
	Mounts       string
	Names        string
	Networks     string
	Ports        string
	RunningFor   string
	Size         string
	State        string
	Status       string

	labels map[string]string
}

// Label is the value of one label, for templates.
func (r psRow) Label(name string) string { return r.labels[name] }

var psHeader = psRow{
	Command: "COMMAND", CreatedAt: "CREATED AT", ID: "CONTAINER ID", Image: "IMAGE", Labels: "LABELS", LocalVolumes: "LOCAL VOLUMES",
	Mounts: "MOUNTS", Names: "NAMES", Networks: "NETWORKS", Ports: "PORTS", RunningFor: "CREATED", Size: "SIZE", State: "STATE", Status: "STATUS",
}

func runPs(ctx context.Context, e *env, args []string) error {
	fs := flags("ps")
	all := fs.BoolP("all", "a", false, "show containers that don't run too")
	quiet := fs.BoolP("quiet", "q", false, "show only IDs")
	noTrunc := fs.Bool("no-trunc", false, "don't shorten")
	format := fs.String("format", "", "a Go template, `json`, or \"table TEMPLATE\"")
	filters := fs.StringArrayP("filter", "f", nil, "show only containers of a `NAME=VALUE`: ancestor, before, exited, health, id, label, name, since, status, …")
	last := fs.IntP("last", "n", -1, "show the last `N` made")
	latest := fs.BoolP("latest", "l", false, "show the last one made")
	size := fs.BoolP("size", "s", false, "show what they have written and, as virtual, what that is with the image")
	if _, err := e.parse(fs, args, 0, 0); err != nil {
		return err
	}
	match, err := parseContainerFilters(e, *filters)
	if err != nil {
		return err
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	records := supervisor.NewRecords(s)
	list, err := e.list(ctx, records)
	if err != nil {
		return err
	}
	if *latest {
		*last = 1
	}
	byStatus := slices.ContainsFunc(*filters, func(w string) bool { return strings.HasPrefix(w, "status=") || strings.HasPrefix(w, "exited=") })
	if !*all && *last < 0 && !byStatus {
		list = slices.DeleteFunc(list, func(c supervisor.Container) bool { return !c.State.Alive() && c.State.Status != supervisor.Restarting })
	}
	list = slices.DeleteFunc(list, func(c supervisor.Container) bool { return !match(c) })
	if *last >= 0 {
		list = list[:min(*last, len(list))]
	}
	shown := first(*format, e.dockerConfig().PsFormat)
	*size = *size || strings.Contains(shown, ".Size")
	var sizes *containerSizes
	if *size {
		if sizes, err = newContainerSizes(s); err != nil {
			return err
		}
	}
	var names *imageNames
	if !*quiet {
		if names, err = newImageNames(s); err != nil {
			return err
		}
	}
	rows := make([]any, 0, len(list))
	for _, c := range list {
		row := containerRow(c, *noTrunc)
		if *quiet {
			fmt.Fprintln(e.stdout, row.ID)
			continue
		}
		row.Image = names.of(c, *noTrunc)
		if *size {
			written, whole, err := sizes.of(ctx, c.Config)
			if err != nil {
				return err
			}
			row.Size = fmt.Sprintf("%s (virtual %s)", humanSize(written), humanSize(whole))
		}
		rows = append(rows, row)
	}
	if *quiet {
		return nil
	}
	columns := "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
	if *size {
		columns += "\t{{.Size}}"
	}
	return table{format: shown, columns: columns, header: psHeader}.print(e.stdout, rows)
}

// imageNames tells how the image of a container is shown: by its name as long as that is
// the image's, else by its ID.
type imageNames struct {
	s       *store.Store
	entries map[string]ocispec.Descriptor // by whole name
	ids     map[string][]string           // of images, by the name that was given
}

func newImageNames(s *store.Store) (*imageNames, error) {
	entries, err := s.Entries()
	n := &imageNames{s: s, entries: map[string]ocispec.Descriptor{}, ids: map[string][]string{}}
	for _, e := range entries {
		n.entries[e.Name] = e.Desc
	}
	return n, err
}

func (n *imageNames) of(c supervisor.Container, noTrunc bool) string {
	short := strings.TrimPrefix(c.ImageID, "sha256:")
	byID := len(c.Image) >= 4 && strings.HasPrefix(short, strings.TrimPrefix(c.Image, "sha256:"))
	if !byID {
		have, looked := n.ids[c.Image]
		if !looked {
			have = n.look(c.Image)
			n.ids[c.Image] = have
		}
		if slices.Contains(have, c.ImageID) {
			if name, _, pinned := strings.Cut(c.Image, "@"); pinned && !noTrunc {
				return name
			}
			return c.Image
		}
	}
	if noTrunc {
		return c.ImageID
	}
	return truncate(short, 12)
}

// look finds the IDs of the images of a name.
func (n *imageNames) look(name string) (ids []string) {
	ref, err := image.ParseRef(name)
	if err != nil {
		return nil
	}
	desc, there := n.entries[ref.String()]
	if !there {
		entry, err := n.s.Resolve(name) // by tag and digest, say
		if err != nil {
			return nil
		}
		desc = entry.Desc
	}
	return localIDs(n.s, desc)
}

func containerRow(c supervisor.Container, noTrunc bool) psRow {
	command := strings.Join(c.Spec.Args, " ")
	r := psRow{
		ID: c.ID, Image: c.Image, CreatedAt: c.Created.Local().Truncate(time.Second).String(), RunningFor: since(c.Created),
		Names: c.Name, State: string(c.State.Status), Status: statusText(c.State), Networks: networkNames(c.Config), Ports: portText(c), labels: c.Labels, Size: "0B",
	}
	if !noTrunc {
		r.ID = truncate(r.ID, 12)
		command = shorten(command, 20)
	}
	r.Command = strconv.Quote(command)
	var labels []string
	for k, v := range c.Labels {
		labels = append(labels, k+"="+v)
	}
	slices.Sort(labels)
	r.Labels = strings.Join(labels, ",")
	var mounts []string
	volumes := 0
	for _, m := range c.Mounts {
		if m.Source != "" {
			mounts = append(mounts, m.Source)
		}
		if m.Type == supervisor.MountVolume {
			volumes++
		}
	}
	r.Mounts, r.LocalVolumes = strings.Join(mounts, ","), strconv.Itoa(volumes)
	return r
}

// networkNames are the networks that a container is to be on.
func networkNames(c supervisor.Config) string {
	if c.Endpoint == nil {
		return c.NetworkMode
	}
	var names []string
	for _, conn := range c.Endpoint.Connections {
		names = append(names, conn.Network)
	}
	return strings.Join(names, ",")
}

// portText is the PORTS column: ports of this machine that lead to the container, and then
// those that it exposes besides.
func portText(c supervisor.Container) string {
	if c.State.Network == nil {
		return ""
	}
	var published, exposed []shownPort
	for _, p := range c.State.Network.Ports {
		for _, at := range p.Bindings() {
			published = append(published, shownPort{p.Protocol, p.Container, at})
		}
	}
	for _, text := range c.Exposed {
		ports, err := network.ParsePorts(text)
		if err != nil {
			continue
		}
		for _, p := range ports {
			here := func(have network.Port) bool { return have.Container == p.Container && have.Protocol == p.Protocol }
			if !slices.ContainsFunc(c.State.Network.Ports, here) {
				exposed = append(exposed, shownPort{p.Protocol, p.Container, netip.AddrPortFrom(netip.Addr{}, p.Container)})
			}
		}
	}
	return strings.Join(append(portWords(published), portWords(exposed)...), ", ")
}

// shownPort is a port of a container, and where it is on this machine. One that is
// nowhere there has no address, and its own number.
type shownPort struct {
	protocol string
	number   uint16
	at       netip.AddrPort
}

// portWords shows ports. Consecutive ones that lead to the same numbers are one word.
func portWords(ports []shownPort) (words []string) {
	slices.SortStableFunc(ports, func(a, b shownPort) int {
		return cmp.Or(strings.Compare(a.protocol, b.protocol), cmp.Compare(a.number, b.number), a.at.Addr().Compare(b.at.Addr()))
	})
	ports = slices.Compact(ports) // older records have some twice
	for len(ports) > 0 {
		first, last := ports[0], ports[0].number
		same := func(p shownPort) bool {
			return p.protocol == first.protocol && p.at.Addr() == first.at.Addr() && p.at.Port() == p.number
		}
		ports = ports[1:]
		if same(first) {
			ports = slices.DeleteFunc(ports, func(p shownPort) bool {
				next := same(p) && p.number == last+1
				if next {
					last++
				}
				return next
			})
		}
		outside, inside := strconv.Itoa(int(first.at.Port())), strconv.Itoa(int(first.number))
		if last > first.number {
			inside += "-" + strconv.Itoa(int(last))
			outside = inside
		}
		word := inside + "/" + first.protocol
		if first.at.Addr().IsValid() {
			word = net.JoinHostPort(first.at.Addr().String(), outside) + "->" + word
		}
		words = append(words, word)
	}
	return words
}

// statusText is the STATUS column, as docker writes it.
func statusText(s supervisor.State) string {
	switch s.Status {
	case supervisor.Created:
		return "Created"
	case supervisor.Restarting:
		return fmt.Sprintf("Restarting (%d) %s ago", s.ExitCode, units.HumanDuration(time.Since(s.Finished)))
	case supervisor.Running, supervisor.Paused:
		text := "Up " + units.HumanDuration(time.Since(s.Started))
		switch {
		case s.Status == supervisor.Paused:
			text += " (Paused)"
		case s.Health != nil && s.Health.Status == healthStarting:
			text += " (health: starting)"
		case s.Health != nil:
			text += " (" + s.Health.Status + ")"
		}
		return text
	}
	return fmt.Sprintf("Exited (%d) %s ago", s.ExitCode, units.HumanDuration(time.Since(s.Finished)))
}

const healthStarting = supervisor.Starting

// parseContainerFilters makes one test of --filter words. Values of the same
// name are alternatives, except for labels, which must all be there.
func parseContainerFilters(e *env, words []string) (func(supervisor.Container) bool, error) {
	groups := map[string][]func(supervisor.Container) bool{}
	for i, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return nil, &usageError{msg: fmt.Sprintf("--filter %q: want NAME=VALUE", w)}
		}
		f, err := parseContainerFilter(e, name, value)
		if errors.Is(err, supervisor.ErrNotFound) {
			return nil, fmt.Errorf("--filter %s: %w", w, err)
		}
		if err != nil {
			return nil, &usageError{msg: fmt.Sprintf("--filter %s: %v", w, err)}
		}
		if name == "label" || name == "label!" {
			name += strconv.Itoa(i)
		}
		groups[name] = append(groups[name], f)
	}
	return func(c supervisor.Container) bool {
		for _, group := range groups {
			if !slices.ContainsFunc(group, func(f func(supervisor.Container) bool) bool { return f(c) }) {
				return false
			}
		}
		return true
	}, nil
}

// filteredPorts reads PORT[/tcp|udp], or several FIRST-LAST.
func filteredPorts(text string) ([]network.Port, error) {
	if strings.Contains(text, ":") {
		return nil, errors.New("want PORT[/tcp|udp]")
	}
	return network.ParsePorts(text)
}

// hasPort tells whether one of the ports of this machine leads to a container or, if they
// are not of this machine, whether it exposes one, which it does with all that it
// publishes.
func hasPort(c supervisor.Container, ports []network.Port, machine bool) bool {
	var have []network.Port
	switch {
	case c.State.Network != nil && c.State.Alive():
		have = c.State.Network.Ports
	case c.Endpoint != nil:
		have = c.Endpoint.Ports
	}
	return slices.ContainsFunc(ports, func(p network.Port) bool {
		is := func(have network.Port) bool {
			number := have.Container
			if machine {
				number = have.HostPort
			}
			return number == p.Container && have.Protocol == p.Protocol
		}
		return slices.ContainsFunc(have, is) || !machine && slices.Contains(c.Exposed, fmt.Sprintf("%d/%s", p.Container, p.Protocol))
	})
}

// labelFilter is the filter label=KEY[=VALUE], or label!= for all others.
func labelFilter(name, value string) func(labels map[string]string) bool {
	key, want, exact := strings.Cut(value, "=")
	return func(labels map[string]string) bool {
		got, ok := labels[key]
		return (ok && (!exact || got == want)) == (name == "label")
	}
}

// madeOf tells of containers whether their image is one, by its present name or its ID, or
// was made of it: it has the image's history and layers, and more.
func madeOf(s *store.Store, word string) (func(supervisor.Container) bool, error) {
	all, err := listImages(s)
	if err != nil {
		return nil, err
	}
	entry, err := s.Resolve(word)
	if errors.Is(err, store.ErrNotFound) { // an image without a name, or none
		return func(c supervisor.Container) bool {
			return strings.HasPrefix(strings.TrimPrefix(c.ImageID, "sha256:"), strings.TrimPrefix(word, "sha256:"))
		}, nil
	}
	if err != nil {
		return nil, err
	}
	base, err := localImage(s, entry.Desc)
	if err != nil {
		return nil, err
	}
	ids := map[string]bool{}
	for _, id := range localIDs(s, entry.Desc) {
		ids[id] = true
	}
	steps, layers := base.Config.History, base.Config.RootFS.DiffIDs
	for _, l := range all {
		config := l.image.Config
		if len(steps) > 0 && len(config.History) > len(steps) && reflect.DeepEqual(config.History[:len(steps)], steps) &&
			len(config.RootFS.DiffIDs) >= len(layers) && slices.Equal(config.RootFS.DiffIDs[:len(layers)], layers) {
			ids[l.image.ID().String()] = true
		}
	}
	return func(c supervisor.Container) bool { return ids[c.ImageID] }, nil
}

func parseContainerFilter(e *env, name, value string) (func(supervisor.Container) bool, error) {
	switch name {
	case "before", "since":
		s, err := e.store()
		if err != nil {
			return nil, err
		}
		other, err := supervisor.NewRecords(s).Find(value)
		if err != nil {
			return nil, err
		}
		if name == "before" {
			return func(c supervisor.Container) bool { return c.Created.Before(other.Created) }, nil
		}
		return func(c supervisor.Container) bool { return c.Created.After(other.Created) }, nil
	case "id":
		return func(c supervisor.Container) bool { return value != "" && strings.HasPrefix(c.ID, value) }, nil
	case "name":
		re, err := regexp.Compile(value)
		if err != nil {
			return nil, err
		}
		// Docker's names begin with a slash, which need not be said.
		return func(c supervisor.Container) bool { return re.MatchString(c.Name) || re.MatchString("/"+c.Name) }, nil
	case "label", "label!":
		match := labelFilter(name, value)
		return func(c supervisor.Container) bool { return match(c.Labels) }, nil
	case "status":
		for _, s := range []supervisor.Status{supervisor.Created, supervisor.Running, supervisor.Paused, supervisor.Restarting, supervisor.Exited} {
			if value == string(s) {
				return func(c supervisor.Container) bool { return c.State.Status == s }, nil
			}
		}
		if value == "removing" || value == "dead" { // docker's, in which none is seen here
			return func(supervisor.Container) bool { return false }, nil
		}
		return nil, errors.New("there are created, running, paused, restarting, exited, removing and dead")
	case "exited":
		code, err := strconv.Atoi(value)
		if err != nil {
			return nil, errors.New("want an exit code")
		}
		return func(c supervisor.Container) bool {
			return c.State.Status == supervisor.Exited && c.State.ExitCode == code
		}, nil
	case "ancestor":
		s, err := e.store()
		if err != nil {
			return nil, err
		}
		return madeOf(s, value)
	case "health":
		return func(c supervisor.Container) bool {
			if c.State.Health == nil {
				return value == "none"
			}
			return c.State.Health.Status == value
		}, nil
	case "restart-policy":
		return func(c supervisor.Container) bool { return c.Restart.Name == value }, nil
	case "network":
		s, err := e.store()
		if err != nil {
			return nil, err
		}
		names := []string{value}
		if net, err := findNetwork(e.records(s).Networks(), strings.TrimSpace(value)); err == nil {
			names = append(names, net.Name)
		}
		return func(c supervisor.Container) bool {
			return slices.ContainsFunc(strings.Split(networkNames(c.Config), ","), func(n string) bool { return slices.Contains(names, n) })
		}, nil
	case "volume":
		return func(c supervisor.Container) bool {
			return slices.ContainsFunc(c.Mounts, func(m supervisor.Mount) bool { return m.Source == value || m.Target == value })
		}, nil
	case "publish", "expose":
		ports, err := filteredPorts(value)
		if err != nil {
			return nil, err
		}
		return func(c supervisor.Container) bool {
			return hasPort(c, ports, name == "publish")
		}, nil
	case "until":
		t, err := parseTime(value)
		if err != nil {
			return nil, errors.New("want a time or a duration")
		}
		return func(c supervisor.Container) bool { return c.Created.Before(t) }, nil
	}
	return nil, errors.New("there is no such filter; there are ancestor, before, exited, expose, health, id, label, name, network, publish, restart-policy, since, status, until and volume")
}
