// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"

	"builder/build"
	"builder/cdi"
	"builder/container"
	"builder/network"
	"builder/supervisor"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// runFlags are the flags about RUN steps.
type runFlags struct {
	network, shmSize, cgroupParent, cdiDir string

	addHosts, ulimits, allow, env, devices, volumes []string

	dnsFlags

	capAdd, capDrop, securityOpt []string

	resourceFlags
}

// dnsFlags are the flags about /etc/resolv.conf.
type dnsFlags struct{ dns, dnsSearch, dnsOption []string }

func (f *dnsFlags) addFlags(fs *pflag.FlagSet) {
	fs.StringArrayVar(&f.dns, "dns", nil, "`IP` of a name server, in the place of this machine's")
	fs.StringArrayVar(&f.dnsSearch, "dns-search", nil, "`DOMAIN` in which names are looked up, . for none")
	fs.StringArrayVar(&f.dnsOption, "dns-option", nil, "`OPTION` of resolv.conf")
}

func (f *runFlags) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&f.network, "network", "default", "network of RUN: `default|host|none` or the name of one")
	fs.StringArrayVar(&f.allow, "allow", nil, "let the Dockerfile have `security.insecure|network.host|device[=NAME]|secret.leak|buildx.local.delete`")
	fs.StringArrayVar(&f.addHosts, "add-host", nil, "further line of /etc/hosts, `NAME:IP`")
	f.dnsFlags.addFlags(fs)
	fs.StringVar(&f.shmSize, "shm-size", "", "size of /dev/shm, such as 64m")
	fs.StringArrayVar(&f.ulimits, "ulimit", nil, "resource limit, `NAME=SOFT[:HARD]`")
	fs.StringVar(&f.cgroupParent, "cgroup-parent", "", "control group below which RUN steps run")
	fs.StringArrayVar(&f.env, "env", nil, "set a variable of every stage, `NAME[=VALUE]`, without a value the environment's")
	fs.StringArrayVar(&f.devices, "device", nil, "device for RUN, `PATH[:TARGET][:rwm]` or the name of a CDI device")
	fs.StringVar(&f.cdiDir, "cdi-config-dir", "", "`DIR`ectory of CDI specifications (default /etc/cdi and /var/run/cdi)")
	fs.StringArrayVarP(&f.volumes, "volume", "v", nil, "mount a directory or file of this machine in RUN, `PATH:TARGET[:ro|rw|O]`")
	fs.StringArrayVar(&f.capAdd, "cap-add", nil, "give RUN a `CAPABILITY`")
	fs.StringArrayVar(&f.capDrop, "cap-drop", nil, "take a `CAPABILITY` away from RUN")
	fs.StringArrayVar(&f.securityOpt, "security-opt", nil, "confinement of RUN: `no-new-privileges|seccomp=unconfined|seccomp=FILE`")
	f.resourceFlags.addFlags(fs)
}

// resolve reads the flags; flag names the one that is wrong.
func (f *runFlags) resolve(e *env, opts *build.Options) (flag string, err error) {
	run := &opts.Run
	run.Network, run.CgroupParent = f.network, f.cgroupParent
	if run.Network == "default" && e.getenv("BUILDER_NETWORK") == "none" {
		run.Network = "none" // the others are no part of a step's identity
	}
	if err := e.checkBuildNetwork(run.Network); err != nil {
		return "network", err
	}
	if opts.Allow, err = parseAllow(f.allow); err != nil {
		return "allow", err
	}
	if f.shmSize != "" {
		if run.ShmSize, err = units.RAMInBytes(f.shmSize); err != nil {
			return "shm-size", err
		}
		if run.ShmSize <= 0 {
			return "shm-size", fmt.Errorf("%q: want more than 0", f.shmSize)
		}
	}
	if run.Rlimits, err = parseUlimits(f.ulimits); err != nil {
		return "ulimit", err
	}
	if run.Hosts, err = parseHosts(f.addHosts); err != nil {
		return "add-host", err
	}
	if run.Resources, flag, err = f.resourceFlags.resolve(); err != nil {
		return flag, err
	}
	if opts.Env, err = parseStageEnv(e, f.env); err != nil {
		return "env", err
	}
	if flag, err = f.resolveDNS(&run.DNS); err != nil {
		return flag, err
	}
	opts.Devices = cdiRegistry(f.cdiDir)
	return f.confine(run)
}

// checkBuildNetwork reports an error unless RUN steps can be on a network.
func (e *env) checkBuildNetwork(name string) error {
	switch {
	case name == "default" || name == "host" || name == "none":
		return nil
	case name == network.Default:
		return fmt.Errorf("%q: it is the default, and not named", name)
	case name == "" || strings.HasPrefix(name, "container:"):
		return fmt.Errorf("%q: want default, host, none or the name of a network", name)
	}
	s, err := e.store()
	if err != nil {
		return err
	}
	_, err = supervisor.NewRecords(s).Networks().Find(name)
	return err
}

// cdiRegistry is that of a directory or, for "", of the usual ones.
func cdiRegistry(dir string) *cdi.Registry {
	if dir == "" {
		return cdi.NewRegistry()
	}
	return cdi.NewRegistry(dir)
}

// parseStageEnv reads NAME=VALUE and NAME, which means the environment's value
// and nothing without one.
func parseStageEnv(e *env, words []string) ([]string, error) {
	var out []string
	for _, w := range words {
		name, _, ok := strings.Cut(w, "=")
		if name == "" {
			return nil, fmt.Errorf("%q: want NAME or NAME=VALUE", w)
		}
		if !ok {
			v, given := lookupEnv(e, name)
			if !given {
				continue
			}
			w += "=" + v
		}
		out = append(out, w)
	}
	return out, nil
}

func (f *dnsFlags) resolveDNS(dns *container.DNS) (flag string, err error) {
	for _, w := range f.dns {
		ip, err := netip.ParseAddr(w)
		if err != nil {
			return "dns", fmt.Errorf("%q is no IP address", w)
		}
		dns.Servers = append(dns.Servers, ip)
	}
	for flag, words := range map[string][]string{"dns-search": f.dnsSearch, "dns-option": f.dnsOption} {
		for _, w := range words {
			if w == "" || strings.ContainsAny(w, " \t\n") {
				return flag, fmt.Errorf("%q: want one word", w)
			}
		}
	}
	dns.Search, dns.Options = f.dnsSearch, f.dnsOption
	return "", nil
}

// confine reads capabilities, security options, devices and volumes.
func (f *runFlags) confine(run *build.RunOptions) (flag string, err error) {
	for flag, names := range map[string][]string{"cap-add": f.capAdd, "cap-drop": f.capDrop} {
		if err := container.CheckCaps(names); err != nil {
			return flag, err
		}
	}
	run.CapAdd, run.CapDrop = f.capAdd, f.capDrop
	for _, opt := range f.securityOpt {
		if err := securityOption(opt, &run.Seccomp, &run.NoNewPrivileges); err != nil {
			return "security-opt", err
		}
	}
	for _, w := range f.devices {
		if strings.Contains(w, "=") {
			run.CDIDevices = append(run.CDIDevices, w)
			continue
		}
		d, err := parseDevice(w)
		if err != nil {
			return "device", err
		}
		run.Devices = append(run.Devices, d)
	}
	for _, w := range f.volumes {
		v, err := parseBuildVolume(w)
		if err != nil {
			return "volume", err
		}
		run.Volumes = append(run.Volumes, v)
	}
	return "", nil
}

// securityOption reads a value of --security-opt.
func securityOption(opt string, seccomp *string, noNewPrivileges *bool) error {
	name, value, _ := strings.Cut(opt, "=")
	switch {
	case opt == "no-new-privileges" || opt == "no-new-privileges=true":
		*noNewPrivileges = true
	case opt == "no-new-privileges=false":
		*noNewPrivileges = false
	case name == "seccomp" && value == "unconfined":
		*seccomp = value
	case name == "seccomp" && value == "builtin":
		*seccomp = ""
	case name == "seccomp" && value != "":
		if _, err := os.ReadFile(value); err != nil {
			return fmt.Errorf("seccomp profile: %w", err)
		}
		path, err := filepath.Abs(value)
		*seccomp = path
		return err
	case opt == "label=disable" || opt == "apparmor=unconfined":
		// Nothing else is ever done.
	default:
		return fmt.Errorf("%q is not supported: want no-new-privileges, seccomp=unconfined or seccomp=FILE", opt)
	}
	return nil
}

// parseDevice reads PATH[:TARGET][:rwm].
func parseDevice(word string) (container.Device, error) {
	parts := strings.Split(word, ":")
	d, err := container.HostDevice(parts[0])
	if err != nil {
		return d, fmt.Errorf("%q: %w", word, err)
	}
	for _, part := range parts[1:] {
		switch {
		case strings.HasPrefix(part, "/"):
			d.Path = part
		case part != "" && strings.Trim(part, "rwm") == "":
			d.Access = part
		default:
			return d, fmt.Errorf("%q: %q is neither a path nor some of r, w and m", word, part)
		}
	}
	if len(parts) > 3 {
		return d, fmt.Errorf("%q: want PATH[:TARGET][:rwm]", word)
	}
	if !strings.HasPrefix(path.Clean(d.Path), "/dev/") {
		return d, fmt.Errorf("%q: a device can only be below /dev: give it a place there, %s:/dev/NAME", word, parts[0])
	}
	return d, nil
}

// parseBuildVolume reads PATH:TARGET[:OPTION[,OPTION]].
func parseBuildVolume(word string) (build.Volume, error) {
	parts := strings.Split(word, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return build.Volume{}, fmt.Errorf("%q: want PATH:TARGET[:OPTIONS]", word)
	}
	v := build.Volume{Source: parts[0], Target: path.Clean(parts[1])}
	switch {
	case !filepath.IsAbs(v.Source):
		return v, fmt.Errorf("%q: %q is not an absolute path, and builds have no named volumes", word, v.Source)
	case !path.IsAbs(parts[1]) || v.Target == "/":
		return v, fmt.Errorf("%q: %q is no place to mount on: want an absolute path", word, parts[1])
	}
	if _, err := os.Stat(v.Source); err != nil {
		return v, err
	}
	if len(parts) < 3 {
		return v, nil
	}
	for opt := range strings.SplitSeq(parts[2], ",") {
		switch opt {
		case "ro":
			v.ReadOnly = true
		case "rw":
			v.ReadOnly = false
		case "O":
			v.Scratch = true
		case "z", "Z":
			if _, err := os.Stat("/sys/fs/selinux/enforce"); err == nil {
				return v, fmt.Errorf("%q: option %s: labels of SELinux, which this machine has, are not set", word, opt)
			}
		case "U":
			return v, fmt.Errorf("%q: option U is not supported: builder changes no owners on this machine, use chown(1)", word)
		default:
			return v, fmt.Errorf("%q: option %q is not supported: want ro, rw or O", word, opt)
		}
	}
	return v, nil
}

func parseUlimits(words []string) ([]container.Rlimit, error) {
	var out []container.Rlimit
	for _, w := range words {
		u, err := units.ParseUlimit(w)
		if err != nil {
			return nil, err
		}
		out = append(out, container.Rlimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	return out, nil
}

// parseHosts reads NAME:IP and NAME=IP. host-gateway is this machine, seen
// from the network that it shares with its containers.
func parseHosts(words []string) ([]container.Host, error) {
	var out []container.Host
	for _, w := range words {
		i := strings.IndexAny(w, ":=")
		if i <= 0 {
			return nil, fmt.Errorf("%q: want NAME:IP", w)
		}
		host := container.Host{Name: w[:i]}
		text := strings.Trim(w[i+1:], "[]")
		if text == "host-gateway" {
			host.Gateway = true
			out = append(out, host)
			continue
		}
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("%q: %q is no IP address", w, text)
		}
		host.IP = ip
		out = append(out, host)
	}
	return out, nil
}
