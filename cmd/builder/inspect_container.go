// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"builder/network"
	"builder/supervisor"
)

// inspectedContainer is what inspect shows of a container. The names are
// docker's.
type inspectedContainer struct {
	ID              string `json:"Id"`
	Created         stamp
	Path            string
	Args            []string
	State           inspectedState
	Image           string
	ResolvConfPath  string
	HostnamePath    string
	HostsPath       string
	LogPath         string
	Name            string
	RestartCount    int
	Driver          string
	Platform        string
	MountLabel      string
	ProcessLabel    string
	AppArmorProfile string
	ExecIDs         []string
	HostConfig      inspectedHostConfig
	GraphDriver     inspectedGraph
	SizeRw          *int64 `json:",omitempty"`
	SizeRootFs      *int64 `json:",omitempty"`
	Mounts          []inspectedMount
	Config          inspectedConfig
	NetworkSettings inspectedNetworkSettings
	// Options are the flags that it was made with.
	Options json.RawMessage `json:",omitempty"`
}

type inspectedState struct {
	Status     supervisor.Status
	Running    bool
	Paused     bool
	Restarting bool
	OOMKilled  bool
	Dead       bool
	Pid        int
	ExitCode   int
	Error      string
	StartedAt  stamp
	FinishedAt stamp
	Health     *inspectedHealth `json:",omitempty"`
}

type inspectedHealth struct {
	Status        string
	FailingStreak int
	Log           []supervisor.Probe
}

type inspectedHostConfig struct {
	Binds           []string
	LogConfig       inspectedLog
	NetworkMode     string
	PortBindings    map[string][]inspectedBinding
	RestartPolicy   inspectedRestart
	AutoRemove      bool
	VolumesFrom     []string
	CapAdd          []string
	CapDrop         []string
	DNS             []string `json:"Dns"`
	DNSOptions      []string `json:"DnsOptions"`
	DNSSearch       []string `json:"DnsSearch"`
	ExtraHosts      []string
	GroupAdd        []string
	Privileged      bool
	ReadonlyRootfs  bool
	SecurityOpt     []string
	ShmSize         int64
	CgroupParent    string
	Memory          int64
	MemorySwap      int64
	CPUShares       int64 `json:"CpuShares"`
	CPUPeriod       int64 `json:"CpuPeriod"`
	CPUQuota        int64 `json:"CpuQuota"`
	NanoCPUs        int64 `json:"NanoCpus"`
	CpusetCpus      string
	CpusetMems      string
	Init            bool
	Ulimits         []inspectedUlimit
	Annotations     map[string]string `json:",omitempty"`
	Runtime         string
	ContainerIDFile string
	PublishAllPorts bool
	Tmpfs           map[string]string `json:",omitempty"`
	VolumeDriver    string
	Links           []string
	Cgroup          string
	Isolation       string
	StorageOpt      map[string]string
	DeviceRequests  []struct{}
	ConsoleSize     [2]uint // a terminal's is given when it is attached to
	MaskedPaths     []string
	ReadonlyPaths   []string
	Mounts          []inspectedRequest `json:",omitempty"` // by --mount
	inspectedConfinement
}

type inspectedLog struct {
	Type   string
	Config map[string]string
}

type inspectedUlimit struct {
	Name       string
	Hard, Soft int64
}

type inspectedRestart struct {
	Name              string
	MaximumRetryCount int
}

type inspectedBinding struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

type inspectedGraph struct {
	Name string
	Data map[string]string
}

type inspectedMount struct {
	Type        string
	Name        string `json:",omitempty"`
	Source      string
	Destination string
	Driver      string `json:",omitempty"`
	Mode        string
	RW          bool
	Propagation string
}

// inspectedRequest is what --mount asked for.
type inspectedRequest struct {
	Type     string
	Source   string `json:",omitempty"`
	Target   string
	ReadOnly bool `json:",omitempty"`
}

type inspectedConfig struct {
	Hostname     string
	Domainname   string
	User         string
	AttachStdin  bool
	AttachStdout bool
	AttachStderr bool
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Tty          bool
	OpenStdin    bool
	StdinOnce    bool
	Env          []string
	Cmd          []string
	Healthcheck  *inspectedHealthcheck `json:",omitempty"`
	Image        string
	Volumes      map[string]struct{}
	WorkingDir   string
	Entrypoint   []string
	Labels       map[string]string
	StopSignal   string
	StopTimeout  *int     `json:",omitempty"`
	OnBuild      []string // a container has none
}

// inspectedHealthcheck says how a container is checked, with times in nanoseconds.
type inspectedHealthcheck struct {
	Test          []string      `json:",omitempty"`
	Interval      time.Duration `json:",omitempty"`
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int           `json:",omitempty"`
}

type inspectedNetworkSettings struct {
	Ports       map[string][]inspectedBinding
	Gateway     string
	IPAddress   string
	IPPrefixLen int
	MacAddress  string

	GlobalIPv6Address   string
	GlobalIPv6PrefixLen int
	IPv6Gateway         string
	Bridge              string
	SandboxKey          string // the network namespace, while it runs
	Networks            map[string]inspectedEndpoint
}

type inspectedEndpoint struct {
	Aliases             []string
	NetworkID           string
	Gateway             string
	IPAddress           string
	IPPrefixLen         int
	GlobalIPv6Address   string
	GlobalIPv6PrefixLen int
	IPv6Gateway         string
	MacAddress          string
	Links               []string
	DNSNames            []string
	DriverOpts          map[string]string
	IPAMConfig          *inspectedIPAMConfig
	GwPriority          int
}

// inspectedIPAMConfig are the addresses that were asked for.
type inspectedIPAMConfig struct {
	IPv4Address string `json:",omitempty"`
	IPv6Address string `json:",omitempty"`
}

// inspectContainer tells everything about a container.
func inspectContainer(records supervisor.Records, c supervisor.Container) inspectedContainer {
	s := c.State
	in := inspectedContainer{
		ID: c.ID, Created: stamp{c.Created}, Path: c.Spec.Args[0], Args: c.Spec.Args[1:], Image: c.ImageID, LogPath: records.Dir(c.ID) + "/log",
		Name: "/" + c.Name, RestartCount: s.Restarts, Driver: "overlayfs", Platform: "linux", ExecIDs: records.Execs(c.Config), Options: c.Options,
		State: inspectedState{
			Status: s.Status, Running: s.Alive() || s.Status == supervisor.Restarting, Paused: s.Status == supervisor.Paused, Restarting: s.Status == supervisor.Restarting,
			OOMKilled: s.OOM, Pid: s.Pid, ExitCode: s.ExitCode, Error: s.Error, StartedAt: stamp{s.Started}, FinishedAt: stamp{s.Finished},
		},
		GraphDriver: inspectedGraph{Name: "overlayfs", Data: map[string]string{"UpperDir": records.Dir(c.ID) + "/fs", "WorkDir": records.Dir(c.ID) + "/work"}},
		Mounts:      []inspectedMount{},
	}
	if !s.Alive() {
		in.State.Pid = 0
	}
	if s.Health != nil {
		in.State.Health = &inspectedHealth{s.Health.Status, s.Health.FailingStreak, s.Health.Log}
	}
	in.config(c.Config)
	given := givenFlags(c.Config)
	requested := given.requested()
	in.hostConfig(records, c.Config, given, requested)
	in.mounts(records, c.Config, requested)
	in.network(records, c)
	return in
}

func (in *inspectedContainer) config(c supervisor.Config) {
	in.Config = inspectedConfig{
		Hostname: first(c.Spec.Hostname, c.ID[:12]), Domainname: c.Spec.Domainname, User: c.Spec.User, AttachStdin: c.StdinOnce, AttachStdout: c.AutoRemove, AttachStderr: c.AutoRemove,
		Tty: c.Spec.Terminal, OpenStdin: c.OpenStdin, StdinOnce: c.StdinOnce, Env: c.Spec.Env, Cmd: c.Cmd, Image: c.Image,
		WorkingDir: c.Spec.Dir, Entrypoint: c.Entrypoint, Labels: c.Labels, StopSignal: c.StopSignal, StopTimeout: c.StopTimeout,
	}
	if in.Config.Labels == nil {
		in.Config.Labels = map[string]string{}
	}
	if h := c.Health; h != nil {
		in.Config.Healthcheck = &inspectedHealthcheck{h.Test, h.Interval, h.Timeout, h.StartPeriod, h.StartInterval, h.Retries}
	}
	if c.NetworkMode == "host" && c.Spec.Hostname == "" {
		in.Config.Hostname, _ = os.Hostname()
	}
	for _, p := range c.Exposed {
		if in.Config.ExposedPorts == nil {
			in.Config.ExposedPorts = map[string]struct{}{}
		}
		in.Config.ExposedPorts[p] = struct{}{}
	}
}

// capabilityNames are names of capabilities as docker writes them.
func capabilityNames(given []string) (names []string) {
	for _, n := range given {
		if n = strings.ToUpper(n); n != "ALL" && !strings.HasPrefix(n, "CAP_") {
			n = "CAP_" + n
		}
		names = append(names, n)
	}
	return names
}

func (in *inspectedContainer) hostConfig(records supervisor.Records, c supervisor.Config, given flagsGiven, requested map[string]bool) {
	r := c.Spec.Resources
	h := inspectedHostConfig{
		LogConfig: inspectedLog{Type: first(c.Log.Driver, "local"), Config: map[string]string{}}, NetworkMode: networkNames(c),
		PortBindings: map[string][]inspectedBinding{}, RestartPolicy: inspectedRestart{first(c.Restart.Name, supervisor.RestartNo), c.Restart.Max},
		AutoRemove: c.AutoRemove, CapAdd: capabilityNames(c.Spec.CapAdd), CapDrop: capabilityNames(c.Spec.CapDrop), DNS: []string{}, DNSOptions: append([]string{}, c.Spec.DNS.Options...), DNSSearch: append([]string{}, c.Spec.DNS.Search...),
		GroupAdd: c.Spec.GroupAdd, Privileged: c.Spec.Privileged, ReadonlyRootfs: c.Spec.ReadOnly, ShmSize: c.Spec.ShmSize, CgroupParent: c.Spec.CgroupParent,
		Memory: r.Memory, MemorySwap: r.MemorySwap, CPUShares: r.CPUShares, CPUPeriod: r.CPUPeriod, CPUQuota: r.CPUQuota,
		CpusetCpus: r.CPUSetCPUs, CpusetMems: r.CPUSetMems, Init: c.Spec.Init,
		Annotations: c.Annotations, SecurityOpt: securityOptions(c.Spec), inspectedConfinement: confinement(c),
	}
	h.Runtime, h.VolumeDriver = "builder", "local"
	h.ContainerIDFile, h.PublishAllPorts = given.CIDFile, given.PublishAll == "true"
	h.MaskedPaths, h.ReadonlyPaths = c.Spec.ProtectedPaths()
	for _, m := range c.Mounts {
		if m.Type == supervisor.MountTmpfs && !requested[m.Target] {
			if h.Tmpfs == nil {
				h.Tmpfs = map[string]string{}
			}
			h.Tmpfs[m.Target] = tmpfsText(m)
		}
	}
	if h.ShmSize == 0 {
		h.ShmSize = 64 << 20
	}
	if c.Log.MaxSize != 0 {
		h.LogConfig.Config["max-size"] = strconv.FormatInt(c.Log.MaxSize, 10)
	}
	if c.Log.MaxFile != 0 {
		h.LogConfig.Config["max-file"] = strconv.Itoa(c.Log.MaxFile)
	}
	if r.CPUQuota > 0 && r.CPUPeriod == cpuPeriod && given.CPUQuota+given.CPUPeriod == "" {
		// By --cpus, which docker shows as such.
		h.NanoCPUs, h.CPUQuota, h.CPUPeriod = r.CPUQuota*1e9/r.CPUPeriod, 0, 0
	}
	for _, l := range c.Spec.Rlimits {
		h.Ulimits = append(h.Ulimits, inspectedUlimit{l.Name, l.Hard, l.Soft})
	}
	for _, s := range c.Spec.DNS.Servers {
		h.DNS = append(h.DNS, s.String())
	}
	for _, host := range c.Spec.Hosts {
		address := "host-gateway"
		if !host.Gateway {
			address = host.IP.String()
		}
		h.ExtraHosts = append(h.ExtraHosts, host.Name+":"+address)
	}
	if c.Endpoint != nil {
		for _, conn := range c.Endpoint.Connections {
			format := "%s:%s"
			if conn.Network == network.Default {
				format = "/%s:/" + c.Name + "/%s"
			}
			h.Links = append(h.Links, linkTexts(records, conn, format)...)
		}
		for _, p := range c.Endpoint.Ports {
			b := inspectedBinding{HostPort: strconv.Itoa(int(p.HostPort))}
			if p.HostLast > 0 {
				b.HostPort += fmt.Sprintf("-%d", p.HostLast)
			}
			if p.HostIP.IsValid() {
				b.HostIP = p.HostIP.String()
			}
			key := fmt.Sprintf("%d/%s", p.Container, p.Protocol)
			h.PortBindings[key] = append(h.PortBindings[key], b)
		}
	}
	in.HostConfig = h
}

// flagsGiven are flags that a container was made with; those that weren't given are empty.
type flagsGiven struct {
	CIDFile    string   `json:"cidfile"`
	PublishAll string   `json:"publish-all"`
	CPUPeriod  string   `json:"cpu-period"`
	CPUQuota   string   `json:"cpu-quota"`
	Mounts     []string `json:"mount"`
}

func givenFlags(c supervisor.Config) (f flagsGiven) {
	_ = json.Unmarshal(c.Options, &f) // others have none
	return f
}

// requested are the places of what --mount asked for.
func (f flagsGiven) requested() map[string]bool {
	targets := map[string]bool{}
	for _, text := range f.Mounts {
		if m, err := parseMount(text); err == nil {
			targets[m.Target] = true
		}
	}
	return targets
}

func (in *inspectedContainer) mounts(records supervisor.Records, c supervisor.Config, requested map[string]bool) {
	bind := func(m supervisor.Mount) {
		if requested[m.Target] {
			in.HostConfig.Mounts = append(in.HostConfig.Mounts, inspectedRequest{m.Type, m.Source, m.Target, m.ReadOnly})
		} else {
			in.HostConfig.Binds = append(in.HostConfig.Binds, bindText(m))
		}
	}
	for _, m := range c.Mounts {
		im := inspectedMount{Type: m.Type, Source: m.Source, Destination: m.Target, RW: !m.ReadOnly, Propagation: m.Propagation}
		switch m.Type {
		case supervisor.MountBind:
			im.Propagation = first(m.Propagation, "rprivate")
			bind(m)
		case supervisor.MountVolume:
			im.Name, im.Driver, im.Source = m.Source, "local", ""
			if vol, err := records.Volumes().Get(m.Source); err == nil {
				im.Source = vol.Dir
			}
			if !m.Anonymous || requested[m.Target] {
				bind(m)
			}
		case supervisor.MountTmpfs, supervisor.MountImage:
			if requested[m.Target] {
				bind(m)
			}
		}
		if m.ReadOnly {
			im.Mode = "ro"
		}
		in.Mounts = append(in.Mounts, im)
	}
}

// tmpfsText is a tmpfs as --tmpfs writes it.
func tmpfsText(m supervisor.Mount) string {
	var words []string
	if m.ReadOnly {
		words = append(words, "ro")
	}
	if m.Exec {
		words = append(words, "exec")
	}
	if m.Suid {
		words = append(words, "suid")
	}
	if m.Device {
		words = append(words, "dev")
	}
	if m.NoAtime {
		words = append(words, "noatime")
	}
	if m.Propagation != "" {
		words = append(words, m.Propagation)
	}
	if m.Size > 0 {
		words = append(words, fmt.Sprintf("size=%d", m.Size))
	}
	if m.Inodes != "" {
		words = append(words, "nr_inodes="+m.Inodes)
	}
	if m.Mode != 0 {
		words = append(words, fmt.Sprintf("mode=%o", m.Mode))
	}
	return strings.Join(words, ",")
}

// linkTexts are the links of a network, each by a format of the other's name and the
// alias.
func linkTexts(records supervisor.Records, conn network.Connection, format string) (out []string) {
	for alias, to := range conn.Links {
		if other, err := records.Find(to); err == nil {
			to = other.Name
		}
		out = append(out, fmt.Sprintf(format, to, alias))
	}
	slices.Sort(out)
	return out
}

// bindText is a mount as -v writes it.
func bindText(m supervisor.Mount) string {
	text := m.Source + ":" + m.Target
	if m.ReadOnly {
		text += ":ro"
	}
	return text
}

func (in *inspectedContainer) network(records supervisor.Records, c supervisor.Container) {
	n := inspectedNetworkSettings{Ports: map[string][]inspectedBinding{}, Networks: map[string]inspectedEndpoint{}}
	for _, p := range c.Exposed {
		n.Ports[p] = nil
	}
	if c.Endpoint != nil {
		for _, conn := range c.Endpoint.Connections {
			n.Networks[conn.Network] = endpointOf(records, c.Config, conn)
		}
	} else {
		n.Networks[c.NetworkMode] = inspectedEndpoint{}
	}
	if c.State.Alive() {
		n.SandboxKey = fmt.Sprintf("/proc/%d/ns/net", c.State.Pid)
	}
	if att := c.State.Network; att != nil && c.State.Alive() {
		for i, on := range att.Connected {
			ep := n.Networks[on.Network]
			ep.NetworkID, ep.MacAddress = on.ID, on.MAC
			for j, a := range on.Addrs {
				if a.Is4() {
					ep.IPAddress, ep.IPPrefixLen = a.String(), on.Bits[j]
				} else {
					ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen = a.String(), on.Bits[j]
				}
			}
			for _, g := range on.Gateways {
				if g.Is4() {
					ep.Gateway = g.String()
				} else {
					ep.IPv6Gateway = g.String()
				}
			}
			n.Networks[on.Network] = ep
			if i == 0 {
				n.IPAddress, n.IPPrefixLen, n.Gateway, n.MacAddress = ep.IPAddress, ep.IPPrefixLen, ep.Gateway, ep.MacAddress
				n.GlobalIPv6Address, n.GlobalIPv6PrefixLen, n.IPv6Gateway = ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen, ep.IPv6Gateway
			}
		}
		for _, p := range att.Ports {
			key := fmt.Sprintf("%d/%s", p.Container, p.Protocol)
			for _, host := range p.Bindings() {
				n.Ports[key] = append(n.Ports[key], inspectedBinding{host.Addr().String(), strconv.Itoa(int(host.Port()))})
			}
		}
	}
	in.NetworkSettings = n
}

// endpointOf is what is known of a container on a network before it runs.
func endpointOf(records supervisor.Records, c supervisor.Config, conn network.Connection) inspectedEndpoint {
	ep := inspectedEndpoint{Aliases: conn.Aliases, GwPriority: conn.GatewayPriority, Links: linkTexts(records, conn, "%s:%s")}
	if conn.Network != network.Default {
		ep.DNSNames = append(append([]string{c.Name}, conn.Aliases...), c.ID[:12])
		if c.Spec.Hostname != "" && !slices.Contains(ep.DNSNames, c.Spec.Hostname) {
			ep.DNSNames = append(ep.DNSNames, c.Spec.Hostname)
		}
	}
	if conn.IP.IsValid() || conn.IP6.IsValid() {
		ep.IPAMConfig = &inspectedIPAMConfig{}
		if conn.IP.IsValid() {
			ep.IPAMConfig.IPv4Address = conn.IP.String()
		}
		if conn.IP6.IsValid() {
			ep.IPAMConfig.IPv6Address = conn.IP6.String()
		}
	}
	return ep
}
