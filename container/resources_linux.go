// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
	"builder/mount"
)

// Resources bound what a container may use of the machine. Zero is no bound.
type Resources struct {
	Memory            int64  `json:"memory,omitempty"`            // bytes
	MemorySwap        int64  `json:"memorySwap,omitempty"`        // bytes of memory and swap together, -1 for any
	MemoryReservation int64  `json:"memoryReservation,omitempty"` // bytes that are taken from it last
	MemorySwappiness  *int64 `json:"memorySwappiness,omitempty"`  // 0 to 100, of version 1
	OOMKillDisable    bool   `json:"oomKillDisable,omitempty"`    // processes wait for memory, in version 1
	CPUShares         int64  `json:"cpuShares,omitempty"`         // weight, 1024 being usual
	CPUPeriod         int64  `json:"cpuPeriod,omitempty"`         // microseconds
	CPUQuota          int64  `json:"cpuQuota,omitempty"`          // microseconds of a period, negative for any
	CPUSetCPUs        string `json:"cpusetCpus,omitempty"`        // such as 0-3,7
	CPUSetMems        string `json:"cpusetMems,omitempty"`        // memory nodes
	Pids              int64  `json:"pids,omitempty"`              // processes and threads, -1 for any
	// BlkioWeight is a weight among those that wait for a disk, 10 to 1000.
	BlkioWeight  int64         `json:"blkioWeight,omitempty"`
	BlkioDevices []BlkioDevice `json:"blkioDevices,omitempty"`
}

// BlkioDevice bounds the use of one block device.
type BlkioDevice struct {
	Major, Minor uint32
	Weight       int64  `json:",omitempty"` // in the place of BlkioWeight
	ReadBPS      uint64 `json:",omitempty"` // bytes in a second
	WriteBPS     uint64 `json:",omitempty"`
	ReadIOPS     uint64 `json:",omitempty"` // operations in a second
	WriteIOPS    uint64 `json:",omitempty"`
}

// Over is r with what other sets put in its place.
func (r Resources) Over(other Resources) Resources {
	number := func(to *int64, v int64) {
		if v != 0 {
			*to = v
		}
	}
	number(&r.Memory, other.Memory)
	number(&r.MemorySwap, other.MemorySwap)
	number(&r.MemoryReservation, other.MemoryReservation)
	number(&r.CPUShares, other.CPUShares)
	number(&r.CPUPeriod, other.CPUPeriod)
	number(&r.CPUQuota, other.CPUQuota)
	number(&r.Pids, other.Pids)
	number(&r.BlkioWeight, other.BlkioWeight)
	if other.MemorySwappiness != nil {
		r.MemorySwappiness = other.MemorySwappiness
	}
	r.OOMKillDisable = r.OOMKillDisable || other.OOMKillDisable
	if other.CPUSetCPUs != "" {
		r.CPUSetCPUs = other.CPUSetCPUs
	}
	if other.CPUSetMems != "" {
		r.CPUSetMems = other.CPUSetMems
	}
	if len(other.BlkioDevices) > 0 {
		r.BlkioDevices = other.BlkioDevices
	}
	return r
}

// setting is a value for a file of a control group.
type setting struct {
	file, value string
	// wish is what isn't there on every machine: its name for the warning that
	// it has no effect.
	wish string
	// instead is set where the file is not there.
	instead *setting
}

// controller is one that has something to set. Where a version has nothing for
// what is wanted, wishes says so.
type controller struct {
	name     string // of version 2
	nameV1   string // of version 1, "" for the same
	v2, v1   []setting
	noneOfV2 []string // wishes that version 2 can't fulfil
}

func (c controller) wanted() bool { return len(c.v2)+len(c.v1) > 0 }

// controllers are those that the resources need, with what to write.
func (r Resources) controllers() ([]controller, error) {
	var out []controller
	for _, make := range []func() (controller, error){r.memory, r.cpu, r.cpuset, r.pids, r.blkio} {
		c, err := make()
		if err != nil {
			return nil, err
		}
		if c.wanted() {
			out = append(out, c)
		}
	}
	return out, nil
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

func (r Resources) cpu() (controller, error) {
	cpu := controller{name: "cpu"}
	if r.CPUShares < 0 || r.CPUPeriod < 0 {
		return cpu, errors.New("a negative share or period of processors")
	}
	if r.CPUShares != 0 {
		// The kernel's two scales, mapped as container runtimes do it.
		shares := min(max(r.CPUShares, 2), 262144)
		cpu.v2 = append(cpu.v2, setting{file: "cpu.weight", value: decimal(1 + (shares-2)*9999/262142)})
		cpu.v1 = append(cpu.v1, setting{file: "cpu.shares", value: decimal(shares)})
	}
	if r.CPUPeriod == 0 && r.CPUQuota == 0 {
		return cpu, nil
	}
	period, quota := r.CPUPeriod, "max"
	if period == 0 {
		period = 100000
	}
	if r.CPUQuota > 0 {
		quota = decimal(r.CPUQuota)
	}
	cpu.v2 = append(cpu.v2, setting{file: "cpu.max", value: fmt.Sprintf("%s %d", quota, period)})
	cpu.v1 = append(cpu.v1, setting{file: "cpu.cfs_period_us", value: decimal(period)})
	if r.CPUQuota != 0 {
		cpu.v1 = append(cpu.v1, setting{file: "cpu.cfs_quota_us", value: decimal(max(r.CPUQuota, -1))})
	}
	return cpu, nil
}

func (r Resources) cpuset() (controller, error) {
	c := controller{name: "cpuset"}
	if r.CPUSetCPUs != "" {
		c.v2 = append(c.v2, setting{file: "cpuset.cpus", value: r.CPUSetCPUs})
	}
	if r.CPUSetMems != "" {
		c.v2 = append(c.v2, setting{file: "cpuset.mems", value: r.CPUSetMems})
	}
	c.v1 = c.v2
	return c, nil
}

func (r Resources) pids() (controller, error) {
	c := controller{name: "pids"}
	if r.Pids != 0 {
		value := "max"
		if r.Pids > 0 {
			value = decimal(r.Pids)
		}
		c.v2 = []setting{{file: "pids.max", value: value}}
		c.v1 = c.v2
	}
	return c, nil
}

func (r Resources) memory() (controller, error) {
	c := controller{name: "memory"}
	switch {
	case r.Memory < 0 || r.MemorySwap < -1 || r.MemoryReservation < 0:
		return c, errors.New("a negative bound on memory")
	case r.MemorySwap > 0 && r.Memory == 0:
		return c, errors.New("a bound on swap needs one on memory")
	case r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return c, errors.New("the bound on memory and swap together is below that on memory")
	case r.Memory > 0 && r.MemoryReservation > r.Memory:
		return c, errors.New("the reservation of memory is above the bound on it")
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < 0 || *r.MemorySwappiness > 100):
		return c, errors.New("swappiness is a number from 0 to 100")
	}
	const noSwap = "the bound on swap"
	if r.Memory > 0 {
		c.v2 = append(c.v2, setting{file: "memory.max", value: decimal(r.Memory)})
		c.v1 = append(c.v1, setting{file: "memory.limit_in_bytes", value: decimal(r.Memory)})
	}
	switch {
	case r.MemorySwap == -1:
		c.v2 = append(c.v2, setting{file: "memory.swap.max", value: "max", wish: noSwap})
		c.v1 = append(c.v1, setting{file: "memory.memsw.limit_in_bytes", value: "-1", wish: noSwap})
	case r.MemorySwap > 0:
		c.v2 = append(c.v2, setting{file: "memory.swap.max", value: decimal(r.MemorySwap - r.Memory), wish: noSwap})
		c.v1 = append(c.v1, setting{file: "memory.memsw.limit_in_bytes", value: decimal(r.MemorySwap), wish: noSwap})
	}
	if r.MemoryReservation > 0 {
		c.v2 = append(c.v2, setting{file: "memory.low", value: decimal(r.MemoryReservation)})
		c.v1 = append(c.v1, setting{file: "memory.soft_limit_in_bytes", value: decimal(r.MemoryReservation), wish: "the reservation of memory"})
	}
	if r.MemorySwappiness != nil {
		const swappiness = "the swappiness of memory"
		c.v1 = append(c.v1, setting{file: "memory.swappiness", value: decimal(*r.MemorySwappiness), wish: swappiness})
		c.noneOfV2 = append(c.noneOfV2, swappiness)
	}
	if r.OOMKillDisable {
		const wait = "to wait for memory and not be killed"
		c.v1 = append(c.v1, setting{file: "memory.oom_control", value: "1", wish: wait})
		c.noneOfV2 = append(c.noneOfV2, wait)
	}
	return c, nil
}

func (r Resources) blkio() (controller, error) {
	c := controller{name: "io", nameV1: "blkio"}
	weight := func(value int64, device string) error {
		if value < 10 || value > 1000 {
			return errors.New("a weight for block devices is a number from 10 to 1000")
		}
		name, first := "the weight for block devices", "default "
		v1, bfq := "blkio.weight", "blkio.bfq.weight"
		if device != "" {
			first, v1, bfq = device+" ", "blkio.weight_device", "blkio.bfq.weight_device"
		}
		text := strings.TrimPrefix(first, "default ") + decimal(value)
		c.v1 = append(c.v1, setting{file: v1, value: text, instead: &setting{file: bfq, value: text, wish: name}})
		c.v2 = append(c.v2, setting{
			file: "io.bfq.weight", value: text,
			instead: &setting{file: "io.weight", value: first + decimal(1+(value-10)*9999/990), wish: name},
		})
		return nil
	}
	if r.BlkioWeight != 0 {
		if err := weight(r.BlkioWeight, ""); err != nil {
			return c, err
		}
	}
	for _, d := range r.BlkioDevices {
		device := fmt.Sprintf("%d:%d", d.Major, d.Minor)
		if d.Weight != 0 {
			if err := weight(d.Weight, device); err != nil {
				return c, err
			}
		}
		for _, bound := range []struct {
			value  uint64
			v2, v1 string
		}{
			{d.ReadBPS, "rbps", "read_bps"}, {d.WriteBPS, "wbps", "write_bps"}, {d.ReadIOPS, "riops", "read_iops"}, {d.WriteIOPS, "wiops", "write_iops"},
		} {
			if bound.value != 0 {
				c.v2 = append(c.v2, setting{file: "io.max", value: fmt.Sprintf("%s %s=%d", device, bound.v2, bound.value)})
				c.v1 = append(c.v1, setting{file: "blkio.throttle." + bound.v1 + "_device", value: fmt.Sprintf("%s %d", device, bound.value)})
			}
		}
	}
	return c, nil
}

// limit applies the resources to a group: in the version 2 hierarchy, or where
// a controller is bound to version 1 in a twin of the group there. New twins
// have no process; it returns them.
func (c *cgroups) limit(g *cgroup, r Resources, warn func(string)) (made []*cgroup, err error) {
	wanted, err := r.controllers()
	if err != nil {
		return nil, err
	}
	for _, want := range wanted {
		errV2 := c.enable(path.Dir(g.path), want.name)
		if errV2 == nil {
			for _, wish := range want.noneOfV2 {
				warn(fmt.Sprintf("%s has no effect: control groups of version 2 have no such thing", wish))
			}
			if err := set(g.dir, want.v2, warn); err != nil {
				return made, err
			}
			continue
		}
		name := want.name
		if want.nameV1 != "" {
			name = want.nameV1
		}
		twin, isNew, err := c.twin(g, name)
		if err != nil {
			return made, fmt.Errorf("no %s controller to set bounds with: %w", name, errors.Join(errV2, err))
		}
		if isNew {
			made = append(made, twin)
		}
		if err := set(twin.dir, want.v1, warn); err != nil {
			return made, err
		}
	}
	return made, nil
}

// twin finds or makes the group beside g in the version 1 hierarchy of a
// controller.
func (c *cgroups) twin(g *cgroup, name string) (twin *cgroup, isNew bool, err error) {
	root, err := c.hierarchy(name)
	if err != nil {
		return nil, false, err
	}
	for _, have := range g.v1 {
		if have.root == root {
			return have, false, nil
		}
	}
	parent, id := path.Split(g.path)
	parent = strings.TrimSuffix(parent, "/")
	c.sweep(root, parent)
	if twin, err = newCgroup(root, parent, id); err != nil {
		return nil, false, err
	}
	g.v1 = append(g.v1, twin)
	if name == "cpuset" {
		// Version 1 has these empty at first, and then takes no process.
		err = inheritCpuset(root, parent, id)
	}
	return twin, true, err
}

// enable lets groups below parent have a controller, all the way down.
func (c *cgroups) enable(parent, name string) error {
	at := c.base
	below := strings.Trim(strings.TrimPrefix(parent, c.base), "/")
	for _, part := range append([]string{""}, strings.Split(below, "/")...) {
		at = strings.Trim(at+"/"+part, "/")
		control := strings.Trim(at+"/cgroup.subtree_control", "/")
		err := writeFileAt(c.root, control, "+"+name)
		if errors.Is(err, unix.EBUSY) && c.rootless && at == c.base {
			if err = c.vacate(); err == nil {
				err = writeFileAt(c.root, control, "+"+name)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// set writes settings. Where those of a later one depend on an earlier one they
// are in the order for a new group; for a group that has values already the
// other order is tried too, as memory alone can't be bounded above memory and
// swap together.
func set(dir *os.File, settings []setting, warn func(string)) error {
	var err error
	for _, backward := range []bool{false, true} {
		order := settings
		if backward {
			order = slices.Clone(settings)
			slices.Reverse(order)
		}
		if err = setInOrder(dir, order, warn); err == nil || !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return err
}

func setInOrder(dir *os.File, settings []setting, warn func(string)) error {
	for _, s := range settings {
		err := writeFileAt(dir, s.file, s.value)
		for s.instead != nil && errors.Is(err, fs.ErrNotExist) {
			s = *s.instead
			err = writeFileAt(dir, s.file, s.value)
		}
		switch {
		case err == nil:
		case s.wish != "" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP) || s.file == "memory.oom_control"):
			warn(s.wish + " has no effect: this kernel doesn't have it")
		default:
			return fmt.Errorf("%s=%s: %w", s.file, s.value, err)
		}
	}
	return nil
}

// inheritCpuset copies cpus and mems from the top down to a group.
func inheritCpuset(root *os.File, parent, id string) error {
	above := ""
	for part := range strings.SplitSeq(parent+"/"+id, "/") {
		at := strings.Trim(above+"/"+part, "/")
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			have, err := readFileAt(root, at+"/"+file)
			if err != nil {
				return err
			}
			if have != "" {
				continue
			}
			value, err := readFileAt(root, strings.Trim(above+"/"+file, "/"))
			if err != nil {
				return err
			}
			if err := writeFileAt(root, at+"/"+file, value); err != nil {
				return err
			}
		}
		above = at
	}
	return nil
}

// hierarchy opens the version 1 hierarchy of a controller, once.
func (c *cgroups) hierarchy(name string) (*os.File, error) {
	if f := c.v1[name]; f != nil {
		return f, nil
	}
	line, err := hierarchyOf(name)
	if err != nil {
		return nil, err
	}
	for other, f := range c.v1 { // of the same hierarchy
		if slices.Contains(line, other) {
			c.v1[name] = f
			return f, nil
		}
	}
	root := openV1(strings.Join(line, ","))
	if root == nil {
		m := mount.FS{Type: "cgroup"}
		for _, key := range line {
			m.Options = append(m.Options, mount.Option{Key: key})
		}
		if root, err = m.Open(); err != nil {
			return nil, err
		}
	}
	c.v1[name] = root
	return root, nil
}

// hierarchyOf are the controllers of the version 1 hierarchy that has one
// (cgroups(7)).
func hierarchyOf(name string) ([]string, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	for _, list := range all {
		if slices.Contains(list, name) {
			return list, nil
		}
	}
	return nil, errors.New("this machine doesn't have it in any hierarchy")
}

// hierarchies are the controllers of each version 1 hierarchy.
func hierarchies() (out [][]string, err error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(line, ":", 3)
		if len(fields) == 3 && fields[1] != "" && !strings.HasPrefix(fields[1], "name=") {
			out = append(out, strings.Split(fields[1], ","))
		}
	}
	return out, nil
}

func readFileAt(dir *os.File, name string) (string, error) {
	f, err := sys.OpenInRoot(dir, name, unix.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 4096))
	return strings.TrimSpace(string(text)), err
}

// CheckResources reports what can't be meant.
func CheckResources(r Resources) error {
	_, err := r.controllers()
	return err
}
