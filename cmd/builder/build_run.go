// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strings"

	"builder/build"
	"builder/container"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// runFlags are the flags about RUN steps.
type runFlags struct {
	network, shmSize, cgroupParent string

	addHosts, ulimits []string
}

func (f *runFlags) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&f.network, "network", "default", "network of RUN: default, host or none")
	fs.StringArrayVar(&f.addHosts, "add-host", nil, "further line of /etc/hosts, `NAME:IP`")
	fs.StringVar(&f.shmSize, "shm-size", "", "size of /dev/shm, such as 64m")
	fs.StringArrayVar(&f.ulimits, "ulimit", nil, "resource limit, `NAME=SOFT[:HARD]`")
	fs.StringVar(&f.cgroupParent, "cgroup-parent", "", "control group below which RUN steps run")
}

// resolve reads the flags; flag names the one that is wrong.
func (f *runFlags) resolve(run *build.RunOptions) (flag string, err error) {
	run.Network, run.CgroupParent = f.network, f.cgroupParent
	switch f.network {
	case "default", "host", "none":
	default:
		return "network", fmt.Errorf("%q: want default, host or none", f.network)
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
	run.Hosts, err = parseHosts(f.addHosts)
	return "add-host", err
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
			text = "127.0.0.1"
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
