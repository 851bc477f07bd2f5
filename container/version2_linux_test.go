// SPDX-License-Identifier: Apache-2.0

package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"builder/internal/sys"
)

// group2 is a directory that looks like a group of a machine with all
// controllers in version 2, with empty files of these names.
func group2(t *testing.T, files map[string]string) (*cgroups, *cgroup) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "above/id"), 0o755))
	for _, name := range []string{"cgroup.subtree_control", "above/cgroup.subtree_control"} {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
	}
	for name, text := range files {
		must(t, os.WriteFile(filepath.Join(dir, "above/id", name), []byte(text), 0o644))
	}
	root, err := os.Open(dir)
	must(t, err)
	t.Cleanup(func() { root.Close() })
	g := &cgroup{root: root, path: "above/id"}
	g.dir, err = sys.OpenInRoot(root, g.path, os.O_RDONLY, 0)
	must(t, err)
	t.Cleanup(func() { g.dir.Close() })
	return &cgroups{root: root, v1: map[string]*os.File{}}, g
}

// TestBoundsOfVersion2 writes bounds as a machine wants them that has all
// controllers in version 2. Files stand in for the kernel's: what it makes of
// them is tested where there is one.
func TestBoundsOfVersion2(t *testing.T) {
	files := map[string]string{}
	for _, name := range []string{"memory.max", "memory.low", "cpu.max", "cpu.weight", "cpuset.cpus", "pids.max", "io.weight", "io.max"} {
		files[name] = ""
	}
	c, g := group2(t, files)
	var warned []string
	made, err := c.limit(g, Resources{
		Memory: 1 << 20, MemorySwap: 2 << 20, MemoryReservation: 1 << 19, MemorySwappiness: new(int64(5)), OOMKillDisable: true,
		CPUQuota: 50000, CPUShares: 1024, CPUSetCPUs: "0-1", Pids: -1, BlkioWeight: 1000, BlkioDevices: []BlkioDevice{{Major: 8, ReadBPS: 5}},
	}, func(m string) { warned = append(warned, m) })
	must(t, err)
	for name, want := range map[string]string{
		"memory.max": "1048576", "memory.low": "524288", "cpu.max": "50000 100000", "cpu.weight": "39", "cpuset.cpus": "0-1", "pids.max": "max",
		"io.weight": "default 10000", "io.max": "8:0 rbps=5",
	} {
		if got, err := readAllAt(g.dir, name); err != nil || got != want {
			t.Errorf("%s is %q (%v), want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"cgroup.subtree_control", "above/cgroup.subtree_control"} {
		if got, err := readAllAt(c.root, name); err != nil || !strings.HasPrefix(got, "+") {
			t.Errorf("%s is %q (%v)", name, got, err)
		}
	}
	if len(made) != 0 || len(g.v1) != 0 {
		t.Error("groups of version 1 were made")
	}
	// No swap is counted here, and version 2 has neither of the others.
	if got := strings.Join(warned, "\n"); len(warned) != 3 || !strings.Contains(got, "bound on swap") || !strings.Contains(got, "swappiness") || !strings.Contains(got, "wait for memory") {
		t.Errorf("warnings:\n%s", got)
	}
}

func TestStatsOfVersion2(t *testing.T) {
	_, g := group2(t, map[string]string{
		"cpu.stat": "usage_usec 2500000\nuser_usec 1\n", "cgroup.procs": "", "memory.current": "9000000\n", "memory.stat": "anon 5\ninactive_file 1000000\n", "memory.max": "max\n",
		"pids.current": "7\n", "io.stat": "8:0 rbytes=100 wbytes=20 rios=1\n8:16 rbytes=5 wbytes=0\n", "memory.events": "low 0\noom 2\noom_kill 1\n",
	})
	st, err := Group{g: g}.Stats()
	must(t, err)
	want := Stats{Time: st.Time, CPU: 2500 * time.Millisecond, Memory: 8000000, MemoryLimit: totalMemory(), Pids: 7, DiskRead: 105, DiskWritten: 20}
	if st != want {
		t.Errorf("got %+v, want %+v", st, want)
	}
	if !g.oomKilled() {
		t.Error("a kill for want of memory isn't seen")
	}
	must(t, os.WriteFile(sys.FDPath(g.dir)+"/memory.max", []byte("5000000\n"), 0o644))
	if st, err := (Group{g: g}).Stats(); err != nil || st.MemoryLimit != 5000000 {
		t.Errorf("%+v (%v)", st, err)
	}
}
