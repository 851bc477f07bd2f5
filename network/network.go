// SPDX-License-Identifier: Apache-2.0

// Package network gives containers their network: a namespace of their own,
// joined to a bridge by a pair of interfaces, with addresses, outbound address
// translation, published ports and names.
//
// It knows no containers but their IDs. Its state is in files of a directory:
//
//	NAME.json    what a network is: [Network]
//	NAME.leases  which container has which address and names there
//	lock         held while any of them changes
//
// The kernel's part can be made anew from them at any time: the bridges when
// something is attached, and the rules of address translation, which are all in
// one table of nftables, whenever they are others.
package network

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"builder/internal/atomicfile"
	"builder/internal/filelock"
	"builder/internal/names"
)

// Default is the network of containers that name none.
const Default = "bridge"

// Network is a network that containers can be on.
type Network struct {
	Name     string            `json:"name"`
	ID       string            `json:"id"`
	Created  time.Time         `json:"created"`
	Driver   string            `json:"driver"` // bridge
	Bridge   string            `json:"bridge"` // name of the interface
	Subnets  []Subnet          `json:"subnets"`
	Internal bool              `json:"internal,omitempty"` // nothing outside can be reached
	Labels   map[string]string `json:"labels,omitempty"`
	Options  map[string]string `json:"options,omitempty"`
	MTU      int               `json:"mtu,omitempty"` // 0 for the default
}

// Options of docker's bridge driver that are heeded: see [Network.SetOption].
const (
	optionMTU        = "com.docker.network.driver.mtu"
	optionBridge     = "com.docker.network.bridge.name"
	optionMasquerade = "com.docker.network.bridge.enable_ip_masquerade" // have outbound traffic come from this machine
	optionICC        = "com.docker.network.bridge.enable_icc"           // have containers reach each other
	optionBinding    = "com.docker.network.bridge.host_binding_ipv4"    // address for ports that are published without one
)

// on is the value of an option that is on where nothing is said.
func (n *Network) on(option string) bool {
	v, err := strconv.ParseBool(n.Options[option])
	return v || err != nil
}

// bind gives ports that are to be published without an address the network's.
func (n *Network) bind(ports []Port) []Port {
	ip, err := netip.ParseAddr(n.Options[optionBinding])
	if err != nil || ip.IsUnspecified() {
		return ports
	}
	ports = slices.Clone(ports)
	for i := range ports {
		if !ports[i].HostIP.IsValid() {
			ports[i].HostIP = ip
		}
	}
	return ports
}

// SetOption sets an option by docker's name, or mtu. The error says what is wrong with
// the name or the value.
func (n *Network) SetOption(name, value string) error {
	var err error
	switch name {
	case optionMTU, "mtu":
		if n.MTU, err = strconv.Atoi(value); err == nil && (n.MTU < 68 || n.MTU > 65535) {
			err = errors.New("it is not from 68 to 65535")
		}
	case optionBridge:
		if n.Bridge = value; value == "" || len(value) > 15 || strings.ContainsAny(value, "/ \t\n") {
			err = errors.New("it is no name of an interface")
		}
	case optionMasquerade, optionICC:
		_, err = strconv.ParseBool(value)
	case optionBinding:
		if ip, parseErr := netip.ParseAddr(value); parseErr != nil || !ip.Is4() {
			err = errors.New("it is no IPv4 address")
		}
	default:
		err = fmt.Errorf("it is not known: there are mtu, %s, %s, %s and %s", optionBridge, optionMasquerade, optionICC, optionBinding)
	}
	if err != nil {
		return err
	}
	if n.Options == nil {
		n.Options = map[string]string{}
	}
	n.Options[name] = value
	return nil
}

// Subnet is a range of addresses of a network.
type Subnet struct {
	Prefix  netip.Prefix `json:"subnet"`
	Gateway netip.Addr   `json:"gateway"`
	Range   netip.Prefix `json:"range,omitzero"` // from which addresses are given; zero: all
	// Reserved are addresses, by names, that no container gets.
	Reserved map[string]netip.Addr `json:"reserved,omitempty"`
}

// IPv6 says whether a network has IPv6 addresses.
func (n *Network) IPv6() bool {
	return slices.ContainsFunc(n.Subnets, func(s Subnet) bool { return s.Prefix.Addr().Is6() })
}

// Names says whether the network resolves the names of its containers: all but
// the default one do, as with docker.
func (n *Network) Names() bool { return n.Name != Default }

// lease is what one container has on a network.
type lease struct {
	Addrs   []netip.Addr `json:"addrs"`
	MAC     string       `json:"mac"`
	Names   []string     `json:"names,omitempty"` // it is known by
	Ports   []Port       `json:"ports,omitempty"` // that lead to it
	Created time.Time    `json:"created"`
	// Links are names that this container alone knows others by: their names here.
	Links map[string]string `json:"links,omitempty"`
	// Upstream are the name servers that it asks for what is no name here; none for
	// the machine's.
	Upstream []netip.Addr `json:"upstream,omitempty"`
}

// leases are those of a network by container ID.
type leases map[string]lease

// Networks are the networks of a state directory.
type Networks struct {
	dir string
	// table is the name of the table in nftables.
	table string
	// alive says whether the container of an ID is there still: the
	// addresses of others are free.
	alive func(id string) bool
	// base is where the kernel's part is; nil: where this process is.
	base Base
}

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("no such network")
	ErrExists   = errors.New("network exists")
	ErrInUse    = errors.New("network is in use")
)

// Open returns the networks whose state is in a directory. tableOwner tells the
// tables of several state directories apart.
func Open(dir, tableOwner string, alive func(id string) bool) *Networks {
	sum := sha256.Sum256([]byte(tableOwner))
	return &Networks{dir: dir, table: "builder-" + hex.EncodeToString(sum[:4]), alive: alive}
}

// lock takes the lock on the state, which is short. Who has it writes, and nobody
// else: what is half written then was left by a killed process, and is removed.
func (n *Networks) lock() (*filelock.Lock, error) {
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := filelock.Acquire(context.Background(), filepath.Join(n.dir, "lock"), filelock.Exclusive, nil)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(n.dir)
	if err != nil {
		return nil, errors.Join(err, lock.Release())
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".tmp-") {
			_ = os.Remove(filepath.Join(n.dir, e.Name()))
		}
	}
	return lock, nil
}

func (n *Networks) file(name, suffix string) string { return filepath.Join(n.dir, name+suffix) }

// List returns all networks by name. The default one is there once it was used.
func (n *Networks) List() ([]Network, error) {
	entries, err := os.ReadDir(n.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	var out []Network
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		net, err := n.load(name)
		if err != nil {
			return nil, err
		}
		out = append(out, net)
	}
	return out, nil
}

func (n *Networks) load(name string) (Network, error) {
	var net Network
	data, err := os.ReadFile(n.file(name, ".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return net, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if err == nil {
		err = json.Unmarshal(data, &net)
	}
	if err != nil {
		return net, fmt.Errorf("network %s: %w", name, err)
	}
	return net, nil
}

// Find returns the network of a name, an ID or the beginning of one. The
// default one is made if it isn't there.
func (n *Networks) Find(name string) (Network, error) {
	if name == Default || name == "default" {
		return n.ensureDefault()
	}
	if names.Valid(name) {
		if net, err := n.load(name); !errors.Is(err, ErrNotFound) {
			return net, err
		}
	}
	all, err := n.List()
	if err != nil {
		return Network{}, err
	}
	var found []Network
	for _, net := range all {
		if name != "" && strings.HasPrefix(net.ID, name) {
			found = append(found, net)
		}
	}
	switch len(found) {
	case 0:
		return Network{}, fmt.Errorf("%w: %s", ErrNotFound, name)
	case 1:
		return found[0], nil
	}
	return Network{}, fmt.Errorf("network ID %s is ambiguous: give more of its digits", name)
}

func (n *Networks) ensureDefault() (Network, error) {
	net, err := n.load(Default)
	if !errors.Is(err, ErrNotFound) {
		return net, err
	}
	net, err = n.Create(Network{Name: Default}, false)
	if errors.Is(err, ErrExists) {
		return n.load(Default)
	}
	return net, err
}

// Create makes a network. Subnets that are not given are chosen so that they
// don't meet others or what the machine has routes to; one without a gateway
// gets its first address. ipv6 asks for an IPv6 subnet.
func (n *Networks) Create(net Network, ipv6 bool) (Network, error) {
	if !names.Valid(net.Name) {
		return net, fmt.Errorf("invalid network name %q: want letters, digits, _, . and -, beginning with a letter or digit", net.Name)
	}
	lock, err := n.lock()
	if err != nil {
		return net, err
	}
	defer lock.Release()
	if _, err := n.load(net.Name); !errors.Is(err, ErrNotFound) {
		return net, errors.Join(fmt.Errorf("%w: %s", ErrExists, net.Name), err)
	}
	all, err := n.List()
	if err != nil {
		return net, err
	}
	var b [32]byte
	rand.Read(b[:])
	net.ID, net.Created = hex.EncodeToString(b[:]), time.Now()
	if net.Driver == "" {
		net.Driver = "bridge"
	}
	if net.Bridge == "" {
		net.Bridge = net.ownBridge()
	}
	if err := chooseSubnets(&net, all, ipv6); err != nil {
		return net, fmt.Errorf("network %s: %w", net.Name, err)
	}
	data, err := json.Marshal(net)
	if err != nil {
		return net, err
	}
	return net, atomicfile.WriteSync(n.file(net.Name, ".json"), data, 0o600)
}

func save(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return atomicfile.Write(name, data, 0o600)
}

// Remove removes a network that no container is on, with its bridge if that was made
// for it. The error wraps [ErrInUse] if one is.
func (n *Networks) Remove(name string) error {
	net, err := n.Find(name)
	if err != nil {
		return err
	}
	if net.Name == Default {
		return fmt.Errorf("network %s is the default one and can't be removed", net.Name)
	}
	lock, err := n.lock()
	if err != nil {
		return err
	}
	defer lock.Release()
	have, err := n.leases(net.Name)
	if err != nil {
		return err
	}
	for id := range have {
		if n.alive(id) {
			return fmt.Errorf("%w: container %s is on network %s", ErrInUse, id[:12], net.Name)
		}
	}
	// What the files tell of goes first: after a kill it can be repeated.
	err = n.inBaseIfThere(func() error {
		if err := n.writeRules(net.ID); err != nil {
			return err
		}
		return removeBridge(&net)
	})
	if err != nil {
		return err
	}
	if err := os.Remove(n.file(net.Name, ".leases")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Remove(n.file(net.Name, ".json"))
}

// leases reads who is on a network. An empty file is one that a power cut has left,
// after which nobody is.
func (n *Networks) leases(name string) (leases, error) {
	data, err := os.ReadFile(n.file(name, ".leases"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(data) == 0 {
		return leases{}, nil
	}
	var l leases
	if err == nil {
		err = json.Unmarshal(data, &l)
	}
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", name, err)
	}
	return l, nil
}

// on are the networks that a container has a lease of.
func (n *Networks) on(id string) (names []string, err error) {
	entries, err := os.ReadDir(n.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".leases")
		if !ok {
			continue
		}
		data, err := os.ReadFile(filepath.Join(n.dir, e.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("network %s: %w", name, err)
		}
		if bytes.Contains(data, []byte(`"`+id+`"`)) { // to parse it takes a multiple of the time
			names = append(names, name)
		}
	}
	return names, nil
}

// Drop gives back what a container has, whoever gave it that and was killed:
// leases, and the rules of published ports. No process has them any more, and
// none is about to. Repeating it does nothing.
func (n *Networks) Drop(id string) error {
	names, err := n.on(id)
	if err != nil || len(names) == 0 {
		return err
	}
	return n.release(id, false, names...)
}

// Rename has a container be known by another name on the networks that it is on.
// On those where it is not known by the old one, nothing happens.
func (n *Networks) Rename(id, from, to string) error {
	lock, err := n.lock()
	if err != nil {
		return err
	}
	defer lock.Release()
	names, err := n.on(id)
	if err != nil {
		return err
	}
	for _, name := range names {
		all, err := n.leases(name)
		if err != nil {
			return err
		}
		l := all[id]
		at := slices.Index(l.Names, from)
		if at < 0 {
			continue
		}
		l.Names = slices.Clone(l.Names)
		l.Names[at] = to
		all[id] = l
		if err := save(n.file(name, ".leases"), all); err != nil {
			return err
		}
	}
	return nil
}

// InUse says whether a container that is there is on a network.
func (n *Networks) InUse() bool {
	all, err := n.List()
	if err != nil {
		return true
	}
	for _, net := range all {
		members, err := n.Members(net.Name)
		if err != nil || len(members) > 0 {
			return true
		}
	}
	return false
}

// Member is a container on a network.
type Member struct {
	ID    string
	Addrs []netip.Addr
	MAC   string
	Names []string
}

// Members are the containers on a network that are there.
func (n *Networks) Members(name string) ([]Member, error) {
	have, err := n.leases(name)
	if err != nil {
		return nil, err
	}
	var out []Member
	for id, l := range have {
		if n.alive(id) {
			out = append(out, Member{ID: id, Addrs: l.Addrs, MAC: l.MAC, Names: l.Names})
		}
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}
