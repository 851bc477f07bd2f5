// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"builder/container"
)

// TestWrongRunInput is what may be wrong about mounts, secrets, agents,
// security, networks, devices and the flags about RUN.
func TestWrongRunInput(t *testing.T) {
	w := newBench(t)
	w.write("secret", "a value to be kept")
	w.write("big", strings.Repeat("x", 500<<10+1))
	w.write("cdi/bad.json", "{")
	mount := func(options string) string { return "RUN --mount=" + options + " true" }
	instructions := []struct{ run, word string }{
		{mount("type=nfs,target=/x"), `unsupported mount type "nfs"`},
		{mount("type=cach,target=/x"), "did you mean cache"},
		{mount("type=cache,target=/x,sharing=mine"), `unsupported sharing value "mine"`},
		{mount("type=cache,target=/"), `invalid mount target "/"`},
		{mount("type=cache,target=/x,mode=9"), "invalid value 9 for mode"},
		{mount("type=cache,target=/x,uid=root"), "invalid value root for uid"},
		{mount("type=cache,target=/x,gid=-1"), "invalid value -1 for gid"},
		{mount("type=cache,target=/x,size=1m"), "unexpected key 'size' for mount type 'cache'"},
		{mount("type=cache,target=/x,source=sub"), `"/sub": not found`},
		{mount("type=cache,target=/x,required=true"), "unexpected key 'required' for mount type 'cache'"},
		{mount("type=tmpfs,target=/x,size=much"), "invalid value for size: much"},
		{mount("type=tmpfs,target=/x,mode=0700"), `mode not allowed for "tmpfs" type mounts`},
		{mount("type=tmpfs,target=/x,sharing=locked"), "invalid cache sharing set for tmpfs mount"},
		{mount("type=bind,target=/x,uid=1"), `uid not allowed for "bind" type mounts`},
		{mount("type=bind,target=/x,gid=1"), `gid not allowed for "bind" type mounts`},
		{mount("type=bind,target=/x,source=nothere"), `"/nothere": not found`},
		{mount("type=bind,target=/x,ro=perhaps"), "invalid value for ro: perhaps"},
		{mount("type=bind,target=/x,rw=perhaps"), "invalid value for rw: perhaps"},
		{mount("type=bind,target=/x,form=y"), "unexpected key 'form'"},
		{mount("type=bind,target=/x,form=y"), "did you mean from"},
		{mount("type=bind,target"), "invalid field 'target' must be a key=value pair"},
		{mount("type=bind,target=/proc/x"), `can't mount on "/proc/x"`},
		{mount("type=bind,from=$X,target=/x"), "'from' doesn't support variable expansion"},
		{mount("type=secret"), "one of source, target required"},
		{mount("type=secret,id=a,source=b"), "both source and id can't be set"},
		{mount("type=secret,id=a,from=test/base"), "secret mount should not have a from"},
		{mount("type=secret,id=a,sharing=locked"), "secret mount should not define sharing"},
		{mount("type=secret,id=a,env="), "env of a secret mount needs the name of a variable"},
		{mount("type=secret,id=a,target=/"), `invalid mount target "/"`},
		{mount("type=secret,id=a,required=maybe"), "invalid value for required: maybe"},
		{mount("type=secret,id=a,required"), "secret a: not found"},
		{mount("type=secret,id=a,required"), "--secret id=a,src=FILE"},
		{mount("type=secret,id=a,env=A,required"), "secret a: not found"},
		{mount("type=ssh,source=x"), "ssh does not support source"},
		{mount("type=ssh,target=/"), `invalid mount target "/"`},
		{mount("type=ssh,required"), `no SSH key "default" forwarded from the client`},
		{mount("type=ssh,id=deploy,required=true"), "--ssh deploy[=SOCKET|KEY]"},
		{"RUN --security=insecure true", "security.insecure is not allowed"},
		{"RUN --security=insecure true", "--allow security.insecure"},
		{"RUN --security=none true", `security "none" is not valid`},
		{"RUN --network=mine true", `invalid network mode "mine"`},
		{"RUN --device=acme.example/gpu=0,required true", `required device "acme.example/gpu=0" is not registered`},
		{"RUN --device=name=a,name=b true", "device name already set to a"},
		{"RUN --device=a,need true", "invalid field 'need' must be a key=value pair"},
		{"RUN --device=a,required=maybe true", "invalid value for required: maybe"},
		{"RUN --device=required true", "needs the name of a device"},
	}
	for _, tt := range instructions {
		t.Run(tt.run, func(t *testing.T) {
			w := &workbench{t: t, root: w.root, dir: w.dir}
			w.write("ctx/Dockerfile", "FROM test/base\n"+tt.run+"\n")
			w.fails(1, []string{"Dockerfile:2", ">>> RUN", tt.word}, "build", "ctx")
		})
	}
	w.write("ctx/Dockerfile", "FROM test/base\nRUN --network=host true\nRUN --device=acme.example/gpu=0 true\n")
	w.fails(1, []string{"Dockerfile:2", "network.host is not allowed", "--allow network.host"}, "build", "--network", "none", "ctx")
	w.write("ctx/Dockerfile", "FROM test/base\nRUN --network=default true\nRUN --device=acme.example/gpu=0 true\n")
	w.fails(1, []string{"Dockerfile:3", "CDI specification", "bad.json"}, "build", "--cdi-config-dir", "cdi", "ctx")
	flags := []struct{ flag, value, word string }{
		{"secret", "nothing", "must be a key=value pair"},
		{"secret", "id=a,type=vault", `unsupported secret type "vault"`},
		{"secret", "id=a,file=x", "unexpected key 'file'"},
		{"secret", "src=secret", "secret missing ID"},
		{"secret", "id=a,src=nothere", "no such file"},
		{"secret", "id=a,src=ctx", "is a directory"},
		{"secret", "id=a,src=big", "max size 500KiB"},
		{"secret", `id=a,src="x`, "id=a,src="},
		{"secret", "id=nothere", "no such file"},
		{"ssh", "default=nothere", "no such file"},
		{"allow", "everything", "unknown entitlement everything"},
		{"allow", "network.host=1", "unknown entitlement network.host=1"},
		{"allow", "device=a,b", `invalid device config "b"`},
		{"allow", "device=a,b=c", `unknown device config key "b"`},
		{"network", "mine", "no such network: mine"},
		{"volume", "/tmp", "want PATH:TARGET"},
		{"volume", "name:/x", "not an absolute path"},
		{"volume", "/tmp:x", "no place to mount on"},
		{"volume", "/tmp:/", "no place to mount on"},
		{"volume", "/no/such/dir:/x", "no such file"},
		{"volume", "/tmp:/x:U", "option U is not supported"},
		{"volume", "/tmp:/x:fast", `option "fast" is not supported`},
		{"device", "/dev/nothere", "no such file"},
		{"device", "/etc/passwd", "is not a device"},
		{"device", "/dev/null:/x", "below /dev"},
		{"device", "/dev/null:/dev/x:q", "neither a path nor some of r, w and m"},
		{"cap-add", "FLY", `unknown capability "FLY"`},
		{"cap-drop", "CAP_WALK", `unknown capability "CAP_WALK"`},
		{"security-opt", "label=type:x", `"label=type:x" is not supported`},
		{"security-opt", "apparmor=mine", `"apparmor=mine" is not supported`},
		{"security-opt", "seccomp=nothere", "seccomp profile"},
		{"dns", "name", `"name" is no IP address`},
		{"dns-search", "a b", "want one word"},
		{"dns-option", "", "want one word"},
		{"add-host", "x", "want NAME:IP"},
		{"env", "=x", "want NAME or NAME=VALUE"},
		{"memory", "lots", `invalid value "lots" for resource memory`},
		{"memory-swap", "1g", "needs one on memory"},
		{"resource", "memory", "expected key=value"},
		{"resource", "speed=1", `unknown resource "speed"`},
		{"cpu-quota", "half", `invalid value "half" for resource cpu-quota`},
		{"shm-size", "0", "more than 0"},
		{"ulimit", "nofile", "nofile"},
	}
	for _, tt := range flags {
		t.Run(tt.flag+" "+tt.value, func(t *testing.T) {
			(&workbench{t: t, root: w.root, dir: w.dir}).fails(2, []string{"--" + tt.flag + ":", tt.word}, "build", "--"+tt.flag+"="+tt.value, "ctx")
		})
	}
	if n := len(instructions) + len(flags); n < 80 {
		t.Errorf("%d wrong inputs", n)
	}
}

// TestRunFlags holds what each flag about RUN does to a step.
func TestRunFlags(t *testing.T) {
	w := newBench(t)
	w.write("vol/file", "of the machine")
	vol := filepath.Join(w.dir, "vol")
	tests := []struct {
		name, run string
		args      []string
		want      string
	}{
		{"volume", "cat /v/file; echo x 2>/dev/null > /v/new || echo read-only", []string{"-v", vol + ":/v:ro,z"}, "of the machineread-only\n"},
		{"writable volume", "echo x > /v/new; cat /v/new", []string{"-v", vol + ":/v"}, "x\n"},
		{"volume that keeps nothing", "echo x > /v/scratch; rm /v/file; ls /v", []string{"-v", vol + ":/v:O"}, "new\nscratch\n"},
		{"volume of a file", "cat /v", []string{"-v", vol + "/file:/v"}, "of the machine"},
		{"dns", "cat /etc/resolv.conf | grep -v '^#'", []string{"--dns", "192.0.2.1", "--dns", "2001:db8::1", "--dns-search", "example.org", "--dns-option", "ndots:3"}, "search example.org\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions ndots:3\n"},
		{"add-host", "grep -c -e 192.0.2.7.one -e 127.0.0.1.gw /etc/hosts", []string{"--add-host", "one:192.0.2.7", "--add-host", "gw=host-gateway"}, "2\n"},
		{"cap-add", "grep CapEff /proc/self/status", []string{"--cap-drop", "all", "--cap-add", "CAP_CHOWN", "--cap-add", "kill"}, "CapEff:\t0000000000000021\n"},
		{"cap-drop", "chown 1 /etc/passwd 2>&1 || true", []string{"--cap-drop", "chown"}, "chown: /etc/passwd: Operation not permitted\n"},
		{"no-new-privileges", "grep NoNewPrivs /proc/self/status", []string{"--security-opt", "no-new-privileges"}, "NoNewPrivs:\t1\n"},
		{"seccomp", "grep Seccomp: /proc/self/status", []string{"--security-opt", "seccomp=unconfined", "--security-opt", "label=disable"}, "Seccomp:\t0\n"},
		{"device", "(: < /dev/x/y) && echo opened; (: > /dev/x/y) || echo refused", []string{"--device", "/dev/fuse:/dev/x/y:r"}, "opened\nrefused\n"},
		{"no device", "mknod /k c 10 229; (: < /k) || echo refused; rm /k", nil, "refused\n"},
		{"ulimit", "ulimit -n", []string{"--ulimit", "nofile=100:200"}, "100\n"},
		{"shm-size", "df -k /dev/shm | tail -1 | awk '{print $2}'", []string{"--shm-size", "1m"}, "1024\n"},
		{"network", "ls /sys/class/net", []string{"--network", "none"}, "lo\n"},
		{"env", "echo $A $B $C", []string{"--env", "A=1", "--env", "B=2", "--env", "UNSET_HERE", "--env", "C"}, "1 2 here\n"},
		{"hostname", "hostname", []string{"--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=mine"}, "mine\n"},
		{"cpuset", "nproc", []string{"--cpuset-cpus", "0"}, "1\n"},
		{"memory", "tail /dev/zero; echo $?", []string{"-m", "64m", "--resource", "memory=16m"}, "137\n"},
	}
	t.Setenv("C", "here")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &workbench{t: t, root: w.root, dir: w.dir}
			w.write("ctx/Dockerfile", "FROM test/base\nRUN { "+tt.run+"; } > /out 2>/dev/null\n")
			w.ok(append(append([]string{"build", "-o", "type=tar,dest=out.tar"}, tt.args...), "ctx")...)
			if got := w.fromTar("out.tar", "out"); got != tt.want {
				t.Errorf("the step says %q, want %q", got, tt.want)
			}
		})
	}
	w.write("ctx/Dockerfile", "FROM test/base AS a\nENV A=over\nFROM a\nRUN echo $A $B > /out\n")
	w.ok("build", "--env", "A=1", "--env", "B=2", "-o", "type=tar,dest=out.tar", "ctx")
	if got := w.fromTar("out.tar", "out"); got != "over 2\n" {
		t.Errorf("a stage on another has %q: ENV must hold", got)
	}
	if got, _ := os.ReadDir(vol); len(got) != 2 {
		t.Errorf("the volume has %v, want file and new", got)
	}
}

// TestRunFlagKeys holds what makes a step run again: what BuildKit's key has,
// and what it hasn't does not.
func TestRunFlagKeys(t *testing.T) {
	w := newBench(t)
	build := func(options string, args ...string) int {
		t.Helper()
		w.write("ctx/Dockerfile", "FROM test/base\nRUN "+options+" date > /out\n")
		return w.stats(append(args, "ctx")...)["cached"]
	}
	if n := build("", "--add-host", "a:192.0.2.1"); n != 0 {
		t.Fatalf("the first build has %d steps cached", n)
	}
	for _, tt := range []struct {
		options string
		args    []string
		cached  int
	}{
		{"", []string{"--add-host", "a:192.0.2.2"}, 1},
		{"", []string{"--add-host", "a:192.0.2.1", "--dns", "192.0.2.9", "-m", "1g", "--cgroup-parent", "tests"}, 1},
		{"", []string{"--add-host", "b:192.0.2.1"}, 0},
		{"", nil, 0},
		{"", []string{"--ulimit", "nofile=99"}, 0},
		{"", []string{"--shm-size", "1m"}, 0},
		{"", []string{"--cap-drop", "kill"}, 0},
		{"", []string{"--security-opt", "no-new-privileges"}, 0},
		{"", []string{"--device", "/dev/fuse"}, 0},
		{"", []string{"-v", "/tmp:/mnt"}, 0},
		{"", []string{"--env", "A=1"}, 0},
		{"", []string{"--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=h"}, 0},
		{"--network=none", nil, 0},
		{"--security=insecure", []string{"--allow", "security.insecure"}, 0},
		{"--security=sandbox", nil, 1},
		{"--mount=type=cache,target=/c", nil, 0},
		{"--mount=type=cache,target=/c,id=/c,sharing=shared", nil, 1},
		{"--mount=type=cache,target=/c", []string{"--build-arg", "BUILDKIT_CACHE_MOUNT_NS=ns"}, 0},
		{"--mount=type=cache,target=/c,id=x", nil, 0},
		{"--mount=type=cache,target=/c,id=y,sharing=locked", nil, 1},
		{"--mount=type=cache,target=/c,id=y,mode=0700", nil, 0},
		{"--mount=type=cache,target=/c,id=y,ro", nil, 0},
		{"--mount=type=tmpfs,target=/c", nil, 0},
		{"--mount=type=tmpfs,target=/c,size=1m", nil, 0},
		{"--mount=type=ssh", nil, 0},
		{"--mount=type=ssh,id=x", nil, 0},
	} {
		if n := build(tt.options, tt.args...); n != tt.cached {
			t.Errorf("%s %s: %d steps cached, want %d", tt.options, tt.args, n, tt.cached)
		}
	}
}

// TestWhichCacheIsMounted holds which cache a mount shows. What is wanted was seen with
// BuildKit of August 2026.
func TestWhichCacheIsMounted(t *testing.T) {
	w := newBench(t)
	tests := []struct {
		name  string
		steps []string // each begins with the options of a cache mount
		want  string
	}{
		{"the target names it", []string{"target=/c|touch /c/x", "target=/c|ls /c"}, "x\n"},
		{"the target is cleaned", []string{"target=/d/./e/|touch /d/e/x", "id=/d/e,target=/c|ls /c"}, "x\n"},
		{"an id names it", []string{"id=a,target=/c|touch /c/x", "id=a,target=/d|ls /d"}, "x\n"},
		{"owner and mode make another", []string{"id=b,target=/c,mode=0700,uid=7|touch /c/x; stat -c '%a %u:%g' /c", "id=b,target=/c,mode=0711,uid=7|ls /c; stat -c '%a %u:%g' /c", "id=b,target=/c,uid=7,mode=0700|ls /c", "id=b,target=/c|ls /c; stat -c '%a %u:%g' /c"}, "700 7:0\n711 7:0\nx\n755 0:0\n"},
		{"only permissions of a mode", []string{"id=c,target=/c,mode=6755|stat -c %a /c"}, "755\n"},
		{"read-only", []string{"id=d,target=/c,ro|touch /c/x 2>&1 | grep -o Read-only"}, "Read-only\n"},
		{"from a stage", []string{"id=e,from=base,source=/etc,target=/c|ls /c | head -1; touch /c/x", "id=e,from=base,source=/etc,target=/c|ls /c", "id=e,target=/c|ls /c"}, "group\ngroup\npasswd\nx\n"},
		{"a file of a stage", []string{"id=k,from=base,source=/etc/group,target=/f|head -n 1 /f; echo more >> /f", "id=k,from=base,source=/etc/group,target=/f|tail -n 1 /f"}, "root:x:0:\nmore\n"},
		{"owner hides the stage's files", []string{"id=f,from=base,mode=0711,uid=3,target=/c|ls /c; stat -c '%a %u' /c"}, "711 3\n"},
		{"a part", []string{"id=g,target=/c|mkdir /c/sub && touch /c/sub/y", "id=g,source=sub,target=/c|ls /c"}, "y\n"},
		{"twice in a step", []string{"id=h,sharing=locked,target=/c --mount=type=cache,id=h,sharing=locked,target=/d|touch /c/x; ls /d"}, "x\n"},
		{"one in another", []string{"id=i,target=/c/in --mount=type=cache,id=j,target=/c|touch /c/in/x; ls /c", "id=i,target=/d|ls /d"}, "in\nx\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &workbench{t: t, root: w.root, dir: w.dir}
			df := "FROM test/base AS base\nFROM base\n"
			for _, step := range tt.steps {
				options, run, _ := strings.Cut(step, "|")
				df += fmt.Sprintf("RUN --mount=type=cache,%s { %s; } >> /out\n", options, run)
			}
			w.write("ctx/Dockerfile", df)
			w.ok("build", "-o", "type=tar,dest=out.tar", "ctx")
			if got := w.fromTar("out.tar", "out"); got != tt.want {
				t.Errorf("the steps say %q, want %q", got, tt.want)
			}
		})
	}
	w.write("ctx/Dockerfile", "FROM test/base\nRUN --mount=type=cache,id=a,target=/c ls /c > /out\n")
	w.ok("build", "--build-arg", "BUILDKIT_CACHE_MOUNT_NS=other", "-o", "type=tar,dest=out.tar", "ctx")
	if got := w.fromTar("out.tar", "out"); got != "" {
		t.Errorf("another namespace has %q", got)
	}
}

// TestInsecure holds what a step with --security=insecure may, as root and as
// another user.
func TestInsecure(t *testing.T) {
	w := newBench(t)
	w.write("Dockerfile", `FROM test/base
RUN --security=insecure grep -E 'Cap(Eff|Amb|Inh)|Seccomp:' /proc/self/status > /root-has; ls /dev > /dev-has; mount -t tmpfs none /mnt-here 2>/dev/null; mkdir /m; mount -t tmpfs none /m; echo $? > /mounted; umount /m
USER user
RUN --security=insecure grep -E 'Cap(Eff|Amb)' /proc/self/status > /tmp/user-has
RUN grep -E 'Cap(Eff|Amb)' /proc/self/status > /tmp/sandbox-has
`)
	w.ok("build", "--allow", "security.insecure", "-o", "type=tar,dest=out.tar", ".")
	lines := strings.Fields(w.fromTar("out.tar", "root-has"))
	if len(lines) != 8 || lines[1] != lines[3] || lines[3] != lines[5] || len(strings.Trim(lines[3], "0")) < 10 || lines[7] != "0" {
		t.Errorf("root has %q", lines)
	}
	user := strings.Fields(w.fromTar("out.tar", "tmp/user-has"))
	if len(user) != 4 || user[1] != lines[3] || user[3] != lines[3] {
		t.Errorf("another user has %q, root %q", user, lines)
	}
	if got := strings.Fields(w.fromTar("out.tar", "tmp/sandbox-has")); len(got) != 4 || strings.Trim(got[1]+got[3], "0") != "" {
		t.Errorf("in the sandbox another user has %q", got)
	}
	if got := w.fromTar("out.tar", "mounted"); got != "0\n" {
		t.Errorf("mount ends with %s", got)
	}
	for _, dev := range []string{"kmsg", "cuse", "fuse", "kvm", "loop-control", "loop0", "loop7", "net"} {
		if !strings.Contains(w.fromTar("out.tar", "dev-has"), dev+"\n") {
			t.Errorf("no /dev/%s", dev)
		}
	}
}

// TestRunDevices uses devices of CDI specifications.
func TestRunDevices(t *testing.T) {
	w := newBench(t)
	w.write("files/lib", "driver")
	w.write("cdi/acme.yaml", fmt.Sprintf(`cdiVersion: "0.7.0"
kind: acme.example/gpu
containerEdits:
  env: [ACME=all]
devices:
- name: "0"
  annotations: {org.mobyproject.buildkit.device.class: gpus}
  containerEdits:
    env: [GPU=0]
    deviceNodes:
    - {path: /dev/acme/zero, hostPath: /dev/kmsg, permissions: r}
    mounts:
    - {hostPath: %q, containerPath: /opt/lib, options: [ro, nosuid, bind]}
    additionalGids: [44]
- name: "1"
  annotations: {org.mobyproject.buildkit.device.autoallow: "true"}
  containerEdits: {env: [GPU=1]}
- name: hooked
  containerEdits:
    hooks: [{hookName: createContainer, path: /usr/bin/acme-hook}]
`, filepath.Join(w.dir, "files/lib")))
	build := func(device string, args ...string) (string, error) {
		w.write("ctx/Dockerfile", "FROM test/base\nRUN --device="+device+" { echo $ACME $GPU; ls -l /dev/acme/zero | cut -c1-10; cat /opt/lib; id -G; } > /out 2>/dev/null\n")
		r := w.run(append([]string{"build", "--cdi-config-dir", "cdi", "-o", "type=tar,dest=out.tar"}, append(args, "ctx")...)...)
		if r.code != 0 {
			return "", fmt.Errorf("%s", r.stderr)
		}
		return w.fromTar("out.tar", "out"), nil
	}
	const zero = "all 0\ncrw-r--r--\ndriver0 44\n"
	for _, tt := range []struct {
		device string
		args   []string
		want   string // the step's output, or words of the error after "!"
	}{
		{"acme.example/gpu=0", nil, "!Dockerfile:2: device acme.example/gpu=0 is requested by the build but not allowed"},
		{"acme.example/gpu=0", []string{"--allow", "device"}, zero},
		{"acme.example/gpu=0,required", []string{"--allow", "device=acme.example/gpu=0"}, zero},
		{"acme.example/gpu", []string{"--allow", "device=acme.example/gpu=0"}, zero},
		{"gpus", []string{"--allow", "device=gpus"}, zero},
		{"mine", []string{"--allow", "device=acme.example/gpu=0,alias=mine"}, zero},
		{"acme.example/gpu=1", nil, "all 1\n0\n"},
		{"acme.example/gpu=*", []string{"--allow", "device=acme.example/gpu=1"}, "!devices acme.example/gpu=0, acme.example/gpu=hooked are requested by the build but not allowed"},
		{"acme.example/gpu=hooked", []string{"--allow", "device"}, "!createContainer hook to be run (/usr/bin/acme-hook)"},
		{"acme.example/gpu=7", []string{"--allow", "device"}, "\n0\n"},
		{"acme.example/gpu=7,required", []string{"--allow", "device"}, `!required device "acme.example/gpu=7" is not registered`},
		{"acme.example/gpu=7", []string{"--device", "acme.example/gpu=0"}, zero},
	} {
		got, err := build(tt.device, tt.args...)
		word, fails := strings.CutPrefix(tt.want, "!")
		switch {
		case fails && (err == nil || !strings.Contains(err.Error(), word)):
			t.Errorf("%s %s: %v, want %q", tt.device, tt.args, err, word)
		case !fails && (err != nil || got != tt.want):
			t.Errorf("%s %s: %q (%v), want %q", tt.device, tt.args, got, err, tt.want)
		}
	}
}

// FuzzRunFlagValues holds of the values of flags about RUN that what is
// accepted makes sense.
func FuzzRunFlagValues(f *testing.F) {
	for _, seed := range []string{"id=a,src=b", "type=env,id=a", `id="a,b",env=X`, "device=a,alias=b", "security.insecure", "/a:/b:ro,O", "/dev/null:/dev/x:rw", "memory=1g", "a:b:c:d", ",", "="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, word string) {
		if s, err := parseSecret(word); err == nil && s.id == "" {
			t.Errorf("secret %q has no ID", word)
		}
		if a, err := parseAllow([]string{word}); err == nil {
			if _, unnamed := a.Devices[""]; unnamed {
				t.Errorf("--allow %q lets a device without a name", word)
			}
		}
		if v, err := parseBuildVolume(word); err == nil && (!filepath.IsAbs(v.Source) || !filepath.IsAbs(v.Target) || v.Target == "/") {
			t.Errorf("volume %q is %+v", word, v)
		}
		if d, err := parseDevice(word); err == nil && !strings.HasPrefix(filepath.Clean(d.Path), "/dev/") {
			t.Errorf("device %q is %+v", word, d)
		}
		var r container.Resources
		if name, value, ok := strings.Cut(word, "="); ok {
			_ = setResource(&r, name, value)
		}
	})
}

// TestCacheSharing runs steps side by side that share a cache, have one of
// their own, and wait for each other.
func TestCacheSharing(t *testing.T) {
	w := newBench(t)
	side := func(me, other string) string {
		return fmt.Sprintf(`FROM test/base AS %[1]s
RUN --mount=type=cache,id=meet,target=/m --mount=type=cache,id=own,target=/p,sharing=private touch /m/%[1]s /p/%[1]s; \
    n=0; while [ ! -e /m/%[2]s ] && [ $n -lt 600 ]; do sleep 0.1; n=$((n+1)); done; \
    touch /m/seen-by-%[1]s; while [ ! -e /m/seen-by-%[2]s ] && [ $n -lt 600 ]; do sleep 0.1; n=$((n+1)); done; \
    test -e /m/%[2]s && test ! -e /p/%[2]s
RUN --mount=type=cache,id=alone,target=/l,sharing=locked mkdir /l/x && sleep 0.3 && rmdir /l/x && echo ok > /%[1]s
`, me, other)
	}
	w.write("Dockerfile", side("a", "b")+side("b", "a")+"FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n")
	w.ok("build", "-o", "type=tar,dest=out.tar", ".")
	if got := w.fromTar("out.tar", "a") + w.fromTar("out.tar", "b"); got != "ok\nok\n" {
		t.Errorf("got %q", got)
	}
}
