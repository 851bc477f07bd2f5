// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"

	"builder/container"
	"builder/store"
	"builder/supervisor"

	"github.com/spf13/pflag"
)

func TestResourceFlags(t *testing.T) {
	disk := blockDevice(t)
	parse := func(args ...string) (spec container.Spec, flag string, err error) {
		var f resourceSpecFlags
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		f.addFlags(fs)
		if err := fs.Parse(args); err != nil {
			return spec, "parse", err
		}
		flag, err = f.fill(&spec, func(string) {})
		return spec, flag, err
	}
	spec, flag, err := parse("-m", "100m", "--memory-reservation=50m", "--memory-swappiness=0", "--cpus=1.5", "-c", "512", "--cpuset-cpus=0", "--pids-limit=0",
		"--blkio-weight=300", "--device-read-bps="+disk.Path+":1mb", "--device-write-iops="+disk.Path+":7", "--blkio-weight-device="+disk.Path+":10",
		"--sysctl=net.core.somaxconn=7", "--oom-score-adj=-5", "--cgroup-parent=/mine", "--cgroupns=host", "--device=/dev/null:/dev/nil:r", "--device-cgroup-rule=a *:7 rm")
	if err != nil {
		t.Fatalf("--%s: %v", flag, err)
	}
	r := spec.Resources
	if r.Memory != 100<<20 || r.MemorySwap != 200<<20 || r.MemoryReservation != 50<<20 || *r.MemorySwappiness != 0 || r.CPUQuota != 150000 || r.CPUPeriod != 100000 ||
		r.CPUShares != 512 || r.CPUSetCPUs != "0" || r.Pids != -1 || r.BlkioWeight != 300 {
		t.Errorf("resources %+v", r)
	}
	want := []container.BlkioDevice{{Weight: 10}, {ReadBPS: 1 << 20}, {WriteIOPS: 7}}
	for i := range want {
		want[i].Major, want[i].Minor = disk.Major, disk.Minor
	}
	if !slices.Equal(r.BlkioDevices, want) {
		t.Errorf("block devices %+v, want %+v", r.BlkioDevices, want)
	}
	if spec.OOMScoreAdj != -5 || spec.CgroupParent != "/mine" || !spec.HostCgroupNS || spec.Sysctls["net.core.somaxconn"] != "7" {
		t.Errorf("spec %+v", spec)
	}
	if len(spec.Devices) != 1 || spec.Devices[0].Path != "/dev/nil" || spec.Devices[0].Access != "r" || spec.DeviceRules[0] != (container.DeviceRule{Type: 'a', Major: -1, Minor: 7, Access: "rm"}) {
		t.Errorf("devices %+v, rules %+v", spec.Devices, spec.DeviceRules)
	}
	for args, flag := range map[string]string{
		"--memory=x": "memory", "--memory-swap=1m": "memory-swap", "--memory=5m": "memory", "--memory-reservation=1k": "memory-reservation", "--memory=20m --memory-swap=10m": "memory-swap", "--memory=10m --memory-reservation=20m": "memory-reservation",
		"--memory-swappiness=101": "memory-swappiness", "--cpus=1 --cpu-quota=5000": "cpus", "--cpus=0.001": "cpus", "--cpus=-1": "cpus", "--cpus=1e9": "cpus", "--cpus=1/2": "cpus",
		"--cpus=99999999999999999999": "cpus", "--cpu-shares=-1": "cpu-shares", "--blkio-weight=5": "blkio-weight",
		"--blkio-weight-device=" + disk.Path + ":5": "blkio-weight-device",
		"--device-read-bps=/dev/null:1mb":           "device-read-bps", "--device-read-bps=/dev/none:1mb": "device-read-bps", "--device-write-bps=x": "device-write-bps",
		"--device-read-iops=" + disk.Path + ":0": "device-read-iops",
		"--sysctl=kernel.panic=1":                "sysctl", "--sysctl=net.ipv4.ip_forward": "sysctl",
		"--oom-score-adj=1001": "oom-score-adj", "--cgroupns=mine": "cgroupns", "--device=/dev/none": "device", "--device=/etc/passwd": "device", "--device=v/c=none": "device",
		"--device=/dev/null:x": "device", "--device-cgroup-rule=c_1:2_rwm": "device-cgroup-rule", "--gpus=none": "gpus", "--gpus=all": "gpus", "--gpus=color=red": "gpus",
	} {
		if _, got, err := parse(strings.Fields(args + " --cdi-config-dir=" + t.TempDir())...); got != flag || err == nil {
			t.Errorf("%s: --%s: %v, want an error about --%s", args, got, err, flag)
		}
	}
}

// blockDevice is one of this machine, or a node made for the test.
func blockDevice(t *testing.T) container.Device {
	t.Helper()
	name := t.TempDir() + "/disk"
	if err := mknodBlock(name, 259, 77); err != nil {
		t.Fatal(err)
	}
	d, err := container.HostDevice(name)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestGPUs(t *testing.T) {
	for text, want := range map[string]string{
		"all": "nvidia.com/gpu=all []", "2": "nvidia.com/gpu=0 nvidia.com/gpu=1 []", `"device=0,3"`: "nvidia.com/gpu=0 nvidia.com/gpu=3 []",
		"device=GPU-1,2": "nvidia.com/gpu=GPU-1 nvidia.com/gpu=2 []", "count=1,driver=nvidia,capabilities=utility": "nvidia.com/gpu=0 [NVIDIA_DRIVER_CAPABILITIES=utility]",
		"driver=nvidia": "nvidia.com/gpu=all []", "0": "error", "x": "error", "a=b": "error", `"`: "error",
	} {
		var env []string
		names, err := parseGPUs(text, func(v string) { env = append(env, v) })
		got := fmt.Sprint(strings.Join(names, " "), " ", env)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %s (%v), want %s", text, got, err, want)
		}
	}
}

// TestRunBounded looks at what containers with bounds see and may do.
func TestRunBounded(t *testing.T) {
	w := newBench(t)
	w.write("cdi/ours.json", `{"cdiVersion": "0.6.0", "kind": "example.com/thing", "containerEdits": {"env": ["ALL=1"]},
		"devices": [{"name": "one", "containerEdits": {"env": ["ONE=1"], "deviceNodes": [{"path": "/dev/one", "type": "c", "major": 1, "minor": 7}],
		"mounts": [{"hostPath": "`+w.dir+`/lib", "containerPath": "/lib/one", "options": ["ro", "bind"]}]}}]}`)
	w.write("lib/file", "of the machine\n")
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-m", "64m", "test/base", "sh", "-c", "tail /dev/zero; echo $?"}, 0, "137\n"},
		{[]string{"--pids-limit", "5", "test/base", "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done 2>/dev/null; echo all"}, 2, ""},
		{[]string{"--cpuset-cpus", "0", "test/base", "nproc"}, 0, "1\n"},
		{[]string{"--oom-score-adj", "77", "test/base", "cat", "/proc/self/oom_score_adj"}, 0, "77\n"},
		{[]string{"--sysctl", "kernel.shmmax=4096", "test/base", "cat", "/proc/sys/kernel/shmmax"}, 0, "4096\n"},
		{[]string{"--network", "none", "--sysctl", "net.ipv4.ip_default_ttl=9", "test/base", "cat", "/proc/sys/net/ipv4/ip_default_ttl"}, 0, "9\n"},
		{[]string{"--sysctl", "net.ipv4.ip_default_ttl=9", "test/base", "true"}, 125, ""},
		{[]string{"--device", "/dev/full:/dev/mine:r", "test/base", "sh", "-c", "head -c 2 /dev/mine | wc -c; echo > /dev/mine"}, 1, "2\n"},
		{[]string{"--device", "example.com/thing=one", "--cdi-config-dir", "cdi", "test/base", "sh", "-c", "echo $ALL$ONE; head -c 1 /dev/one | wc -c; cat /lib/one/file; touch /lib/one/x"}, 1, "11\n1\nof the machine\n"},
		{[]string{"--device-cgroup-rule", "c 10:237 rwm", "test/base", "sh", "-c", "mknod /tmp/k c 10 237; : < /tmp/k && echo opened"}, 0, "opened\n"},
		{[]string{"test/base", "sh", "-c", "mknod /tmp/k c 10 237; : < /tmp/k && echo opened"}, 1, ""},
		{[]string{"--cgroupns", "host", "test/base", "cat", "/proc/self/cgroup"}, 0, "*/builder/"},
		{[]string{"--cgroupns", "host", "--cgroup-parent", "builder-test/mine", "test/base", "cat", "/proc/self/cgroup"}, 0, "*0::/builder-test/mine/"},
	} {
		r := w.run(append([]string{"run", "--rm"}, tc.args...)...)
		word, contains := strings.CutPrefix(tc.want, "*")
		if r.code != tc.code || contains && !strings.Contains(r.stdout, word) || !contains && r.stdout != tc.want {
			t.Errorf("%v: code %d, output %q, want %d and %q\n%s", tc.args, r.code, r.stdout, tc.code, tc.want, r.stderr)
		}
	}
	w.run("run", "--name", "hungry", "-m", "32m", "test/base", "tail", "/dev/zero")
	if st := readState(t, w, "hungry"); !st.OOM || st.ExitCode != 137 {
		t.Errorf("a container that ran out of memory: %+v", st)
	}
	if out := w.ok("events", "--since", "1h", "--until", "0s", "--filter", "event=oom"); !strings.Contains(out, "hungry") {
		t.Errorf("no event tells of it: %s", out)
	}
	w.ok("rm", "hungry")
	w.ok("create", "--name", "shown", "--pids-limit", "7", "--oom-score-adj", "5", "--sysctl", "kernel.shmmax=4096", "--device", "/dev/full:/dev/mine:r", "--device-cgroup-rule", "c 10:* rw",
		"--ipc", "host", "--cgroupns", "host", "--security-opt", "mask=/etc/passwd", "--security-opt", "systempaths=unconfined", "test/base")
	shown := w.ok("inspect", "--format", `{{with .HostConfig}}{{.PidsLimit}} {{.OomScoreAdj}} {{.Sysctls}} {{.Devices}} {{.DeviceCgroupRules}} {{.IpcMode}}/{{.PidMode}} {{.CgroupnsMode}} {{.SecurityOpt}}{{end}}`, "shown")
	if want := "7 5 map[kernel.shmmax:4096] [{/dev/char/1:7 /dev/mine r}] [c 10:* rw] host/ host [mask=/etc/passwd systempaths=unconfined]\n"; shown != want {
		t.Errorf("inspect shows %q, want %q", shown, want)
	}
	w.ok("rm", "shown")
	_ = os.Remove("/sys/fs/cgroup/unified/builder-test/mine")
}

func mknodBlock(name string, major, minor int) error {
	return syscall.Mknod(name, syscall.S_IFBLK|0o600, major<<8|minor)
}

// readState is the state of a container.
func readState(t *testing.T, w *workbench, name string) supervisor.State {
	t.Helper()
	s, err := store.Open(w.root)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := supervisor.NewRecords(s).Find(name)
	if err != nil {
		t.Fatal(err)
	}
	return c.State
}

// FuzzContainerFlagValues holds of the values of flags about resources and
// confinement that what is accepted makes sense.
func FuzzContainerFlagValues(f *testing.F) {
	for _, seed := range []string{
		"1.5", "1e3", "0x1p-2", "c 10:* rwm", "a *:* r", "all", `"device=0,1"`, "count=2,driver=nvidia", "net.ipv4.ip_forward=1", "net/a/../b=1", "kernel.shmmax=1",
		"mask=/a:/b", "unmask=ALL", "unmask=/proc/[", "no-new-privileges:true", "apparmor:x", "label=disable", "seccomp=builtin", "/dev/null:/dev/x:rw",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, word string) {
		if quota, err := parseCPUs(word); err == nil && quota != 0 && quota < 1000 {
			t.Errorf("%q processors are %d microseconds", word, quota)
		}
		if r, err := parseDeviceRule(word); err == nil && (r.Major < -1 || r.Minor < -1 || r.Access == "" || !strings.ContainsRune("abc", rune(r.Type))) {
			t.Errorf("device rule %q is %+v", word, r)
		}
		if names, err := parseGPUs(word, func(string) {}); err == nil && word != "" && len(names) == 0 {
			t.Errorf("--gpus %q is nothing", word)
		}
		if set, err := parseSysctls([]string{word}); err == nil {
			for name := range set {
				if clean := path.Clean(strings.ReplaceAll(name, ".", "/")); strings.HasPrefix(clean, "/") || strings.HasPrefix(clean, "kernel/panic") {
					t.Errorf("a sysctl %q is taken", name)
				}
			}
		}
		var spec container.Spec
		if err := new(securityFlags).option(word, &spec); err == nil {
			for _, p := range append(spec.Mask, spec.Unmask...) {
				if p != "ALL" && (!path.IsAbs(p) || path.Clean(p) == "/") {
					t.Errorf("--security-opt %q has the path %q", word, p)
				}
			}
		}
	})
}
