// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"builder/container"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// boundNames are the bounds of a container that can be changed while it runs.
var boundNames = []struct{ name, short, usage string }{
	{"memory", "m", "memory that it may use, such as 512m"},
	{"memory-swap", "", "memory and swap together, -1 for any (default twice the memory)"},
	{"memory-reservation", "", "memory that is taken from it last"},
	{"cpus", "", "number of processors' time, such as 1.5"},
	{"cpu-shares", "c", "weight on the processors, 1024 being usual"},
	{"cpu-period", "", "period of the processor quota in microseconds"},
	{"cpu-quota", "", "processor time in a period in microseconds"},
	{"cpuset-cpus", "", "processors that it may run on, such as 0-3,7"},
	{"cpuset-mems", "", "memory nodes that it may use"},
	{"pids-limit", "", "number of processes and threads, -1 for any"},
	{"blkio-weight", "", "weight among those that wait for a disk, 10 to 1000"},
}

// boundFlags are the flags about them.
type boundFlags struct{ values map[string]*string }

func (f *boundFlags) addFlags(fs *pflag.FlagSet) {
	f.values = map[string]*string{}
	for _, n := range boundNames {
		f.values[n.name] = fs.StringP(n.name, n.short, "", n.usage)
	}
}

// resolve reads the flags; flag names the one that is wrong.
func (f *boundFlags) resolve(r *container.Resources) (flag string, err error) {
	for _, n := range boundNames {
		value := *f.values[n.name]
		if value == "" {
			continue
		}
		if err := setResource(r, n.name, value); err != nil {
			return n.name, err
		}
	}
	if *f.values["cpus"] != "" && (*f.values["cpu-period"] != "" || *f.values["cpu-quota"] != "") {
		return "cpus", errors.New("it says the same as --cpu-period and --cpu-quota: give it or them")
	}
	return "", nil
}

// parseCPUs reads a number of processors as processor time in a tenth of a
// second.
func parseCPUs(text string) (quota int64, err error) {
	cpus, ok := new(big.Rat).SetString(text)
	if !ok || cpus.Sign() < 0 || strings.ContainsAny(text, "/eEpPxX_") {
		return 0, errors.New("want a number of processors, such as 1.5")
	}
	micro := cpus.Mul(cpus, big.NewRat(cpuPeriod, 1))
	quota = new(big.Int).Quo(micro.Num(), micro.Denom()).Int64()
	if !micro.IsInt() && quota == 0 || quota > 0 && quota < 1000 || micro.Num().BitLen() > 62 {
		return 0, errors.New("want 0.01 or more processors")
	}
	return quota, nil
}

const cpuPeriod = 100_000 // microseconds, the usual one

// resourceSpecFlags are the flags about what a container may use of the
// machine.
type resourceSpecFlags struct {
	boundFlags

	swappiness, oomScoreAdj int64
	oomKillDisable          bool

	weightDevice, readBPS, writeBPS, readIOPS, writeIOPS []string

	sysctls, devices, deviceRules []string
	gpus, cdiDir                  string
	cgroupParent, cgroupNS        string
}

func (f *resourceSpecFlags) addFlags(fs *pflag.FlagSet) {
	f.boundFlags.addFlags(fs)
	fs.Int64Var(&f.swappiness, "memory-swappiness", -1, "how readily its memory is swapped, 0 to 100")
	fs.BoolVar(&f.oomKillDisable, "oom-kill-disable", false, "let its processes wait for memory and not be killed")
	fs.Int64Var(&f.oomScoreAdj, "oom-score-adj", 0, "how soon it is killed when memory runs out, -1000 to 1000")
	wordsVar(fs, &f.weightDevice, "blkio-weight-device", "weight on one disk, `DEVICE:WEIGHT`")
	wordsVar(fs, &f.readBPS, "device-read-bps", "bytes a second read from a `DEVICE:BYTES`")
	wordsVar(fs, &f.writeBPS, "device-write-bps", "bytes a second written to a `DEVICE:BYTES`")
	wordsVar(fs, &f.readIOPS, "device-read-iops", "reads a second from a `DEVICE:NUMBER`")
	wordsVar(fs, &f.writeIOPS, "device-write-iops", "writes a second to a `DEVICE:NUMBER`")
	wordsVar(fs, &f.sysctls, "sysctl", "kernel parameter of its own, `NAME=VALUE`")
	wordsVar(fs, &f.devices, "device", "device that it may use, `PATH[:TARGET][:rwm]`, or the CDI name VENDOR/CLASS=NAME")
	wordsVar(fs, &f.deviceRules, "device-cgroup-rule", "devices that it may use, by numbers: `\"c MAJOR:MINOR rwm\"`")
	fs.StringVar(&f.gpus, "gpus", "", "graphics processors, `all|NUMBER|device=ID,…`, by their CDI specification")
	fs.StringVar(&f.cdiDir, "cdi-config-dir", "", "`DIR`ectory of CDI specifications (default /etc/cdi and /var/run/cdi)")
	fs.StringVar(&f.cgroupParent, "cgroup-parent", "", "control `GROUP` below which the container's is made")
	fs.StringVar(&f.cgroupNS, "cgroupns", "private", "control groups that it sees: its own or all, `private|host`")
}

// fill sets what the flags say; flag names the one that is wrong.
func (f *resourceSpecFlags) fill(spec *container.Spec, warn func(string)) (flag string, err error) {
	r := &spec.Resources
	if flag, err := f.resolve(r); err != nil {
		return flag, err
	}
	if r.Memory > 0 && r.MemorySwap == 0 {
		r.MemorySwap = 2 * r.Memory // as docker has it
	}
	if f.swappiness != -1 {
		r.MemorySwappiness = &f.swappiness
	}
	if r.OOMKillDisable = f.oomKillDisable; f.oomKillDisable && r.Memory == 0 {
		warn("--oom-kill-disable without --memory lets the container take all memory of the machine")
	}
	if flag, err := f.blkio(r); err != nil {
		return flag, err
	}
	if err := container.CheckResources(*r); err != nil {
		return f.culprit(*r), err
	}
	spec.OOMScoreAdj, spec.CgroupParent = int(f.oomScoreAdj), f.cgroupParent
	if f.oomScoreAdj < -1000 || f.oomScoreAdj > 1000 {
		return "oom-score-adj", fmt.Errorf("%d is not between -1000 and 1000", f.oomScoreAdj)
	}
	switch f.cgroupNS {
	case "private":
	case "host":
		spec.HostCgroupNS = true
	default:
		return "cgroupns", fmt.Errorf("%q: want private or host", f.cgroupNS)
	}
	if spec.Sysctls, err = parseSysctls(f.sysctls); err != nil {
		return "sysctl", err
	}
	return f.fillDevices(spec)
}

// culprit is the flag that a set of bounds is wrong by.
func (f *resourceSpecFlags) culprit(r container.Resources) string {
	switch {
	case container.CheckResources(container.Resources{Memory: r.Memory, MemorySwap: r.MemorySwap}) != nil:
		return "memory-swap"
	case container.CheckResources(container.Resources{Memory: r.Memory, MemoryReservation: r.MemoryReservation}) != nil:
		return "memory-reservation"
	case container.CheckResources(container.Resources{MemorySwappiness: r.MemorySwappiness}) != nil:
		return "memory-swappiness"
	case container.CheckResources(container.Resources{BlkioWeight: r.BlkioWeight}) != nil:
		return "blkio-weight"
	case container.CheckResources(container.Resources{BlkioDevices: r.BlkioDevices}) != nil:
		return "blkio-weight-device"
	}
	return "cpu-shares"
}

// blkio reads the flags about single disks.
func (f *resourceSpecFlags) blkio(r *container.Resources) (flag string, err error) {
	bytes := func(s string) (uint64, error) {
		n, err := units.RAMInBytes(s)
		if err == nil && n <= 0 {
			err = errors.New("it is nothing")
		}
		return uint64(n), err
	}
	number := func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 63) }
	for _, kind := range []struct {
		flag  string
		words []string
		parse func(string) (uint64, error)
		set   func(d *container.BlkioDevice, v uint64)
	}{
		{"blkio-weight-device", f.weightDevice, number, func(d *container.BlkioDevice, v uint64) { d.Weight = int64(v) }},
		{"device-read-bps", f.readBPS, bytes, func(d *container.BlkioDevice, v uint64) { d.ReadBPS = v }},
		{"device-write-bps", f.writeBPS, bytes, func(d *container.BlkioDevice, v uint64) { d.WriteBPS = v }},
		{"device-read-iops", f.readIOPS, number, func(d *container.BlkioDevice, v uint64) { d.ReadIOPS = v }},
		{"device-write-iops", f.writeIOPS, number, func(d *container.BlkioDevice, v uint64) { d.WriteIOPS = v }},
	} {
		for _, w := range kind.words {
			name, value, ok := strings.Cut(w, ":")
			n, err := kind.parse(value)
			if !ok || err != nil || n == 0 {
				return kind.flag, fmt.Errorf("%q: want DEVICE:NUMBER", w)
			}
			host, err := container.HostDevice(name)
			if err != nil {
				return kind.flag, err
			}
			if host.Type != 'b' {
				return kind.flag, fmt.Errorf("%s is no block device", name)
			}
			d := container.BlkioDevice{Major: host.Major, Minor: host.Minor}
			kind.set(&d, n)
			r.BlkioDevices = append(r.BlkioDevices, d)
		}
	}
	return "", nil
}

func parseSysctls(words []string) (map[string]string, error) {
	if len(words) == 0 {
		return nil, nil
	}
	out := map[string]string{}
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return nil, fmt.Errorf("%q: want NAME=VALUE", w)
		}
		if err := container.CheckSysctl(name); err != nil {
			return nil, err
		}
		out[name] = value
	}
	return out, nil
}

// fillDevices reads --device, --device-cgroup-rule and --gpus.
func (f *resourceSpecFlags) fillDevices(spec *container.Spec) (flag string, err error) {
	var named []string
	for _, w := range f.devices {
		if isCDIName(w) {
			named = append(named, w)
			continue
		}
		ds, err := parseDevices(w)
		if err != nil {
			return "device", err
		}
		spec.Devices = append(spec.Devices, ds...)
	}
	for _, w := range f.deviceRules {
		rule, err := parseDeviceRule(w)
		if err != nil {
			return "device-cgroup-rule", err
		}
		spec.DeviceRules = append(spec.DeviceRules, rule)
	}
	gpus, err := parseGPUs(f.gpus, func(v string) { spec.Env = append(spec.Env, v) })
	if err != nil {
		return "gpus", err
	}
	if len(named)+len(gpus) == 0 {
		return "", nil
	}
	return addCDI(spec, f.cdiDir, named, gpus)
}

// isCDIName says whether a word is VENDOR/CLASS=NAME and no path.
func isCDIName(w string) bool { return !strings.HasPrefix(w, "/") && strings.Contains(w, "=") }

// parseDevices is parseDevice for a directory too: all devices below it.
func parseDevices(word string) ([]container.Device, error) {
	name, rest, _ := strings.Cut(word, ":")
	if st, err := os.Stat(name); err != nil || !st.IsDir() {
		d, err := parseDevice(word)
		return []container.Device{d}, err
	}
	target, access := name, ""
	for _, part := range strings.Split(rest, ":") {
		switch {
		case strings.HasPrefix(part, "/"):
			target = part
		case strings.Trim(part, "rwm") == "":
			access = part
		default:
			return nil, fmt.Errorf("%q: %q is neither a path nor some of r, w and m", word, part)
		}
	}
	var out []container.Device
	err := filepath.WalkDir(name, func(p string, entry os.DirEntry, err error) error {
		if err != nil || entry.Type()&os.ModeDevice == 0 {
			return err
		}
		d, err := parseDevice(p + ":" + target + strings.TrimPrefix(p, name) + ":" + first(access, "rwm"))
		out = append(out, d)
		return err
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("%q: there is no device in that directory", word)
	}
	return out, err
}

var deviceRuleRE = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([acb]) ([0-9]{1,9}|\*):([0-9]{1,9}|\*) ([rwm]{1,3})$`)
})

// parseDeviceRule reads "c 10:* rwm".
func parseDeviceRule(text string) (container.DeviceRule, error) {
	m := deviceRuleRE().FindStringSubmatch(text)
	if m == nil {
		return container.DeviceRule{}, fmt.Errorf("%q: want \"TYPE MAJOR:MINOR ACCESS\", such as \"c 10:* rwm\"", text)
	}
	number := func(s string) int {
		if s == "*" {
			return -1
		}
		n, _ := strconv.Atoi(s) // nine digits fit
		return n
	}
	return container.DeviceRule{Type: m[1][0], Major: number(m[2]), Minor: number(m[3]), Access: m[4]}, nil
}

// gpuKind is the kind of CDI devices that --gpus means.
const gpuKind = "nvidia.com/gpu="

// maxGPUs is more than any machine has.
const maxGPUs = 1024

// parseGPUs reads all, a number, or docker's list of device=, count=, driver=
// and capabilities=.
func parseGPUs(text string, setenv func(string)) (names []string, err error) {
	if text == "" {
		return nil, nil
	}
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return nil, fmt.Errorf("%q: %w", text, err)
	}
	count, key := "", ""
	for _, field := range fields {
		k, value, ok := strings.Cut(field, "=")
		switch {
		case !ok && key == "device": // device=0,1 without quotes around it
			names = append(names, gpuKind+field)
			continue
		case !ok:
			count = field
		case k == "count":
			count = value
		case k == "device":
			for id := range strings.SplitSeq(value, ",") {
				names = append(names, gpuKind+id)
			}
		case k == "driver" && (value == "nvidia" || value == "cdi"):
		case k == "capabilities":
			setenv("NVIDIA_DRIVER_CAPABILITIES=" + value)
		default:
			return nil, fmt.Errorf("%q: unknown option %q: there are count, device, driver=nvidia and capabilities", text, field)
		}
		key = k
	}
	switch n, err := strconv.Atoi(count); {
	case count == "" && len(names) > 0:
	case count == "all" || count == "-1" || count == "":
		names = append(names, gpuKind+"all")
	case err != nil || n < 1 || n > maxGPUs:
		return nil, fmt.Errorf("%q: want all, a number, or device=ID", text)
	default:
		for i := range n {
			names = append(names, gpuKind+strconv.Itoa(i))
		}
	}
	return names, nil
}
