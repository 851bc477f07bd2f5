// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
	"builder/mount"
)

// Resources bound what a container may use of the machine. Zero is no bound.
type Resources struct {
	Memory     int64  `json:"memory,omitempty"`     // bytes
	MemorySwap int64  `json:"memorySwap,omitempty"` // bytes of memory and swap together, -1 for any
	CPUShares  int64  `json:"cpuShares,omitempty"`  // weight, 1024 being usual
	CPUPeriod  int64  `json:"cpuPeriod,omitempty"`  // microseconds
	CPUQuota   int64  `json:"cpuQuota,omitempty"`   // microseconds of a period
	CPUSetCPUs string `json:"cpusetCpus,omitempty"` // such as 0-3,7
	CPUSetMems string `json:"cpusetMems,omitempty"` // memory nodes
}

// setting is a value for a file of a control group.
type setting struct{ file, value string }

// controller is one that has something to set.
type controller struct {
	name   string
	v2, v1 []setting // in order
}

// controllers are those that the resources need, with what to write.
func (r Resources) controllers() ([]controller, error) {
	var out []controller
	add := func(c controller) {
		if len(c.v2) > 0 {
			out = append(out, c)
		}
	}
	memory, err := r.memory()
	if err != nil {
		return nil, err
	}
	add(memory)
	cpu := controller{name: "cpu"}
	if r.CPUShares != 0 {
		// The kernel's two scales, mapped as container runtimes do it.
		shares := min(max(r.CPUShares, 2), 262144)
		cpu.v2 = append(cpu.v2, setting{"cpu.weight", strconv.FormatInt(1+(shares-2)*9999/262142, 10)})
		cpu.v1 = append(cpu.v1, setting{"cpu.shares", strconv.FormatInt(shares, 10)})
	}
	if r.CPUPeriod != 0 || r.CPUQuota != 0 {
		period, quota := r.CPUPeriod, "max"
		if period == 0 {
			period = 100000
		}
		if r.CPUQuota > 0 {
			quota = strconv.FormatInt(r.CPUQuota, 10)
		}
		cpu.v2 = append(cpu.v2, setting{"cpu.max", fmt.Sprintf("%s %d", quota, period)})
		cpu.v1 = append(cpu.v1, setting{"cpu.cfs_period_us", strconv.FormatInt(period, 10)})
		if r.CPUQuota != 0 {
			cpu.v1 = append(cpu.v1, setting{"cpu.cfs_quota_us", strconv.FormatInt(r.CPUQuota, 10)})
		}
	}
	add(cpu)
	cpuset := controller{name: "cpuset"}
	if r.CPUSetCPUs != "" {
		cpuset.v2 = append(cpuset.v2, setting{"cpuset.cpus", r.CPUSetCPUs})
	}
	if r.CPUSetMems != "" {
		cpuset.v2 = append(cpuset.v2, setting{"cpuset.mems", r.CPUSetMems})
	}
	cpuset.v1 = cpuset.v2
	add(cpuset)
	return out, nil
}

func (r Resources) memory() (controller, error) {
	c := controller{name: "memory"}
	switch {
	case r.Memory < 0 || r.MemorySwap < -1:
		return c, errors.New("a negative bound on memory")
	case r.MemorySwap != 0 && r.Memory == 0:
		return c, errors.New("a bound on swap needs one on memory")
	case r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return c, errors.New("the bound on memory and swap together is below that on memory")
	case r.Memory == 0:
		return c, nil
	}
	bytes := strconv.FormatInt(r.Memory, 10)
	c.v2 = []setting{{"memory.max", bytes}}
	c.v1 = []setting{{"memory.limit_in_bytes", bytes}}
	switch {
	case r.MemorySwap == -1:
		c.v2 = append(c.v2, setting{"memory.swap.max", "max"})
		c.v1 = append(c.v1, setting{"memory.memsw.limit_in_bytes", "-1"})
	case r.MemorySwap > 0:
		c.v2 = append(c.v2, setting{"memory.swap.max", strconv.FormatInt(r.MemorySwap-r.Memory, 10)})
		c.v1 = append(c.v1, setting{"memory.memsw.limit_in_bytes", strconv.FormatInt(r.MemorySwap, 10)})
	}
	return c, nil
}

// limit applies the resources to a new group, which has no process yet: in the
// version 2 hierarchy, or where a controller is bound to version 1 in a twin of
// the group there.
func (c *cgroups) limit(g *cgroup, parent string, spec *Spec) error {
	wanted, err := spec.Resources.controllers()
	if err != nil {
		return err
	}
	for _, want := range wanted {
		errV2 := c.enable(parent, want.name)
		if errV2 == nil {
			if err := set(g.dir, want.v2); err != nil {
				return err
			}
			continue
		}
		root, err := openCgroup1(want.name)
		if err != nil {
			return fmt.Errorf("no %s controller to set bounds with: %w", want.name, errors.Join(errV2, err))
		}
		sweep(root, parent, time.Now())
		twin, err := newCgroup(root, parent, spec.ID)
		if err != nil {
			root.Close()
			return err
		}
		twin.owned = root
		g.v1 = append(g.v1, twin)
		if want.name == "cpuset" {
			// Version 1 has these empty at first, and then takes no process.
			if err := inheritCpuset(root, parent, spec.ID); err != nil {
				return err
			}
		}
		if err := set(twin.dir, want.v1); err != nil {
			return err
		}
	}
	return nil
}

// enable lets groups below parent have a controller, all the way down.
func (c *cgroups) enable(parent, name string) error {
	at := ""
	for _, part := range append([]string{""}, strings.Split(parent, "/")...) {
		at = strings.Trim(at+"/"+part, "/")
		if err := writeFileAt(c.root, strings.Trim(at+"/cgroup.subtree_control", "/"), "+"+name); err != nil {
			return err
		}
	}
	return nil
}

func set(dir *os.File, settings []setting) error {
	for _, s := range settings {
		if err := writeFileAt(dir, s.file, s.value); err != nil {
			if errors.Is(err, fs.ErrNotExist) && strings.Contains(s.file, "sw") {
				continue // no accounting of swap: nothing to bound
			}
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

// openCgroup1 opens the version 1 hierarchy of a controller, which may have
// others beside it (cgroups(7)).
func openCgroup1(name string) (*os.File, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(line, ":", 3)
		if len(fields) < 3 || !slices.Contains(strings.Split(fields[1], ","), name) {
			continue
		}
		m := mount.FS{Type: "cgroup"}
		for key := range strings.SplitSeq(fields[1], ",") {
			m.Options = append(m.Options, mount.Option{Key: key})
		}
		return m.Open()
	}
	return nil, errors.New("this machine doesn't have it in any hierarchy")
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
