// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestRunNetwork: RUN is on a network of its own, from which it reaches what a
// container does, and not the machine's loopback.
func TestRunNetwork(t *testing.T) {
	w, outside := newNetBench(t)
	w.ok("network", "create", "app")
	w.serveHTTP("web", "here", "--network", "app")
	w.ok("run", "-d", "--name", "local", "--network", "host", "test/base", "sh", "-c",
		"mkdir /www; echo local > /www/index.html; httpd -p 127.0.0.1:8085 -h /www; exec httpd -f -p 203.0.113.1:8085 -h /www")
	get := func(url string) string { return "wget -qO- " + url + " 2>/dev/null || echo no" }
	waitFor(t, "the servers of the machine", func() bool {
		out, err := w.machine("sh", "-c", get("http://127.0.0.1:8085/")+"; "+get("http://203.0.113.1:8085/"))
		return err == nil && out == "local\nlocal\n"
	})
	const ping = "ping -c1 -W2 203.0.113.2 | grep -c ' 0% packet loss'"
	if _, err := outside("true"); err != nil {
		t.Fatal(err)
	}
	machine := "eth0\nlo\n"
	for _, tt := range []struct {
		name, options, run string
		args               []string
		want               string
	}{
		{"interfaces", "", "ls /sys/class/net", nil, machine},
		{"outside", "", ping, nil, "1\n"},
		{"the machine", "", get("http://203.0.113.1:8085/"), nil, "local\n"},
		{"the machine's loopback", "", get("http://127.0.0.1:8085/"), nil, "no\n"},
		{"host-gateway", "", "ping -c1 gw | grep -c ' 0% packet loss'", []string{"--add-host", "gw=host-gateway"}, "1\n"},
		{"no host-gateway", "--network=none", "grep -c gw /etc/hosts || true", []string{"--add-host", "gw=host-gateway"}, "0\n"},
		{"a name, on another network", "", get("http://web/"), nil, "no\n"},
		{"a network of a name", "", get("http://web/"), []string{"--network", "app"}, "here\n"},
		{"host for the build", "", get("http://127.0.0.1:8085/"), []string{"--network", "host"}, "local\n"},
		{"host for the step", "--network=host", get("http://127.0.0.1:8085/"), []string{"--allow", "network.host"}, "local\n"},
		{"none for the step", "--network=none", "ls /sys/class/net", nil, "lo\n"},
		{"default for the step", "--network=default", "ls /sys/class/net", []string{"--network", "none"}, "lo\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &workbench{t: t, root: w.root, dir: t.TempDir(), netns: w.netns}
			w.write("ctx/Dockerfile", "FROM test/base\nRUN "+tt.options+" { "+tt.run+"; } > /out\n")
			w.ok(append(append([]string{"build", "-o", "type=tar,dest=out.tar"}, tt.args...), "ctx")...)
			if got := w.fromTar("out.tar", "out"); got != tt.want {
				t.Errorf("the step says %q, want %q", got, tt.want)
			}
		})
	}
	w.write("ctx/Dockerfile", "FROM test/base\nRUN --network=host true\n")
	w.fails(1, []string{"Dockerfile:2", "network.host is not allowed", "--allow network.host"}, "build", "ctx")
	w.fails(2, []string{"--network", "no such network: nosuch"}, "build", "--network", "nosuch", "ctx")
	w.fails(2, []string{"--network", "container:web"}, "build", "--network", "container:web", "ctx")

	// One namespace for steps one after the other, one for each of those at
	// the same time, a new one after a step that could change it.
	const address = "ip -4 -o addr show eth0 | grep -o 'inet [0-9.]*' >> /out"
	w.write("ctx/Dockerfile", "FROM test/base AS one\nRUN "+address+"\nRUN "+address+"\nRUN --security=insecure ip link del eth0\nRUN "+address+"\n")
	w.ok("build", "--allow", "security.insecure", "-o", "type=tar,dest=out.tar", "ctx")
	got := strings.Split(w.fromTar("out.tar", "out"), "\n")
	if len(got) != 4 || got[0] != got[1] || !strings.HasPrefix(got[2], "inet 10.") {
		t.Errorf("steps one after the other have addresses %q", got)
	}
	const meet = "--mount=type=cache,target=/m { ip -4 -o addr show eth0 | grep -o 'inet [0-9.]*' > /out; touch /m/$ME; until [ -e /m/a -a -e /m/b ]; do sleep 0.05; done; }"
	w.write("ctx/Dockerfile", "FROM test/base AS a\nENV ME=a\nRUN "+meet+"\nFROM test/base\nENV ME=b\nCOPY --from=a /out /other\nRUN true\n"+
		"FROM test/base AS b\nENV ME=b\nRUN "+meet+"\nFROM scratch\nCOPY --from=a /out /a\nCOPY --from=b /out /b\n")
	w.ok("build", "-o", "type=tar,dest=out.tar", "ctx")
	if a, b := w.fromTar("out.tar", "a"), w.fromTar("out.tar", "b"); a == b || !strings.HasPrefix(a, "inet 10.") || !strings.HasPrefix(b, "inet 10.") {
		t.Errorf("steps at the same time have the addresses %q and %q", a, b)
	}

	// A failed step is entered on a network as well.
	w.write("ctx/Dockerfile", "FROM test/base\nRUN false\n")
	w.fails(1, nil, "build", "ctx")
	if out := w.ok("debug", "sh", "-c", "ls /sys/class/net"); out != machine {
		t.Errorf("a failed step has the interfaces %q", out)
	}
	w.ok("rm", "-fa")
	for _, name := range []string{"bridge", "app"} {
		data, err := os.ReadFile(filepath.Join(w.root, "networks", name+".leases"))
		if err != nil || strings.TrimSpace(string(data)) != "{}" {
			t.Errorf("leases of %s that are left: %s (%v)", name, data, err)
		}
	}
	waitFor(t, "no interface being left", func() bool {
		out, err := exec.Command("ip", "-n", w.netns, "-o", "link", "show", "type", "veth").Output()
		return err == nil && len(slices.Collect(strings.Lines(string(out)))) == 1 // the machine's own
	})
}
