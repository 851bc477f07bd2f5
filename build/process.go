// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"builder/cache"
	"builder/container"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"
)

// RunOptions hold for every RUN of a build.
type RunOptions struct {
	Network         string              `json:"network,omitempty"` // "default", "host", "none" or that of a network
	Hosts           []container.Host    `json:"hosts,omitempty"`
	DNS             container.DNS       `json:"dns,omitzero"`
	ShmSize         int64               `json:"shmSize,omitempty"` // bytes, 0 for the default
	Rlimits         []container.Rlimit  `json:"rlimits,omitempty"`
	CgroupParent    string              `json:"cgroupParent,omitempty"`
	Resources       container.Resources `json:"resources,omitzero"`
	Volumes         []Volume            `json:"volumes,omitempty"`
	Devices         []container.Device  `json:"devices,omitempty"`
	CDIDevices      []string            `json:"cdiDevices,omitempty"`
	CapAdd          []string            `json:"capAdd,omitempty"`
	CapDrop         []string            `json:"capDrop,omitempty"`
	Seccomp         string              `json:"seccomp,omitempty"` // as container.Spec has it
	NoNewPrivileges bool                `json:"noNewPrivileges,omitempty"`
}

// Volume is a directory or file of the machine that every RUN sees.
type Volume struct {
	Source, Target string // absolute
	ReadOnly       bool
	Scratch        bool // what is written is thrown away with the step
}

// key adds what may change the result. What the network or the machine
// answers is no part of it, as in BuildKit's keys: not the addresses of hosts,
// nor name servers, nor the content of volumes; nor what is only a bound on
// time and memory.
func (o *RunOptions) key(h *cache.Hash) {
	hosts := make([]string, len(o.Hosts))
	for i, host := range o.Hosts {
		hosts[i] = host.Name
	}
	h.AddList("host", hosts)
	h.Add("shm", strconv.FormatInt(o.ShmSize, 10))
	limits := make([]string, len(o.Rlimits))
	for i, l := range o.Rlimits {
		limits[i] = fmt.Sprintf("%s=%d:%d", l.Name, l.Soft, l.Hard)
	}
	h.AddList("ulimit", limits)
	for _, v := range o.Volumes {
		h.Add("volume", fmt.Sprintf("%q %q %t %t", v.Source, v.Target, v.ReadOnly, v.Scratch))
	}
	for _, d := range o.Devices {
		h.Add("host device", fmt.Sprintf("%q %c %d:%d %s", d.Path, d.Type, d.Major, d.Minor, d.Access))
	}
	confinement := append(append([]string{"+"}, o.CapAdd...), append([]string{"-"}, o.CapDrop...)...)
	if o.Seccomp != "" || o.NoNewPrivileges || len(confinement) > 2 {
		profile, err := os.ReadFile(o.Seccomp)
		if err != nil { // unconfined or, if it has gone, not to be run with
			profile = []byte(o.Seccomp)
		}
		h.AddList("confinement", append(confinement, digest.FromBytes(profile).String(), strconv.FormatBool(o.NoNewPrivileges)))
	}
}

// Allow are the entitlements that a build was given.
type Allow struct {
	Insecure    bool // security.insecure
	NetworkHost bool // network.host
	AllDevices  bool // device
	// Devices are those of device=NAME; the value is the device that is meant,
	// "" for NAME itself.
	Devices map[string]string
	// SecretLeak lets layers and config hold the values of secrets.
	SecretLeak bool
}

// NotAllowedError says that a build asks for what it was not given.
type NotAllowedError struct {
	msg   string
	allow string
}

func (e *NotAllowedError) Error() string { return e.msg }

// Hint is the flag that is missing.
func (e *NotAllowedError) Hint() string {
	return "if you trust this Dockerfile, build with --allow " + e.allow
}

// confine sets network, security mode and devices of a RUN.
func (o *runOp) confine(p *plan, c *instructions.RunCommand) error {
	if p.look {
		return nil // what this machine has and allows is no matter of the Dockerfile
	}
	switch o.network {
	case "", "default":
		o.network = p.opts.Run.Network
	case "host":
		// Where the build has the machine's network anyway, it is no gain.
		if p.opts.Run.Network != "host" && !p.opts.Allow.NetworkHost {
			return &NotAllowedError{"network.host is not allowed", "network.host"}
		}
	}
	if instructions.GetSecurity(c) == instructions.SecurityInsecure {
		if !p.opts.Allow.Insecure {
			return &NotAllowedError{"security.insecure is not allowed", "security.insecure"}
		}
		o.insecure = true
	}
	var err error
	o.devices, err = p.findDevices(c)
	return err
}

// findDevices resolves the --device flags of a RUN.
func (p *plan) findDevices(c *instructions.RunCommand) ([]string, error) {
	var found, forbidden []string
	for _, name := range p.opts.Run.CDIDevices {
		devices, err := p.opts.Devices.Find(name)
		if err != nil {
			return nil, err
		}
		if len(devices) == 0 {
			return nil, fmt.Errorf("device %q of --device is not registered", name)
		}
		found = append(found, devices...)
	}
	allow := p.opts.Allow
	for _, d := range instructions.GetDevices(c) {
		name := d.Name
		if name == "" {
			return nil, errors.New("RUN --device needs the name of a device")
		}
		alias := allow.Devices[name]
		if alias != "" {
			name = alias
		}
		devices, err := p.opts.Devices.Find(name)
		if err != nil {
			return nil, err
		}
		if len(devices) == 0 && d.Required {
			return nil, fmt.Errorf("required device %q is not registered", d.Name)
		}
		for _, dev := range devices {
			if alias == "" && !p.allowed(dev) && !slices.Contains(forbidden, dev) {
				forbidden = append(forbidden, dev)
			}
			if !slices.Contains(found, dev) {
				found = append(found, dev)
			}
		}
	}
	switch len(forbidden) {
	case 0:
		return found, nil
	case 1:
		return nil, &NotAllowedError{fmt.Sprintf("device %s is requested by the build but not allowed", forbidden[0]), "device=" + forbidden[0]}
	}
	return nil, &NotAllowedError{fmt.Sprintf("devices %s are requested by the build but not allowed", strings.Join(forbidden, ", ")), "device"}
}

// allowed reports whether a build may have a device.
func (p *plan) allowed(device string) bool {
	if p.opts.Allow.AllDevices || p.opts.Devices.AutoAllowed(device) {
		return true
	}
	for name := range p.opts.Allow.Devices {
		if granted, err := p.opts.Devices.Find(name); err == nil && slices.Contains(granted, device) {
			return true
		}
	}
	return false
}

// process is the process of a RUN, in a form that can be kept: it has no value
// of a secret.
type process struct {
	Args      []string          `json:"args"`
	Env       []string          `json:"env"`
	Dir       string            `json:"dir"`
	User      string            `json:"user,omitempty"`
	Shell     []string          `json:"shell"` // of commands in shell form
	Hostname  string            `json:"hostname,omitempty"`
	Network   string            `json:"network"` // as RunOptions has it
	Insecure  bool              `json:"insecure,omitempty"`
	Devices   []string          `json:"devices,omitempty"` // of CDI
	Mounts    []mountSpec       `json:"mounts,omitempty"`
	SecretEnv map[string]string `json:"secretEnv,omitempty"` // variables, and the secrets that are their values
	Run       RunOptions        `json:"run"`
}

// join has a container use the network of the process.
func (p *process) join(ctx context.Context, spec *container.Spec, m *mounter) error {
	networks := m.env.Networks
	switch {
	case p.Network == "none":
		spec.Network = container.NetworkNone
		return nil
	case p.Network == "host" || networks == nil:
		spec.Network = container.NetworkHost
		return nil
	}
	link, err := networks.Join(ctx, p.Network)
	if err != nil {
		return fmt.Errorf("network %s of RUN: %w", p.Network, err)
	}
	if link.NetNS == nil {
		spec.Network = container.NetworkHost
		return nil
	}
	m.undo = append(m.undo, func() error { return link.Release(p.Insecure || len(spec.CapAdd) > 0) })
	spec.Network, spec.NetNS, spec.Gateway = container.NetworkPrivate, link.NetNS, link.Gateway
	if len(spec.DNS.Servers) == 0 {
		spec.DNS.Servers = link.DNS
	}
	return nil
}

// open makes the process's mounts and the container to run it in, which lacks
// only ID, root and streams. release gives the mounts up and may be called
// whatever the error is.
func (p *process) open(ctx context.Context, m *mounter) (spec container.Spec, release func() error, err error) {
	run := &p.Run
	spec = container.Spec{
		Args: p.Args, Dir: p.Dir, User: p.User, Env: slices.Clone(p.Env),
		Hostname: p.Hostname, Hosts: run.Hosts, DNS: run.DNS,
		ShmSize: run.ShmSize, Rlimits: run.Rlimits, CgroupParent: run.CgroupParent, Resources: run.Resources,
		CapAdd: run.CapAdd, CapDrop: run.CapDrop, Seccomp: run.Seccomp, NoNewPrivileges: run.NoNewPrivileges,
		Devices: slices.Clone(run.Devices), RunStep: true,
	}
	if spec.Hostname == "" {
		spec.Hostname = sandboxHostname
	}
	if p.Insecure {
		spec.Privileged, spec.AmbientCaps = true, true
		spec.Devices = append(spec.Devices, insecureDevices()...)
	}
	if err := p.join(ctx, &spec, m); err != nil {
		return spec, m.release, err
	}
	if spec.Mounts, err = m.all(ctx, p.Mounts); err != nil {
		return spec, m.release, err
	}
	if len(p.Devices) > 0 {
		edits, err := m.devices.Edits(p.Devices)
		if err != nil {
			return spec, m.release, err
		}
		spec.Env = append(spec.Env, edits.Env...)
		spec.Devices = append(spec.Devices, edits.Devices...)
		spec.Mounts = append(spec.Mounts, edits.Mounts...)
		spec.GroupAdd = edits.Groups
	}
	// An optional secret that wasn't given is an empty variable, as in BuildKit.
	for _, name := range slices.Sorted(maps.Keys(p.SecretEnv)) {
		spec.Env = append(spec.Env, name+"="+string(m.secrets[p.SecretEnv[name]]))
	}
	return spec, m.release, nil
}

// insecureDevices are the nodes that BuildKit makes for --security=insecure
// whether or not the machine's /dev has them.
func insecureDevices() []container.Device {
	devices := []container.Device{
		{Path: "/dev/kmsg", Type: 'c', Major: 1, Minor: 11},
		{Path: "/dev/cuse", Type: 'c', Major: 10, Minor: 203},
		{Path: "/dev/fuse", Type: 'c', Major: 10, Minor: 229},
		{Path: "/dev/kvm", Type: 'c', Major: 10, Minor: 232},
		{Path: "/dev/net/tun", Type: 'c', Major: 10, Minor: 200},
		{Path: "/dev/loop-control", Type: 'c', Major: 10, Minor: 237},
	}
	for i := range uint32(8) {
		devices = append(devices, container.Device{Path: fmt.Sprintf("/dev/loop%d", i), Type: 'b', Major: 7, Minor: i})
	}
	return devices
}
