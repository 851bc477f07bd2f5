// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"strings"

	"builder/container"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// resourceNames are the bounds on what a RUN step uses. Each is a key of
// --resource and, for Buildah's and docker's sake, a flag.
var resourceNames = []struct{ name, short, usage string }{
	{"memory", "m", "memory of a RUN step, such as 512m"},
	{"memory-swap", "", "memory and swap together, -1 for any"},
	{"cpu-shares", "c", "weight of a RUN step on the processors, 1024 being usual"},
	{"cpu-period", "", "period of the processor quota in microseconds"},
	{"cpu-quota", "", "processor time in a period in microseconds"},
	{"cpuset-cpus", "", "processors for RUN steps, such as 0-3,7"},
	{"cpuset-mems", "", "memory nodes for RUN steps"},
}

// resourceFlags are the flags about the resources of RUN steps.
type resourceFlags struct {
	resources []string
	single    map[string]*string
}

func (f *resourceFlags) addFlags(fs *pflag.FlagSet) {
	wordsVar(fs, &f.resources, "resource", "bound on what a RUN step uses, `NAME=VALUE`: memory=2g, cpu-quota=50000, …")
	f.single = map[string]*string{}
	for _, r := range resourceNames {
		f.single[r.name] = fs.StringP(r.name, r.short, "", r.usage)
	}
}

// resolve reads the flags; flag names the one that is wrong. --resource has
// the last word.
func (f *resourceFlags) resolve() (r container.Resources, flag string, err error) {
	for _, n := range resourceNames {
		value := f.single[n.name]
		if value == nil || *value == "" {
			continue
		}
		if err := setResource(&r, n.name, *value); err != nil {
			return r, n.name, err
		}
	}
	for _, w := range f.resources {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return r, "resource", fmt.Errorf("invalid resource %q, expected key=value", w)
		}
		if err := setResource(&r, strings.TrimSpace(name), strings.TrimSpace(value)); err != nil {
			return r, "resource", err
		}
	}
	flag = "memory"
	if r.MemorySwap != 0 {
		flag = "memory-swap"
	}
	return r, flag, container.CheckResources(r)
}

// leastMemory is docker's for both: with less memory a container is killed while it is
// made.
const leastMemory = 6 << 20

func setResource(r *container.Resources, name, value string) error {
	bytes := map[string]*int64{"memory": &r.Memory, "memory-swap": &r.MemorySwap, "memory-reservation": &r.MemoryReservation}
	numbers := map[string]*int64{
		"cpu-shares": &r.CPUShares, "cpu-period": &r.CPUPeriod, "cpu-quota": &r.CPUQuota, "pids-limit": &r.Pids, "blkio-weight": &r.BlkioWeight,
	}
	texts := map[string]*string{"cpuset-cpus": &r.CPUSetCPUs, "cpuset-mems": &r.CPUSetMems}
	var err error
	switch {
	case bytes[name] != nil && value == "-1" && name == "memory-swap":
		r.MemorySwap = -1
	case bytes[name] != nil:
		*bytes[name], err = units.RAMInBytes(value)
		if n := *bytes[name]; err == nil && name != "memory-swap" && n > 0 && n < leastMemory {
			return fmt.Errorf("%s %s: less than 6m is too little for a container to start", name, value)
		}
	case numbers[name] != nil:
		*numbers[name], err = strconv.ParseInt(value, 10, 64)
	case texts[name] != nil:
		*texts[name] = value
	case name == "cpus":
		r.CPUPeriod = cpuPeriod
		if r.CPUQuota, err = parseCPUs(value); err == nil && r.CPUQuota == 0 {
			r.CPUQuota = -1
		}
	default:
		return fmt.Errorf("unknown resource %q", name)
	}
	if err != nil {
		return fmt.Errorf("invalid value %q for resource %s", value, name)
	}
	if name == "pids-limit" && r.Pids <= 0 {
		r.Pids = -1
	}
	return nil
}
