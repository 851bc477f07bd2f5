// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestInfo asks what there is, and which servers a name leads to.
func TestInfo(t *testing.T) {
	w := newBench(t)
	w.asUser()
	config := filepath.Join(t.TempDir(), "config.toml")
	t.Setenv("BUILDER_CONFIG", config)
	if out := w.ok("info"); !strings.Contains(out, "State directory:   "+w.root) || !strings.Contains(out, "Images:            1\n") {
		t.Errorf("info:\n%s", out)
	}
	var row map[string]any
	if err := json.Unmarshal([]byte(w.ok("info", "--format", "json")), &row); err != nil || row["Images"] != 1.0 || row["DockerRootDir"] != w.root {
		t.Errorf("%v, %v", row, err)
	}
	if got := w.ok("info", "-f", "{{.CgroupVersion}}"); got != "1\n" && got != "2\n" && got != "1 and 2\n" {
		t.Errorf("control groups of version %q", got)
	}
	if err := os.WriteFile(config, []byte("[registry.\"docker.io\"]\nmirrors = [\"http://127.0.0.1:1/hub\"]\n[registry.\"no.example\"]\nblocked = true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := lines(w.ok("info", "nginx"))
	if len(out) != 3 || strings.Join(strings.Fields(out[1]), " ") != "http://127.0.0.1:1 hub/library/nginx mirror all insecure "+config+":2" {
		t.Errorf("servers of nginx:\n%s", strings.Join(out, "\n"))
	}
	w.fails(1, []string{"no.example/x", "blocked by " + config + ":3"}, "info", "no.example/x")
	w.fails(1, []string{"blocked by"}, "pull", "no.example/x")
	if err := os.WriteFile(config, []byte("x = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.fails(1, []string{config + ":1: unknown key x"}, "info", "nginx")
}

// TestPullVerbose pulls through a dead mirror and a living one, and is told
// which gave what.
func TestPullVerbose(t *testing.T) {
	w := newBench(t)
	host := startRegistry(t)
	w.asUser()
	w.ok("tag", "test/base", host+"/hub/library/app:1")
	w.ok("push", host+"/hub/library/app:1")
	w.ok("rmi", "test/base", host+"/hub/library/app:1")
	config := filepath.Join(t.TempDir(), "config.toml")
	t.Setenv("BUILDER_CONFIG", config)
	if err := os.WriteFile(config, []byte("[registry.\"docker.io\"]\nmirrors = [\"http://127.0.0.1:1\", \"http://"+host+"/hub\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := w.run("pull", "-v", "app:1")
	for _, want := range []string{"builder: mirror 127.0.0.1:1: ", "builder: app:1 is sha256:", " at " + host, "bytes, from " + host} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("pull -v does not tell %q:\n%s", want, r.stderr)
		}
	}
	if r.code != 0 {
		t.Errorf("exit code %d", r.code)
	}
	w.ok("rmi", "app:1")
	if r := w.run("pull", "-q", "app:1"); r.code != 0 || r.stderr != "" {
		t.Errorf("pull -q: %d %s", r.code, r.stderr)
	}
}

// TestDockerTemplates holds templates that scripts have for docker.
func TestDockerTemplates(t *testing.T) {
	w, _ := newNetBench(t)
	w.ok("network", "create", "--ipv6", "app")
	w.ok("run", "-d", "--name", "web", "--network", "app", "--network-alias", "www", "--ip", "10.128.0.9", "--cidfile", w.dir+"/cid", "-P", "--tmpfs", "/t:size=4k", "test/base", "sleep", "1000")
	w.ok("run", "-d", "--name", "cc", "--network", "app", "--link", "web:w", "test/base", "sleep", "1000")
	w.ok("pause", "cc")
	w.ok("create", "--name", "off", "test/base", "true")
	w.ok("create", "--name", "bare", "--privileged", "test/base", "true")
	w.ok("create", "--name", "open", "--security-opt", "unmask=/proc/acpi", "--security-opt", "unmask=/proc/s*", "test/base", "true")
	pid, id := w.pid("web"), w.field("web", "{{.Id}}")[:12]
	for _, tc := range []struct{ args, format, want string }{
		{"version", "{{.Server.Os}}/{{.Client.Arch}}", runtime.GOOS + "/" + runtime.GOARCH},
		{"info", "{{.OSType}} {{.CgroupDriver}} {{.LoggingDriver}} {{.Swarm.LocalNodeState}} {{len .Warnings}}", "linux cgroupfs local inactive 0"},
		{"info", "{{.Containers}} {{.ContainersRunning}} {{.ContainersPaused}} {{.ContainersStopped}}", "5 1 1 3"},
		{"info", "{{range .SecurityOptions}}{{.}};{{end}}", "name=seccomp,profile=builtin;name=cgroupns;"},
		{"inspect web", "{{.HostConfig.Runtime}} {{.HostConfig.PublishAllPorts}} {{.HostConfig.Tmpfs}} {{.HostConfig.ContainerIDFile}}", "builder true map[/t:size=4096] " + w.dir + "/cid"},
		{"inspect web", "{{.NetworkSettings.SandboxKey}}", fmt.Sprintf("/proc/%d/ns/net", pid)},
		{"inspect web", "{{(index .NetworkSettings.Networks \"app\").DNSNames}} {{.NetworkSettings.Networks.app.IPAMConfig.IPv4Address}}", "[web www " + id + "] 10.128.0.9"},
		{"inspect web", "{{eq .NetworkSettings.GlobalIPv6Address .NetworkSettings.Networks.app.GlobalIPv6Address}} {{len .NetworkSettings.Bridge}}", "true 0"},
		{"inspect cc", "{{slice .Created.String 10 11}}{{slice .State.StartedAt.String 10 11}}{{.State.FinishedAt}}", "TT0001-01-01T00:00:00Z"},
		{"inspect cc", "{{.HostConfig.Links}} {{.NetworkSettings.Networks.app.Links}}", "[web:w] [web:w]"},
		{"inspect cc", "{{.HostConfig.Dns}}{{.HostConfig.DnsSearch}}{{.HostConfig.DnsOptions}}", "[][][]"},
		{"inspect off", "{{.NetworkSettings.SandboxKey}}{{.HostConfig.PublishAllPorts}}{{.HostConfig.Links}}", "false[]"},
		{"inspect off", "{{index .HostConfig.MaskedPaths 0}} {{.HostConfig.ReadonlyPaths}} {{.HostConfig.ConsoleSize}} {{.HostConfig.Mounts}} {{.Config.OnBuild}}", "/proc/acpi [/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger] [0 0] [] []"},
		{"inspect bare", "{{.HostConfig.MaskedPaths}} {{.HostConfig.ReadonlyPaths}}", "[] []"},
		{"inspect open", "{{index .HostConfig.MaskedPaths 0}} {{.HostConfig.ReadonlyPaths}}", "/proc/asound [/proc/bus /proc/fs /proc/irq]"},
		{"inspect test/base", "{{.GraphDriver.Name}}{{.Parent}}", "overlayfs"},
		{"network inspect app", "{{.EnableIPv4}} {{.EnableIPv6}} {{.Ingress}} {{.ConfigOnly}} {{len .IPAM.Options}}", "true true false false 0"},
	} {
		if out := w.ok(append(strings.Fields(tc.args), "--format", tc.format)...); strings.TrimSpace(out) != tc.want {
			t.Errorf("%s --format %q: %q, want %q", tc.args, tc.format, out, tc.want)
		}
	}
	// Names of commands that scripts have for docker.
	w.write("Dockerfile", "FROM test/base\n")
	w.ok("buildx", "build", "-q", "-t", "made", ".")
	w.ok("builder", "prune", "-f")
	w.ok("buildx", "prune", "-af", "--filter", "until=24h")
	w.ok("buildx", "du")
	w.fails(2, []string{"buildx: unknown command", "bake, build, du"}, "buildx", "create")
}
