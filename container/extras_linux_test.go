// SPDX-License-Identifier: Apache-2.0

package container

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"builder/internal/sys"
	"builder/mount"
)

// TestFurtherDevices gives devices beside the default ones, under both ways of
// deciding who may open what.
func TestFurtherDevices(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		for _, noProgram := range []bool{false, true} {
			h, err := theHost()
			must(t, err)
			h.mu.Lock()
			h.cgroups.noProgram = noProgram
			h.mu.Unlock()
			spec := newSpec(t, "stat", "/dev/a/loop", ";", "try", "r", "/dev/a/loop", "/dev/null", ";", "try", "rw", "/dev/a/loop", ";", "mknod", "c", "10", "229")
			spec.Devices = []Device{
				{Path: "/dev/a/loop", Type: 'c', Major: 10, Minor: 237, Mode: 0o640, UID: 3, GID: 4, Access: "r"},
				{Path: "/dev/full", Type: 'c', Major: 1, Minor: 7},
			}
			got := run.ok(t, spec)
			want := "20640 3 4 2797\n/dev/a/loop ok\n/dev/null ok\n/dev/a/loop EPERM\nmknod ok open EPERM\n"
			if got != want {
				t.Errorf("without a program %v: got\n%s\nwant\n%s", noProgram, got, want)
			}
			h.mu.Lock()
			h.cgroups.noProgram = false
			h.mu.Unlock()
		}
		for _, d := range []Device{{Path: "/x", Type: 'c'}, {Path: "/dev/../x", Type: 'c'}, {Path: "/dev/x", Type: 'p'}, {Path: "/dev/x", Type: 'c', Access: "x"}} {
			spec := newSpec(t, "exit", "0")
			spec.Devices = []Device{d}
			if _, err := run.start(t.Context(), spec); exitCode(t, err) != 125 {
				t.Errorf("device %+v: %v", d, err)
			}
		}
	})
}

func TestHostDevice(t *testing.T) {
	d, err := HostDevice("/dev/null")
	if err != nil || d.Path != "/dev/null" || d.Type != 'c' || d.Major != 1 || d.Minor != 3 || d.Access != "" {
		t.Errorf("/dev/null is %+v, %v", d, err)
	}
	for _, name := range []string{"/dev", "/dev/no-such-device", "/etc/passwd"} {
		if d, err := HostDevice(name); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is %+v, %v", name, d, err)
		}
	}
}

// TestAmbientCaps gives another user than root the capabilities, over an
// execve.
func TestAmbientCaps(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		for _, user := range []string{"0", "1000"} {
			spec := newSpec(t, "cat", "/proc/self/status")
			spec.User, spec.AmbientCaps = user, true
			spec.CapDrop, spec.CapAdd = []string{"ALL"}, []string{"CHOWN", "KILL"}
			status := run.ok(t, spec)
			for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
				if got := field(status, set); got != "0000000000000021" {
					t.Errorf("user %s: %s is %q", user, set, got)
				}
			}
		}
	})
}

func TestDNS(t *testing.T) {
	const text = "# ours\nnameserver 192.0.2.1\nsearch a b\ndomain c\noptions ndots:2"
	one := []netip.Addr{netip.MustParseAddr("192.0.2.7")}
	for _, tc := range []struct {
		dns  DNS
		want string
	}{
		{DNS{}, text + "\n"},
		{DNS{Servers: one}, "# ours\nsearch a b\ndomain c\noptions ndots:2\nnameserver 192.0.2.7\n"},
		{DNS{Search: []string{"x", "y"}}, "# ours\nnameserver 192.0.2.1\noptions ndots:2\nsearch x y\n"},
		{DNS{Search: []string{"."}}, "# ours\nnameserver 192.0.2.1\noptions ndots:2\n"},
		{DNS{Options: []string{"rotate"}}, "# ours\nnameserver 192.0.2.1\nsearch a b\ndomain c\noptions rotate\n"},
	} {
		if got := string(tc.dns.apply([]byte(text))); got != tc.want {
			t.Errorf("%+v: got %q, want %q", tc.dns, got, tc.want)
		}
	}
}

// TestResources bounds memory, processors and processor time, in whichever
// hierarchy the machine has the controllers.
func TestResources(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		spec := newSpec(t, "cat", "/proc/self/status")
		spec.Resources = Resources{Memory: 1 << 28, MemorySwap: 1 << 29, CPUShares: 512, CPUQuota: 50000, CPUSetCPUs: "0"}
		status := run.ok(t, spec)
		if got := field(status, "Cpus_allowed_list"); got != "0" {
			t.Errorf("processors %q, want 0", got)
		}
	})
	for _, tc := range []struct {
		r    Resources
		word string
	}{
		{Resources{Memory: -1}, "negative"}, {Resources{MemorySwap: 1}, "needs one on memory"},
		{Resources{Memory: 2, MemoryReservation: 3}, "reservation"}, {Resources{BlkioWeight: 9}, "from 10 to 1000"},
		{Resources{MemorySwappiness: new(int64(101))}, "from 0 to 100"}, {Resources{CPUShares: -1}, "negative"},
		{Resources{BlkioDevices: []BlkioDevice{{Weight: 1001}}}, "from 10 to 1000"},
		{Resources{Memory: 2, MemorySwap: 1}, "below that on memory"}, {Resources{Memory: 1, MemorySwap: -2}, "negative"},
	} {
		if err := CheckResources(tc.r); err == nil || !strings.Contains(err.Error(), tc.word) {
			t.Errorf("%+v: %v, want %q", tc.r, err, tc.word)
		}
	}
	got, err := Resources{
		Memory: 100, MemorySwap: 150, MemoryReservation: 50, MemorySwappiness: new(int64(60)), OOMKillDisable: true,
		CPUShares: 1024, CPUPeriod: 1000, CPUQuota: 500, CPUSetCPUs: "0-1", CPUSetMems: "0", Pids: 7, BlkioWeight: 500,
		BlkioDevices: []BlkioDevice{{Major: 8, Minor: 16, Weight: 10, ReadBPS: 1, WriteBPS: 2, ReadIOPS: 3, WriteIOPS: 4}},
	}.controllers()
	must(t, err)
	var v2, v1 []string
	for _, c := range got {
		for _, s := range c.v2 {
			for ; s.instead != nil; s = *s.instead {
				v2 = append(v2, s.file+"="+s.value)
			}
			v2 = append(v2, s.file+"="+s.value)
		}
		for _, s := range c.v1 {
			v1 = append(v1, s.file+"="+s.value)
		}
	}
	const want2 = "memory.max=100 memory.swap.max=50 memory.low=50 cpu.weight=39 cpu.max=500 1000 cpuset.cpus=0-1 cpuset.mems=0 pids.max=7 " +
		"io.bfq.weight=500 io.weight=default 4950 io.bfq.weight=8:16 10 io.weight=8:16 1 " +
		"io.max=8:16 rbps=1 io.max=8:16 wbps=2 io.max=8:16 riops=3 io.max=8:16 wiops=4"
	if strings.Join(v2, " ") != want2 {
		t.Errorf("version 2: %s, want %s", v2, want2)
	}
	const want1 = "memory.limit_in_bytes=100 memory.memsw.limit_in_bytes=150 memory.soft_limit_in_bytes=50 memory.swappiness=60 memory.oom_control=1 " +
		"cpu.shares=1024 cpu.cfs_period_us=1000 cpu.cfs_quota_us=500 cpuset.cpus=0-1 cpuset.mems=0 pids.max=7 " +
		"blkio.weight=500 blkio.weight_device=8:16 10 " +
		"blkio.throttle.read_bps_device=8:16 1 blkio.throttle.write_bps_device=8:16 2 blkio.throttle.read_iops_device=8:16 3 blkio.throttle.write_iops_device=8:16 4"
	if strings.Join(v1, " ") != want1 {
		t.Errorf("version 1: %s, want %s", v1, want1)
	}
	over := Resources{Memory: 1, MemorySwap: 2, Pids: 3, CPUSetCPUs: "0"}.Over(Resources{Memory: 5, Pids: -1, CPUQuota: 9, MemorySwappiness: new(int64(0))})
	if over.Memory != 5 || over.MemorySwap != 2 || over.Pids != -1 || over.CPUQuota != 9 || over.CPUSetCPUs != "0" || *over.MemorySwappiness != 0 {
		t.Errorf("one over the other: %+v", over)
	}
}

// TestMountInside mounts a file and a directory of detached mounts, as a
// kernel must do it that copies nothing of such.
func TestMountInside(t *testing.T) {
	eachCarrier(t, func(t *testing.T, run runner) {
		part := func(name string, make func(path string) error) mount.Mount {
			t.Helper()
			dir, err := mount.FS{Type: "tmpfs"}.Open()
			must(t, err)
			t.Cleanup(func() { dir.Close() })
			must(t, make(sys.FDPath(dir)+"/"+name))
			tree, err := sys.OpenInRoot(dir, name, unix.O_PATH, 0)
			must(t, err)
			t.Cleanup(func() { tree.Close() })
			return mount.Mount{Type: mount.Bind, Inside: dir, Tree: tree}
		}
		file := part("f", func(p string) error { return os.WriteFile(p, []byte("content\n"), 0o640) })
		file.Target, file.ReadOnly, file.NoSuid, file.NoDev, file.NoExec = "/run/it", true, true, true, true
		dir := part("d", func(p string) error { return os.Mkdir(p, 0o755) })
		dir.Target = "/run/dir"
		spec := newSpec(t, "cat", "/run/it", ";", "try", "w", "/run/it", ";", "touch", "/run/dir/new", ";", "ls", "/run/dir", ";", "cat", "/proc/self/mounts")
		spec.Mounts = []mount.Mount{file, dir}
		got := run.ok(t, spec)
		if !strings.HasPrefix(got, "content\n/run/it EROFS\nnew\n") || !strings.Contains(got, " /run/it tmpfs ro,nosuid,nodev,noexec,relatime") || !strings.Contains(got, " /run/dir tmpfs rw,relatime") {
			t.Errorf("got\n%s", got)
		}
	})
}
