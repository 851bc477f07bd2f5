// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"builder/container"
)

// dnsFlags are the flags about /etc/resolv.conf.
type dnsFlags struct{ dns, dnsSearch, dnsOption []string }

func (f *dnsFlags) addFlags(fs *pflag.FlagSet) {
	wordsVar(fs, &f.dns, "dns", "`IP` of a name server, in the place of this machine's")
	wordsVar(fs, &f.dnsSearch, "dns-search", "`DOMAIN` in which names are looked up, . for none")
	wordsVar(fs, &f.dnsOption, "dns-option", "`OPTION` of resolv.conf")
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

func lookupEnv(e *env, name string) (string, bool) {
	if v := e.getenv(name); v != "" {
		return v, true
	}
	return os.LookupEnv(name)
}
