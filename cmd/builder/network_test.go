// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"builder/container"
	"builder/internal/testutil"
)

// newMachineNetwork makes two network namespaces, which are removed with the
// test: a machine's and the outside, 203.0.113.1 and 203.0.113.2.
func newMachineNetwork(t *testing.T) (inside, outside string) {
	t.Helper()
	inside, outside = fmt.Sprintf("bnet-%d-in", os.Getpid()), fmt.Sprintf("bnet-%d-out", os.Getpid())
	for _, ns := range []string{inside, outside} {
		run(t, "ip", "netns", "add", ns)
		t.Cleanup(func() { run(t, "ip", "netns", "del", ns) })
		run(t, "ip", "-n", ns, "link", "set", "lo", "up")
	}
	run(t, "ip", "-n", inside, "link", "add", "up0", "type", "veth", "peer", "name", "up1", "netns", outside)
	run(t, "ip", "-n", inside, "addr", "add", "203.0.113.1/24", "dev", "up0")
	run(t, "ip", "-n", inside, "link", "set", "up0", "up")
	run(t, "ip", "-n", outside, "addr", "add", "203.0.113.2/24", "dev", "up1")
	run(t, "ip", "-n", outside, "link", "set", "up1", "up")
	return inside, outside
}

// newNetBench is newLifeBench in a network namespace of its own, which is the
// machine 203.0.113.1; 203.0.113.2 is outside of it, in another one.
func newNetBench(t *testing.T) (w *workbench, outside func(args ...string) (string, error)) {
	t.Helper()
	testutil.Require(t, "root", "ip", "nsenter", "busybox")
	w = newLifeBench(t)
	inside, out := newMachineNetwork(t)
	w.netns = inside
	t.Cleanup(func() { w.command("rm", "-fa").Run() }) // before the namespaces go
	other := &workbench{t: t, root: w.root, dir: w.dir, netns: out}
	return w, other.machine
}

// machine runs a program of the test's image on the machine that the bench's
// network is.
func (w *workbench) machine(args ...string) (string, error) {
	r := w.run(append([]string{"run", "--rm", "--network", "host", "test/base"}, args...)...)
	if r.code != 0 {
		return r.stdout, fmt.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	return r.stdout, nil
}

// serveHTTP runs a web server that says a word.
func (w *workbench) serveHTTP(name, word string, flags ...string) {
	w.t.Helper()
	args := append([]string{"run", "-d", "--name", name}, flags...)
	w.ok(append(args, "test/base", "sh", "-c", "mkdir -p /www; echo "+word+" > /www/index.html; exec httpd -f -vv -p 80 -h /www")...)
}

func TestDefaultNetwork(t *testing.T) {
	w, outside := newNetBench(t)
	out := w.ok("run", "--rm", "test/base", "sh", "-c", "ip -4 addr show eth0 | grep -o 'inet [0-9.]*'; ip route | grep -c '^default'; hostname -i; ping -c1 -W2 203.0.113.2 | grep -c ' 0% packet loss'")
	got := strings.Fields(out)
	if len(got) != 5 || !strings.HasPrefix(got[1], "10.") || got[2] != "1" || got[3] != got[1] || got[4] != "1" {
		t.Errorf("a container on the default network says %q", out)
	}
	w.serveHTTP("web", "hello", "-p", "8080:80", "-p", "127.0.0.1:8081:80", "-p", "5353:53/udp")
	wget := func(url string) []string { return []string{"wget", "-qO-", url} }
	waitFor(t, "the server", func() bool {
		out, err := w.machine(wget("http://127.0.0.1:8080/")...)
		return err == nil && out == "hello\n"
	})
	for _, url := range []string{"http://203.0.113.1:8080/", "http://127.0.0.1:8081/", "http://[::1]:8080/"} {
		if out, err := w.machine(wget(url)...); err != nil || out != "hello\n" {
			t.Errorf("%s on the machine: %q (%v)", url, out, err)
		}
	}
	if out, err := outside(wget("http://203.0.113.1:8080/")...); err != nil || out != "hello\n" {
		t.Errorf("from outside: %q (%v)", out, err)
	}
	// Who comes from outside keeps its address.
	if r := w.run("logs", "web"); !strings.Contains(r.stdout+r.stderr, "203.0.113.2") {
		t.Errorf("the server saw nobody from outside:\n%s%s", r.stdout, r.stderr)
	}
	if out, err := outside(wget("http://203.0.113.1:8081/")...); err == nil {
		t.Errorf("a port of 127.0.0.1 is reached from outside: %q", out)
	}
	// Another container reaches it by the machine's address.
	if out := w.ok("run", "--rm", "test/base", "wget", "-qO-", "http://203.0.113.1:8080/"); out != "hello\n" {
		t.Errorf("from another container: %q", out)
	}
	if out := w.ok("port", "web"); !strings.Contains(out, "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n") || !strings.Contains(out, "53/udp -> 0.0.0.0:5353\n53/udp -> [::]:5353\n") {
		t.Errorf("port says %q", out)
	}
	w.fails(125, []string{"8080/tcp is already allocated"}, "run", "--rm", "-p", "8080:80", "test/base", "true")
	// A killed holder: the ports are served again.
	syscall.Kill(w.monitors()["monitor"], syscall.SIGKILL)
	waitFor(t, "the server after the monitor was killed", func() bool {
		out, err := w.machine(wget("http://127.0.0.1:8080/")...)
		return err == nil && out == "hello\n"
	})
	w.ok("rm", "-f", "web")
	if out, err := w.machine(wget("http://127.0.0.1:8080/")...); err == nil {
		t.Errorf("after rm the port answers %q", out)
	}
	// Ports of our choice, for all that is exposed.
	w.serveHTTP("any", "free", "-P", "--expose", "80")
	host := strings.TrimPrefix(lines(w.ok("port", "any", "80"))[0], "0.0.0.0:")
	waitFor(t, "the server on a free port", func() bool {
		out, err := w.machine(wget("http://127.0.0.1:" + host + "/")...)
		return err == nil && out == "free\n"
	})
	w.ok("rm", "-fa")
	waitFor(t, "no interface being left", func() bool {
		out, err := exec.Command("ip", "-n", w.netns, "-o", "link", "show", "type", "veth").Output()
		return err == nil && strings.Count(string(out), "\n") == 1 // the machine's own
	})
}

func TestUserNetworks(t *testing.T) {
	w, _ := newNetBench(t)
	w.ok("network", "create", "--ipv6", "--label", "a=b", "app")
	w.ok("network", "create", "--internal", "--subnet", "10.77.5.0/24", "--gateway", "10.77.5.254", "back")
	w.fails(1, []string{"app"}, "network", "create", "app")
	w.fails(1, []string{"10.77.5.0/24"}, "network", "create", "--subnet", "10.77.0.0/16", "wide")
	w.serveHTTP("web", "here", "--network", "app", "--network-alias", "shop")
	w.ok("run", "-d", "--name", "cli", "--network", "app", "test/base", "sleep", "1000")
	in := func(cmd string) string {
		w.t.Helper()
		return w.run("exec", "cli", "sh", "-c", cmd).stdout
	}
	for _, name := range []string{"web", "shop", "web.app", w.field("web", "{{slice .Id 0 12}}")} {
		waitFor(t, "the answer of "+name, func() bool { return in("wget -qO- http://"+name+"/") == "here\n" })
	}
	if out := in("ping -6 -c1 -W2 web"); !strings.Contains(out, " 0% packet loss") {
		t.Errorf("by IPv6: %s", out)
	}
	if out := in("ping -c1 -W2 203.0.113.2"); !strings.Contains(out, " 0% packet loss") {
		t.Errorf("outside: %s", out)
	}
	address := w.field("web", "{{.NetworkSettings.Networks.app.IPAddress}}")
	if out := in("nslookup " + address); !strings.Contains(out, "web.app") {
		t.Errorf("the name of %s: %s", address, out)
	}
	// The gateway keeps its hardware address, whose ever ports come and go.
	bridges, err := exec.Command("ip", "-n", w.netns, "-o", "link", "show", "type", "bridge").Output()
	if err != nil || strings.Count(string(bridges), "link/ether 02:42:0a:") != strings.Count(string(bridges), "\n") {
		t.Errorf("the bridges are (%v)\n%s", err, bridges)
	}
	// Other networks reach neither it nor its name.
	if r := w.run("run", "--rm", "test/base", "sh", "-c", "ping -c1 -W1 "+address+"; wget -qO- http://web/"); r.code == 0 || strings.Contains(r.stdout, " 0% packet loss") {
		t.Errorf("the default network reaches app: %s", r.stdout)
	}
	w.ok("network", "connect", "--alias", "db", "--ip", "10.77.5.9", "back", "web")
	w.ok("network", "connect", "back", "cli")
	waitFor(t, "the answer of db", func() bool { return in("wget -qO- http://db/") == "here\n" })
	w.fails(1, []string{"already"}, "network", "connect", "back", "cli")
	w.fails(125, []string{"10.77.5.9 is in use"}, "run", "--rm", "--network", "back", "--ip", "10.77.5.9", "test/base", "true")
	if r := w.run("run", "--rm", "--network", "back", "test/base", "ping", "-c1", "-W1", "203.0.113.2"); r.code == 0 {
		t.Errorf("an internal network reaches the outside: %s", r.stdout)
	}
	// The names are answered after a kill too.
	syscall.Kill(w.monitors()["monitor"], syscall.SIGKILL)
	waitFor(t, "the answer after a kill", func() bool { return in("wget -qO- http://shop/") == "here\n" })
	w.ok("network", "disconnect", "app", "cli")
	if out := in("ip -o -4 addr"); strings.Contains(out, address[:strings.LastIndex(address, ".")]) {
		t.Errorf("after disconnect: %s", out)
	}
	w.fails(1, []string{"in use"}, "network", "rm", "app")
	if out := w.ok("network", "inspect", "-f", "{{len .Containers}} {{.Internal}} {{index .Labels \"a\"}}", "app"); out != "1 false b\n" {
		t.Errorf("inspect says %q", out)
	}
	if out := w.ok("run", "--rm", "--network", "container:web", "test/base", "wget", "-qO-", "http://127.0.0.1/"); out != "here\n" {
		t.Errorf("with the network of another container: %q", out)
	}
	w.ok("rm", "-fa")
	w.ok("network", "prune", "-f")
	if out := w.ok("network", "ls", "--format", "{{.Name}}"); out != "bridge\nhost\nnone\n" {
		t.Errorf("after prune: %q", out)
	}
	if out := w.ok("network", "ls", "-q", "--filter", "dangling=true") + w.ok("network", "ls", "-q", "--filter", "type=custom"); out != "" {
		t.Errorf("what is there always is told as made or without use: %q", out)
	}
	// The machine's network and none are there to be looked at.
	w.ok("run", "-d", "--name", "machine", "--network", "host", "test/base", "sleep", "1000")
	if out := w.ok("network", "inspect", "-f", "{{.Name}} {{.Driver}} {{range .Containers}}{{.Name}}{{end}}", "host", "none"); out != "host host machine\nnone null \n" {
		t.Errorf("inspect says %q", out)
	}
	for _, args := range [][]string{{"rm", "none"}, {"connect", "host", "machine"}, {"disconnect", "host", "machine"}} {
		w.fails(1, []string{"no network of containers' own"}, append([]string{"network"}, args...)...)
	}
	if name, err := os.Hostname(); err != nil || w.field("machine", "{{.Config.Hostname}}") != name {
		t.Errorf("on the machine's network the host name is %s, not %s, %v", w.field("machine", "{{.Config.Hostname}}"), name, err)
	}
	for _, flag := range []string{"--hostname=x", "--add-host=x:10.0.0.1", "--dns=10.0.0.1", "--dns-opt=ndots:2", "--expose=80"} {
		w.fails(125, []string{"--network container:machine", "container"}, "run", "--rm", "--network", "container:machine", flag, "test/base")
	}
}

// publishing are the rules that lead from ports of the bench's machine to containers.
func (w *workbench) publishing() (n int) {
	w.t.Helper()
	inNetNS(w.t, w.netns, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
		for _, table := range tables {
			if !strings.HasPrefix(table.Name, "builder-") {
				continue
			}
			rules, err := c.GetRules(table, &nftables.Chain{Name: "prerouting", Table: table})
			if err != nil {
				return err
			}
			n += len(rules)
		}
		return err
	})
	return n
}

// leases is what the files of leases of the default network hold.
func (w *workbench) leases() string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.root, "networks", "bridge.leases"))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

// TestCommandKilledOnNetwork kills commands whose containers have published ports:
// whoever cleans up after them takes the rules and addresses too.
func TestCommandKilledOnNetwork(t *testing.T) {
	w, _ := newNetBench(t)
	for _, tt := range []struct {
		flags string
		next  []string
	}{
		{"--name=fg", []string{"rm", "fg"}},
		{"--name=fg", []string{"stop", "fg"}},
		{"--name=fg", []string{"container", "prune", "-f"}},
		{"--rm", []string{"run", "--rm", "--network", "host", "test/base", "true"}},
		{"--name=fg", []string{"network", "disconnect", "bridge", "fg"}},
	} {
		cmd := w.command("run", tt.flags, "-p", "8080:80", "test/base", "sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var id string
		waitFor(t, "the container", func() bool {
			id = strings.TrimSpace(w.ok("ps", "-q", "--no-trunc"))
			return id != ""
		})
		if n := w.publishing(); n != 1 || !strings.Contains(w.leases(), id) {
			t.Errorf("%d rules and these leases while it runs: %s", n, w.leases())
		}
		cmd.Process.Kill()
		cmd.Wait()
		waitFor(t, "the container's end", func() bool { return w.ok("ps", "-q") == "" })
		if out := w.ok("ps", "-a", "--format", "{{.Ports}}"); strings.TrimSpace(out) != "" {
			t.Errorf("a killed one has ports %s", out)
		}
		w.ok(tt.next...)
		if n := w.publishing(); n != 0 || strings.Contains(w.leases(), id) {
			t.Errorf("%d rules and these leases after %v: %s", n, tt.next, w.leases())
		}
		w.run("rm", "-f", "fg")
	}
}

// TestNetworkConnectKilled has a monitor killed between a container's network and its
// record: connect and disconnect can be repeated, and both are as was asked then.
func TestNetworkConnectKilled(t *testing.T) {
	w, _ := newNetBench(t)
	w.ok("network", "create", "back")
	w.ok("run", "-d", "--name", "cli", "--network", "bridge", "test/base", "sleep", "1000")
	record := filepath.Join(w.root, "containers", w.field("cli", "{{.Id}}"), "container.json")
	// what a container has: an interface, a place in its record
	check := func(when string, live, recorded int) {
		t.Helper()
		out := w.run("exec", "cli", "sh", "-c", "ls /sys/class/net | grep -c eth").stdout
		text, err := os.ReadFile(record)
		if err != nil {
			t.Fatal(err)
		}
		if out != fmt.Sprintf("%d\n", 1+live) || strings.Count(string(text), `{"network":"back"`) != recorded {
			t.Errorf("%s it has %s interfaces, and is to be %s", when, strings.TrimSpace(out), text)
		}
	}
	for _, next := range []string{"connect", "disconnect"} {
		for _, killed := range []string{"connect", "disconnect"} {
			when := next + " after a killed " + killed
			if killed == "connect" {
				w.ok("network", "connect", "back", "cli")
			}
			// A killed connect has its interface and no record, a killed disconnect
			// the other way round.
			text, err := os.ReadFile(record)
			if err != nil {
				t.Fatal(err)
			}
			other := strings.Replace(string(text), `,{"network":"back"}`, "", 1)
			if killed == "disconnect" {
				other = strings.Replace(string(text), `{"network":"bridge"}`, `{"network":"bridge"},{"network":"back"}`, 1)
			}
			if other == string(text) {
				t.Fatalf("the record is %s", text)
			}
			if err := os.WriteFile(record, []byte(other), 0o600); err != nil {
				t.Fatal(err)
			}
			monitor := w.monitors()["monitor"] // it doesn't read the record again
			if monitor == 0 {
				t.Fatal("there is no monitor")
			}
			syscall.Kill(monitor, syscall.SIGKILL)
			waitFor(t, "the monitor's end", func() bool { return container.StartTime(monitor) == 0 })
			w.ok("network", next, "back", "cli")
			if next == "connect" {
				check(when, 1, 1)
				w.fails(1, []string{"already"}, "network", "connect", "back", "cli")
				w.ok("network", "disconnect", "back", "cli")
			}
			check(when, 0, 0)
			w.fails(1, []string{"not on network back"}, "network", "disconnect", "back", "cli")
		}
	}
}

// TestNameServersMove has containers that run join and leave networks: names are resolved
// on those that they are on, unless they were told otherwise.
func TestNameServersMove(t *testing.T) {
	w, _ := newNetBench(t)
	for _, name := range []string{"app", "other"} {
		w.ok("network", "create", name)
	}
	const both = "cat /etc/resolv.conf /etc/hosts"
	in := func(name, cmd string) string {
		w.t.Helper()
		return w.run("exec", name, "sh", "-c", cmd).stdout
	}
	gateway := func(network string) string {
		return strings.TrimSpace(w.ok("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", network))
	}
	// check wants the gateways of networks as name servers, and lines for all addresses.
	check := func(when, name string, networks ...string) {
		t.Helper()
		var want []string
		for _, n := range networks {
			want = append(want, "nameserver "+gateway(n))
		}
		if got := strings.Split(strings.TrimSpace(in(name, "grep ^nameserver /etc/resolv.conf")), "\n"); !slices.Equal(got, want) {
			t.Errorf("%s %s has %q, want %q", when, name, got, want)
		}
		addrs := in(name, "ip -4 -o addr show scope global | sed 's/.*inet \\([0-9.]*\\).*/\\1/' | sort")
		if hosts := in(name, "grep $(hostname) /etc/hosts | cut -f1 | sort"); hosts != addrs {
			t.Errorf("%s %s has addresses %q and in hosts %q", when, name, addrs, hosts)
		}
	}
	w.ok("run", "-d", "--name", "web", "--network", "other", "test/base", "sleep", "1000")
	w.ok("run", "-d", "--name", "cli", "--network", "app", "--network", "other", "test/base", "sleep", "1000")
	check("first", "cli", "app", "other")
	w.ok("network", "disconnect", "app", "cli")
	check("after it has left app", "cli", "other")
	waitFor(t, "the answer of web", func() bool { return strings.Contains(in("cli", "nslookup web"), "Name:\tweb") })

	// From the default network, and back.
	w.ok("run", "-d", "--name", "def", "test/base", "sleep", "1000")
	before := in("def", both)
	w.ok("network", "connect", "other", "def")
	check("on other too", "def", "other")
	waitFor(t, "the answer of web", func() bool { return strings.Contains(in("def", "nslookup web"), "Name:\tweb") })

	// A killed monitor has not written the file.
	id := w.field("def", "{{.Id}}")
	state := filepath.Join(w.root, "containers", id, "state.json")
	old, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	w.ok("network", "disconnect", "other", "def")
	if after := in("def", both); after != before {
		t.Errorf("back on the default network it has\n%swant\n%s", after, before)
	}
	in("def", "printf 'nameserver "+gateway("other")+"\\n' > /tmp/r; grep -v ^nameserver /etc/resolv.conf > /tmp/s; cat /tmp/s /tmp/r > /etc/resolv.conf")
	if err := os.WriteFile(state, old, 0o600); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(w.monitors()["monitor"], syscall.SIGKILL)
	waitFor(t, "the files after a kill", func() bool { return in("def", both) == before })
	w.ok("network", "connect", "app", "def")
	check("after a kill", "def", "app")

	// What somebody has changed stays.
	in("def", "echo '# mine' >> /etc/resolv.conf; echo '192.0.2.7 there' >> /etc/hosts")
	w.ok("network", "disconnect", "app", "def")
	w.ok("network", "connect", "other", "def")
	check("changed", "def", "app")
	if !strings.Contains(in("def", "cat /etc/hosts"), "192.0.2.7 there\n") {
		t.Error("its own line in hosts is gone")
	}
}

// TestInternalNetworkAsks asks the name server of an internal network for what it does
// not know: it asks others for who is on a network that leads out, too.
func TestInternalNetworkAsks(t *testing.T) {
	w, _ := newNetBench(t)
	w.ok("network", "create", "--internal", "back")
	w.ok("run", "-d", "--name", "inner", "--network", "back", "test/base", "sleep", "1000")
	w.ok("run", "-d", "--name", "both", "--network", "back", "--network", "bridge", "test/base", "sleep", "1000")
	for name, want := range map[string]string{"inner": "NXDOMAIN", "both": "SERVFAIL"} { // nobody is there to be asked
		waitFor(t, "the answer "+want, func() bool {
			r := w.run("exec", name, "nslookup", "nobody.invalid")
			return strings.Contains(r.stdout+r.stderr, want)
		})
	}
}

// TestDefaultRouteMoves has a container leave the network by which it reaches the
// outside: another one that leads there stands in.
func TestDefaultRouteMoves(t *testing.T) {
	w, _ := newNetBench(t)
	w.ok("network", "create", "--internal", "back")
	w.ok("network", "create", "--ipv6", "app")
	w.ok("network", "create", "old")
	w.ok("network", "create", "--ipv6", "other")
	w.ok("run", "-d", "--name", "cli", "--network", "back", "test/base", "sleep", "1000")
	gateway := func(network, field string) string {
		return strings.TrimSpace(w.ok("network", "inspect", "-f", "{{(index .IPAM.Config "+field+").Gateway}}", network))
	}
	// check wants default routes by networks, "" for none.
	check := func(when, four, six string) {
		t.Helper()
		for i, on := range []string{four, six} {
			field := []string{"Gateway", "IPv6Gateway"}[i]
			want, told := "", ""
			if on != "" {
				want = gateway(on, fmt.Sprint(i))
				told = w.field("cli", "{{.NetworkSettings.Networks."+on+"."+field+"}}")
			}
			out := w.run("exec", "cli", "sh", "-c", "ip "+[]string{"-4", "-6"}[i]+" route | grep ^default | cut -d' ' -f3").stdout
			if strings.TrimSpace(out) != want || told != want {
				t.Errorf("%s it goes out by %q, which is told to be %q, want %q", when, out, told, want)
			}
		}
		out := w.run("exec", "cli", "ping", "-c1", "-W1", "203.0.113.2").stdout
		if strings.Contains(out, " 0% packet loss") != (four != "") {
			t.Errorf("%s ping says %s", when, out)
		}
	}
	check("on an internal network", "", "")
	w.ok("network", "connect", "old", "cli")
	check("on one that leads out", "old", "")
	w.ok("network", "connect", "app", "cli")
	w.ok("network", "connect", "other", "cli")
	check("on one that leads out by IPv6 too", "old", "app")
	w.ok("network", "disconnect", "old", "cli")
	check("after it has left one", "app", "app")
	w.ok("network", "disconnect", "app", "cli")
	check("after it has left two", "other", "other")
	w.ok("network", "disconnect", "other", "cli")
	check("after it has left all", "", "")
	w.ok("network", "connect", "app", "cli")
	check("on one again", "app", "app")
}

// TestPublishedPortsMove has a container leave the network that published ports lead to:
// they lead to another one, or nowhere, and are back with the next one.
func TestPublishedPortsMove(t *testing.T) {
	w, outside := newNetBench(t)
	for _, args := range [][]string{{"--internal", "back"}, {"app"}, {"other"}} {
		w.ok(append([]string{"network", "create"}, args...)...)
	}
	w.serveHTTP("web", "here", "--network", "back", "--network", "app", "--network", "other", "-p", "8080:80")
	get := func(run func(...string) (string, error), host string) bool {
		out, err := run("wget", "-qO-", "http://"+host+":8080/")
		return err == nil && out == "here\n"
	}
	check := func(when string, rules int) {
		t.Helper()
		want := rules > 0
		if want {
			waitFor(t, "the server "+when, func() bool { return get(w.machine, "127.0.0.1") })
		}
		if loop, out := get(w.machine, "127.0.0.1"), get(outside, "203.0.113.1"); loop != want || out != want {
			t.Errorf("%s it is reached by loopback: %v, from outside: %v", when, loop, out)
		}
		if n := w.publishing(); n != rules {
			t.Errorf("%s there are %d rules", when, n)
		}
		for _, out := range []string{w.ok("port", "web"), w.ok("ps", "--format", "{{.Ports}}"), w.field("web", "{{.NetworkSettings.Ports}}")} {
			if strings.Contains(out, "8080") != want {
				t.Errorf("%s it has ports %q", when, out)
			}
		}
	}
	check("first", 1)
	w.ok("network", "disconnect", "app", "web")
	check("by another network", 1)
	syscall.Kill(w.monitors()["monitor"], syscall.SIGKILL)
	check("after a kill", 1)
	w.ok("network", "disconnect", "other", "web")
	check("by none", 0)
	// Nobody has the port now.
	w.serveHTTP("tmp", "there", "-p", "8080:80")
	w.fails(1, []string{"8080/tcp is already allocated"}, "network", "connect", "app", "web")
	w.ok("rm", "-f", "tmp")
	w.ok("network", "connect", "app", "web")
	check("on a network again", 1)
	w.ok("restart", "-t", "0", "web")
	check("started again", 1)
}

// TestRemovedNetwork has a container leave a network that was removed while it did not
// run, without which it can't start.
func TestRemovedNetwork(t *testing.T) {
	w, _ := newNetBench(t)
	w.ok("network", "create", "app")
	w.ok("network", "create", "other")
	w.ok("create", "--name", "cli", "--network", "app", "--network", "other", "test/base", "sleep", "1000")
	w.ok("network", "rm", "app")
	w.fails(1, []string{"no such network: app"}, "start", "cli")
	w.ok("network", "disconnect", "app", "cli")
	w.fails(1, []string{"no such network: app"}, "network", "disconnect", "app", "cli")
	w.ok("start", "cli")
	if out := w.ok("exec", "cli", "sh", "-c", "ls /sys/class/net | grep -c eth"); out != "1\n" {
		t.Errorf("it has %s interfaces", strings.TrimSpace(out))
	}
}

func TestWrongNetworks(t *testing.T) {
	w := newBench(t)
	for _, tt := range []struct {
		code int
		word string
		args []string
	}{
		{125, "no such network", []string{"run", "--rm", "--network", "nope", "test/base"}},
		{125, "--publish", []string{"run", "--rm", "-p", "80:70000", "test/base"}},
		{125, "different lengths", []string{"run", "--rm", "-p", "80-82:80-81", "test/base"}},
		{125, "sctp", []string{"run", "--rm", "-p", "80:80/sctp", "test/base"}},
		{125, "--ip", []string{"run", "--rm", "--ip", "x", "--network", "bridge", "test/base"}},
		{125, "no addresses", []string{"run", "--rm", "--ip", "10.0.0.1", "--network", "host", "test/base"}},
		{125, "not together", []string{"run", "--rm", "--network", "host", "--network", "none", "test/base"}},
		{125, "no such container", []string{"run", "--rm", "--network", "container:nope", "test/base"}},
		{125, "--mac-address", []string{"run", "--rm", "--network", "bridge", "--mac-address", "1:2", "test/base"}},
		{125, "unknown option", []string{"run", "--rm", "--network", "bridge:color=red", "test/base"}},
		{1, "invalid network name", []string{"network", "create", "a/b"}},
		{2, "meaning of its own", []string{"network", "create", "host"}},
		{2, "--subnet", []string{"network", "create", "--subnet", "10.0.0.0", "x"}},
		{1, "bits beyond", []string{"network", "create", "--subnet", "10.1.2.3/16", "x"}},
		{1, "too small", []string{"network", "create", "--subnet", "10.1.2.0/31", "x"}},
		{2, "--gateway", []string{"network", "create", "--subnet", "10.1.2.0/24", "--gateway", "10.9.9.9", "x"}},
		{2, "--gateway 10.1.2.2", []string{"network", "create", "--subnet", "10.1.2.0/24", "--gateway", "10.1.2.1", "--gateway", "10.1.2.2", "x"}},
		{2, "--driver", []string{"network", "create", "-d", "macvlan", "x"}},
		{2, "--label", []string{"network", "create", "--label", "", "x"}},
		{2, "--opt", []string{"network", "create", "-o", "x=y", "x"}},
		{1, "no such network", []string{"network", "rm", "x"}},
		{1, "default", []string{"network", "rm", "bridge"}},
		{2, "unknown command", []string{"network", "explode"}},
		{1, "no such network", []string{"network", "inspect", "x"}},
	} {
		w.fails(tt.code, []string{tt.word}, tt.args...)
	}
}

// TestStartOrder starts containers together that need others to run.
func TestStartOrder(t *testing.T) {
	w, _ := newNetBench(t)
	w.ok("create", "--name", "one", "--restart", "always", "test/base", "sleep", "1000")
	w.ok("create", "--name", "two", "--restart", "always", "--link", "one", "test/base", "sleep", "1000")
	w.ok("create", "--name", "three", "--restart", "always", "--network", "container:two", "test/base", "sleep", "1000")
	w.ok("create", "--name", "four", "--restart", "always", "--pid", "container:three", "test/base", "sleep", "1000")
	for i := range 3 {
		start := []string{"start", "--all"}
		if i == 1 {
			start = []string{"start", "four", "two", "one", "three"}
		}
		w.ok(start...)
		if out := w.ok("ps", "--format", "{{.Names}}"); strings.Join(lines(out), " ") != "four three two one" {
			t.Fatalf("there run %q", out)
		}
		w.ok("kill", "four", "three", "two", "one")
		for _, name := range []string{"four", "three", "two", "one"} {
			w.ok("wait", name)
		}
	}
	w.ok("start", "one")
	w.ok("pause", "one")
	w.fails(1, []string{"one is paused"}, "start", "one")
	w.fails(1, []string{"no such container: zero"}, "start", "zero", "one")
}

// TestNetworkOptions has networks with options of docker's bridge driver.
func TestNetworkOptions(t *testing.T) {
	w, outside := newNetBench(t)
	const option = "com.docker.network.bridge."
	w.ok("network", "create", "-o", option+"enable_icc=false", "-o", option+"host_binding_ipv4=203.0.113.1", "-o", option+"enable_ip_masquerade=false", "-o", "mtu=1400", "apart")
	w.ok("network", "create", "-o", option+"enable_icc=true", "-o", option+"enable_ip_masquerade=true", "together")
	if got := w.ok("network", "inspect", "-f", `{{index .Options "com.docker.network.bridge.enable_icc"}}`, "apart"); got != "false\n" {
		t.Errorf("the option is %q", got)
	}
	reaches := func(from, to string) bool {
		return w.run("exec", from, "ping", "-c1", "-W1", to).code == 0
	}
	server := listenIn(t, "/run/netns/"+strings.TrimSuffix(w.netns, "in")+"out", "203.0.113.2:53")
	for _, tt := range []struct {
		network string
		on      bool
	}{{"apart", false}, {"together", true}} {
		a, b := tt.network+"-a", tt.network+"-b"
		w.serveHTTP(a, "hello", "--network", tt.network, "-p", "80")
		w.ok("run", "-d", "--name", b, "--network", tt.network, "test/base", "sleep", "1000")
		if got := reaches(b, a); got != tt.on {
			t.Errorf("%s: that one container reaches another is %v", tt.network, got)
		}
		if gateway := strings.TrimSpace(w.ok("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", tt.network)); !reaches(b, gateway) {
			t.Errorf("%s: the machine is out of reach", tt.network)
		}
		if !tt.on { // nor by way of the machine
			w.ok("run", "-d", "--name", "router", "--network", tt.network, "--cap-add", "NET_ADMIN", "test/base", "sleep", "1000")
			ip := w.field(a, "{{.NetworkSettings.Networks.apart.IPAddress}}")
			w.ok("exec", "router", "ip", "route", "add", ip+"/32", "via", w.field(a, "{{.NetworkSettings.Networks.apart.Gateway}}"))
			before := w.ok("exec", a, "cat", "/proc/net/snmp")
			w.run("exec", "router", "ping", "-c1", "-W1", ip)
			if after := w.ok("exec", a, "cat", "/proc/net/snmp"); pings(before) != pings(after) {
				t.Error("a request has come by way of the machine")
			}
		}
		port := lines(w.ok("port", a, "80"))[0]
		if bound := strings.HasPrefix(port, "203.0.113.1:"); bound == tt.on {
			t.Errorf("%s: port 80 is published as %s", tt.network, port)
		}
		_, number, _ := strings.Cut(port, ":")
		waitFor(t, "the server", func() bool {
			out, err := outside("timeout", "2", "wget", "-qO-", "http://203.0.113.1:"+number+"/")
			return err == nil && out == "hello\n"
		})
		if err := server.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		w.run("exec", b, "timeout", "1", "nslookup", "x.example", "203.0.113.2")
		own := w.field(b, "{{(index .NetworkSettings.Networks \""+tt.network+"\").IPAddress}}")
		_, from, err := server.ReadFrom(make([]byte, 512))
		if err != nil {
			t.Fatal(err)
		}
		if masked := !strings.HasPrefix(from.String(), own+":"); masked != tt.on {
			t.Errorf("%s: what comes out of %s comes from %s", tt.network, own, from)
		}
	}
	// The address may be the bridge's, which is made with the first container.
	w.ok("network", "create", "--subnet", "10.77.9.0/24", "--gateway", "10.77.9.1", "-o", option+"host_binding_ipv4=10.77.9.1", "own")
	w.serveHTTP("own-a", "hello", "--network", "own", "-p", "8077:80", "-p", "8077:80/udp")
	if got := w.ok("port", "own-a", "80"); got != "10.77.9.1:8077\n" {
		t.Errorf("port 80 is published as %q", got)
	}
	waitFor(t, "the server at the bridge", func() bool {
		return w.run("exec", "together-b", "timeout", "2", "wget", "-qO-", "http://10.77.9.1:8077/").stdout == "hello\n"
	})
	w.fails(125, []string{"cannot assign requested address"}, "run", "--rm", "--network", "own", "-p", "10.77.9.2:8078:80", "test/base", "true")
	// A name and its network may have dots.
	w.ok("network", "create", "dot.ted")
	w.ok("run", "-d", "--name", "a.b", "--network", "dot.ted", "test/base", "sleep", "1000")
	w.ok("run", "--rm", "--network", "dot.ted", "test/base", "ping", "-c1", "-W2", "a.b.dot.ted")
	for _, o := range []string{option + "enable_icc=maybe", option + "host_binding_ipv4=x", option + "name=", "mtu=1", "mtu=x", option + "colour=red"} {
		w.fails(2, []string{"--opt " + o}, "network", "create", "-o", o, "bad")
	}
}

// pings is the line with the numbers of ICMP messages in /proc/net/snmp.
func pings(snmp string) string {
	lines := strings.Split(snmp, "\n")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "Icmp: ") })
	return lines[i+1]
}

// TestPortRange publishes to the first free port of several.
func TestPortRange(t *testing.T) {
	w, _ := newNetBench(t)
	for i, want := range []string{"7000", "7001", "7002"} {
		name := fmt.Sprintf("web%d", i)
		w.ok("run", "-d", "--name", name, "-p", "7000-7002:80", "test/base", "sleep", "1000")
		if got := w.ok("port", name, "80"); got != "0.0.0.0:"+want+"\n[::]:"+want+"\n" {
			t.Errorf("container %d has port %q, want %s", i, got, want)
		}
		if got := w.ok("ps", "--format", "{{.Names}}", "--filter", "publish="+want); got != name+"\n" {
			t.Errorf("port %s leads to %q", want, got)
		}
		if got := w.field(name, `{{(index .HostConfig.PortBindings "80/tcp" 0).HostPort}}`); got != "7000-7002" {
			t.Errorf("inspect says %s was asked for", got)
		}
	}
	w.ok("run", "-d", "--name", "exposes", "--expose", "90-92", "--expose", "53/udp", "--expose", "443", "-p", "8091:91", "test/base", "sleep", "1000")
	if got := w.ok("ps", "--filter", "name=exposes", "--format", "{{.Ports}}"); got != "0.0.0.0:8091->91/tcp, [::]:8091->91/tcp, 90/tcp, 92/tcp, 443/tcp, 53/udp\n" {
		t.Errorf("ports are shown as %q", got)
	}
	w.ok("rm", "-f", "exposes")
	w.ok("run", "-d", "--name", "exposes", "-p", "6000-6002:6000-6002", "-p", "127.0.0.1:6004:6003", "test/base", "sleep", "1000")
	if got := w.ok("ps", "--filter", "name=exposes", "--format", "{{.Ports}}"); got != "0.0.0.0:6000-6002->6000-6002/tcp, [::]:6000-6002->6000-6002/tcp, 127.0.0.1:6004->6003/tcp\n" {
		t.Errorf("ports are shown as %q", got)
	}
	if got := w.field("exposes", `{{index .NetworkSettings.Ports "6001/tcp"}} {{index .NetworkSettings.Ports "6003/tcp"}}`); got != "[{0.0.0.0 6001} {:: 6001}] [{127.0.0.1 6004}]" {
		t.Errorf("inspect has ports %s", got)
	}
	w.ok("rm", "-f", "exposes")
	w.ok("run", "-d", "--name", "exposes", "--expose", "90-92", "test/base", "sleep", "1000")
	if got := w.ok("ps", "--filter", "name=exposes", "--format", "{{.Ports}}"); got != "90-92/tcp\n" {
		t.Errorf("ports are shown as %q", got)
	}
	if got := w.ok("ps", "-q", "--filter", "publish=80") + w.ok("ps", "-q", "--filter", "network=0000"); got != "" {
		t.Errorf("port 80 leads to %q", got)
	}
	id := w.ok("network", "inspect", "-f", "{{.Id}}", "bridge")
	for _, value := range []string{"bridge", id[:12], id} {
		if got := len(lines(w.ok("ps", "-q", "--filter", "network="+value, "--filter", "expose=80"))); got != 3 {
			t.Errorf("on network %q are %d", value, got)
		}
	}
	w.fails(125, []string{"no other port of the range", "7002/tcp is already allocated"}, "run", "--rm", "-p", "7000-7002:80", "test/base", "true")
	w.ok("rm", "-f", "web1")
	w.ok("run", "--rm", "-p", "7000-7002:80", "test/base", "true")
	syscall.Kill(w.monitors()["monitor"], syscall.SIGKILL)
	waitFor(t, "the next monitor", func() bool {
		return w.ok("port", "web2", "80") == "0.0.0.0:7002\n[::]:7002\n" && w.monitors()["monitor"] != 0
	})
	w.ok("restart", "-t", "0", "web2")
	if got := w.ok("port", "web2", "80"); got != "0.0.0.0:7001\n[::]:7001\n" {
		t.Errorf("after a restart web2 has port %q, want the first free one", got)
	}
	for _, bad := range []string{"7000-7002:80-81", "7002-7000:80", "7000-70000:80"} {
		w.fails(125, []string{"--publish"}, "run", "--rm", "-p", bad, "test/base", "true")
	}
}

// TestHostnameOnNetwork has others find a container by its host name too.
func TestHostnameOnNetwork(t *testing.T) {
	w, _ := newNetBench(t)
	w.ok("network", "create", "app")
	w.ok("network", "create", "far")
	w.serveHTTP("web", "here", "--network", "app", "--hostname", "www.example.test")
	get := func(net, name string) bool {
		return w.run("run", "--rm", "--network", net, "test/base", "wget", "-qO-", "http://"+name+"/").stdout == "here\n"
	}
	for _, name := range []string{"web", "www.example.test", w.field("web", "{{.Id}}")[:12]} {
		waitFor(t, "the answer of "+name, func() bool { return get("app", name) })
	}
	w.ok("rename", "web", "site")
	waitFor(t, "the answer of its new name", func() bool { return get("app", "site") && get("app", "www.example.test") })
	w.ok("network", "connect", "far", "site")
	waitFor(t, "the answer on another network", func() bool { return get("far", "www.example.test") })
}

// TestReservedAddresses has a network whose addresses are not all for containers.
func TestReservedAddresses(t *testing.T) {
	w, _ := newNetBench(t)
	w.ok("network", "create", "--subnet", "10.77.0.0/29", "--aux-address", "router=10.77.0.2", "--aux-address", "printer=10.77.0.4", "--ipv4", "--ipam-driver", "default", "small")
	for _, want := range []string{"10.77.0.3", "10.77.0.5", "10.77.0.6"} {
		id := strings.TrimSpace(w.ok("run", "-d", "--network", "small", "test/base", "sleep", "1000"))
		if got := w.field(id, "{{.NetworkSettings.IPAddress}}"); got != want {
			t.Errorf("a container has %s, want %s", got, want)
		}
	}
	w.fails(125, []string{"no address", "free"}, "run", "--rm", "--network", "small", "test/base", "true")
	w.fails(125, []string{"10.77.0.2", "in use"}, "run", "--rm", "--network", "small", "--ip", "10.77.0.2", "test/base", "true")
	if got := w.ok("network", "inspect", "--format", "{{json .IPAM.Config}}", "small"); !strings.Contains(got, `"AuxiliaryAddresses":{"printer":"10.77.0.4","router":"10.77.0.2"}`) {
		t.Errorf("inspect says %s", got)
	}
	for _, f := range refusedByNetwork {
		w.fails(2, []string{"--" + f.name, "not supported", f.why}, "network", "create", "--"+f.name+"=other", "wrong")
	}
	for _, bad := range []string{"router", "=10.77.0.2", "x=10.9.9.9", "x=y"} {
		w.fails(2, []string{"--aux-address"}, "network", "create", "--subnet", "10.78.0.0/29", "--aux-address", bad, "wrong")
	}
}

// TestRenameOnNetwork renames a container that runs: others find it by the new name,
// also after it was started again, and events have that.
func TestRenameOnNetwork(t *testing.T) {
	w, _ := newNetBench(t)
	w.ok("network", "create", "app")
	w.serveHTTP("web", "here", "--network", "app")
	w.ok("run", "-d", "--name", "cli", "--network", "app", "test/base", "sleep", "1000")
	get := func(name string) string { return w.run("exec", "cli", "wget", "-qO-", "http://"+name+"/").stdout }
	waitFor(t, "the answer of web", func() bool { return get("web") == "here\n" })
	w.ok("rename", "web", "site")
	for range 2 {
		waitFor(t, "the answer of site", func() bool { return get("site") == "here\n" })
		if out := get("web"); out != "" {
			t.Errorf("the old name answers %q", out)
		}
		w.ok("restart", "-t", "0", "site")
	}
	w.ok("network", "create", "other")
	w.ok("network", "connect", "other", "site")
	w.ok("run", "-d", "--replace", "--name", "cli", "--network", "other", "test/base", "sleep", "1000")
	waitFor(t, "the answer of site on another network", func() bool { return get("site") == "here\n" })
	w.ok("stop", "-t", "0", "site")
	stops := w.ok("events", "--since", "1h", "--stream=false", "--filter", "event=stop", "--filter", "container="+w.field("site", "{{.Id}}"), "--format", "{{.Actor.Attributes.name}}")
	if stops != strings.Repeat("site\n", 3) { // two of restart
		t.Errorf("the events of its stops name %q", stops)
	}
}

// TestLinks has containers know others by names that nobody else has for them.
func TestLinks(t *testing.T) {
	w, _ := newNetBench(t)
	w.ok("network", "create", "app")
	for _, name := range []string{"db", "off"} {
		w.ok("run", "-d", "--name", name, "test/base", "sleep", "1000")
	}
	w.ok("run", "-d", "--name", "web", "--network", "app", "test/base", "sleep", "1000")
	address := func(name, net string) string {
		return w.field(name, "{{(index .NetworkSettings.Networks \""+net+"\").IPAddress}}")
	}
	lookup := func(args ...string) string {
		out := w.run(append(args, "sh", "-c", "nslookup www | sed -n 's/^Address: *//p' | tail -n1; grep -h www /etc/hosts")...).stdout
		return strings.TrimSpace(out)
	}
	// On the default network by /etc/hosts.
	id := w.field("db", "{{.Id}}")[:12]
	if got, want := lookup("run", "--rm", "--link", "db:www", "test/base"), address("db", "bridge")+"\twww "+id+" db"; !strings.HasSuffix(got, want) {
		t.Errorf("/etc/hosts has %q, want %q", got, want)
	}
	w.ok("run", "-d", "--name", "named", "--hostname", "host.example", "test/base", "sleep", "1000")
	if got, want := lookup("run", "--rm", "--link", "named:www", "test/base"), address("named", "bridge")+"\twww host.example named"; !strings.HasSuffix(got, want) {
		t.Errorf("/etc/hosts has %q, want %q", got, want)
	}
	w.ok("create", "--name", "needs", "--link", "off", "test/base", "true")
	w.ok("stop", "-t", "0", "off")
	w.fails(1, []string{"--link off", "not running"}, "start", "needs")
	// On others by what answers names, where it follows the container.
	w.ok("run", "-d", "--name", "cli", "--network", "app", "--link", "web:www", "test/base", "sleep", "1000")
	w.ok("run", "-d", "--name", "other", "--network", "app", "test/base", "sleep", "1000")
	for range 2 {
		want := address("web", "app")
		waitFor(t, "the link", func() bool { return lookup("exec", "cli") == want })
		if got := lookup("exec", "other"); got == want {
			t.Errorf("another container finds %s by the link", got)
		}
		w.ok("stop", "-t", "0", "web")
		w.ok("run", "-d", "--rm", "--network", "app", "test/base", "sleep", "1000") // takes its address, perhaps
		w.ok("start", "web")
	}
	// To one that comes later, and to one that has the network of another.
	w.ok("run", "-d", "--name", "early", "--network", "app", "--link", "late:www", "test/base", "sleep", "1000")
	if r := w.run("exec", "early", "nslookup", "www"); r.code == 0 {
		t.Errorf("before the other is there somebody has the name:\n%s", r.stdout)
	}
	w.ok("run", "-d", "--name", "late", "--network", "app", "test/base", "sleep", "1000")
	waitFor(t, "the link to one that came later", func() bool { return lookup("exec", "early") == address("late", "app") })
	w.ok("run", "-d", "--name", "inner", "--network", "container:db", "test/base", "sleep", "1000")
	if got := lookup("run", "--rm", "--link", "inner:www", "test/base"); !strings.HasPrefix(got, address("db", "bridge")+"\twww ") && !strings.Contains(got, "\n"+address("db", "bridge")+"\twww ") {
		t.Errorf("linked to one on another's network: %q", got)
	}
	w.ok("network", "create", "other")
	w.ok("run", "-d", "--name", "both", "--network", "other", "test/base", "sleep", "1000")
	w.ok("network", "connect", "--link", "web:www", "app", "both")
	waitFor(t, "the link on another network than the first", func() bool { return lookup("exec", "both") == address("web", "app") })
	w.ok("network", "connect", "--link", "web:www", "app", "db")
	waitFor(t, "the link of a container that was connected", func() bool { return lookup("exec", "db") == address("web", "app") })
	for _, args := range [][]string{
		{"run", "--rm", "--link", "nobody", "test/base", "true"}, {"run", "--rm", "--link", "web:www", "test/base", "true"},
		{"run", "--rm", "--link", "db:a b", "test/base", "true"}, {"run", "--rm", "--network", "none", "--link", "db", "test/base", "true"},
	} {
		w.fails(125, []string{"link"}, args...)
	}
	w.fails(2, []string{"--link"}, "network", "connect", "--link", "db", "bridge", "web")
}

// TestOwnNameServers has a container with name servers of its own on networks that
// resolve names: what is no name there is asked of these.
func TestOwnNameServers(t *testing.T) {
	testutil.Require(t, "dnsmasq")
	w, _ := newNetBench(t)
	out := strings.TrimSuffix(w.netns, "in") + "out"
	server := exec.Command("ip", "netns", "exec", out, "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null",
		"--user=root", "--pid-file=", "--bind-interfaces", "--listen-address=203.0.113.2", "--address=/far.test/192.0.2.7", "--address=/web/192.0.2.8")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		server.Process.Kill()
		server.Wait()
	}()
	w.ok("network", "create", "app")
	w.ok("run", "-d", "--name", "web", "--network", "app", "test/base", "sleep", "1000")
	own := w.field("web", "{{.NetworkSettings.IPAddress}}")
	lookup := func(name string, args ...string) string {
		out := w.run(append(args, "sh", "-c", "nslookup -type=a "+name+" | sed -n 's/^Address: *//p' | tail -n1")...).stdout
		return strings.TrimSpace(out)
	}
	with := []string{"run", "--rm", "--network", "app", "--dns", "203.0.113.2", "test/base"}
	for i := range 2 {
		if i > 0 { // another monitor has taken the answering over
			w.withoutMonitor(func() {})
		}
		waitFor(t, "a name outside", func() bool { return lookup("far.test", with...) == "192.0.2.7" })
		if got := lookup("web", with...); got != own {
			t.Errorf("web is %s, want %s", got, own)
		}
		if got := lookup("far.test", "exec", "web"); got == "192.0.2.7" {
			t.Error("a container without --dns has the answer of another one's server")
		}
	}
	// A server that no other process can ask is asked by the container alone.
	if out := w.ok("run", "--rm", "--network", "app", "--dns", "127.0.0.9", "test/base", "cat", "/etc/resolv.conf"); !strings.Contains(out, "nameserver 127.0.0.9\n") {
		t.Errorf("with a server on loopback: %q", out)
	}
	// An internal network's containers have those of its servers that are on it.
	w.ok("network", "create", "--internal", "--subnet", "10.66.0.0/24", "inside")
	w.ok("run", "-d", "--name", "hidden", "--network", "inside", "--ip", "10.66.0.9", "test/base", "sleep", "1000")
	resolver := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", w.pid("hidden")), "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null",
		"--user=root", "--pid-file=", "--bind-interfaces", "--listen-address=10.66.0.9", "--address=/near.test/192.0.2.9")
	if err := resolver.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		resolver.Process.Kill()
		resolver.Wait()
	}()
	within := []string{"run", "--rm", "--network", "inside", "--dns", "10.66.0.9", "--dns", "203.0.113.2", "test/base"}
	waitFor(t, "a name by a server on an internal network", func() bool { return lookup("near.test", within...) == "192.0.2.9" })
	if got := lookup("far.test", within...); got == "192.0.2.7" {
		t.Error("a server outside is asked for a container of an internal network")
	}
	// On the default network it asks them itself, until it is on another one.
	w.ok("run", "-d", "--name", "moved", "--dns", "203.0.113.2", "test/base", "sleep", "1000")
	resolv := func() string { return w.ok("exec", "moved", "cat", "/etc/resolv.conf") }
	before := resolv()
	if !strings.Contains(before, "nameserver 203.0.113.2\n") {
		t.Errorf("on the default network: %q", before)
	}
	w.ok("network", "connect", "app", "moved")
	if got := resolv(); strings.Contains(got, "203.0.113.2") {
		t.Errorf("on another one: %q", got)
	}
	waitFor(t, "names", func() bool {
		return lookup("web", "exec", "moved") == own && lookup("far.test", "exec", "moved") == "192.0.2.7"
	})
	w.ok("network", "disconnect", "app", "moved")
	if got := resolv(); got != before {
		t.Errorf("back again: %q, want %q", got, before)
	}
}

// TestUDPFlowMoves has somebody outside send from one port all the time: its packets
// reach whoever has the published port now, and nobody by an address that another
// container got.
func TestUDPFlowMoves(t *testing.T) {
	w, _ := newNetBench(t)
	sender := listenIn(t, "/run/netns/"+strings.TrimSuffix(w.netns, "in")+"out", "203.0.113.2:4000")
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("203.0.113.1:5353"))
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				_, _ = sender.WriteTo([]byte("packet"), to) // nobody may listen
			}
		}
	}()
	// start runs a container and counts the packets that it gets.
	start := func(name string, flags ...string) *atomic.Int32 {
		w.ok(append(append([]string{"run", "-d", "--replace", "--name", name}, flags...), "test/base", "sleep", "1000")...)
		c := listenIn(t, fmt.Sprintf("/proc/%d/ns/net", w.pid(name)), ":53")
		got := new(atomic.Int32)
		go func() {
			for buf := make([]byte, 100); ; got.Add(1) {
				if _, _, err := c.ReadFrom(buf); err != nil {
					return
				}
			}
		}()
		return got
	}
	for i := range 3 {
		var other *atomic.Int32
		if i > 0 { // it gets the address, and has nothing to do with the port
			address := w.field("one", "{{.NetworkSettings.IPAddress}}")
			w.ok("rm", "-f", "one")
			other = start(fmt.Sprintf("other%d", i), "--ip", address)
		}
		got := start("one", "-p", "5353:53/udp")
		waitFor(t, "packets", func() bool { return got.Load() > 2 })
		if other != nil && other.Load() > 0 {
			t.Errorf("%d packets reach a container that has the address of the one that was removed", other.Load())
		}
	}
}

// listenIn is a socket of UDP in a network namespace, closed with the test.
func listenIn(t *testing.T, netns, addr string) (c net.PacketConn) {
	t.Helper()
	inNetns(t, netns, func() (err error) {
		c, err = net.ListenPacket("udp", addr)
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// inNetns calls f in a network namespace.
func inNetns(t *testing.T, netns string, f func() error) {
	t.Helper()
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread is good for nothing else, and ends with this
		ns, err := os.Open(netns)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			ns.Close()
		}
		if err == nil {
			err = f()
		}
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
}

// TestGatewayPriority has the way out, and published ports, by the network of the highest
// priority, while containers run too.
func TestGatewayPriority(t *testing.T) {
	w, _ := newNetBench(t)
	for i, name := range []string{"first", "second", "third", "closed"} {
		args := []string{"network", "create", "--subnet", fmt.Sprintf("10.78.%d.0/24", i), name}
		switch name {
		case "closed":
			args = append(args, "--internal")
		case "second":
			args = append(args, "--ipv6")
		}
		w.ok(args...)
	}
	w.serveHTTP("web", "hello", "--network", "first", "--network", "name=closed,gw-priority=9", "--network", "name=second,gw-priority=2", "-p", "8078:80")
	check := func(when, network string, families int) {
		t.Helper()
		out := w.ok("exec", "web", "ip", "route") // the default route comes first
		if want := "default via " + map[string]string{"first": "10.78.0.1", "second": "10.78.1.1", "third": "10.78.2.1"}[network] + " "; !strings.HasPrefix(out, want) || strings.Count(out, "default") != 1 {
			t.Errorf("%s: the default route is %q, want %s", when, out, want)
		}
		if out := w.ok("exec", "web", "ip", "-6", "route"); strings.Count(out, "default via") != families-1 {
			t.Errorf("%s: default routes of IPv6 are %q", when, out)
		}
		for _, host := range []string{"127.0.0.1", "203.0.113.1"} {
			waitFor(t, when+": the server at "+host, func() bool {
				out, err := w.machine("timeout", "2", "wget", "-qO-", "http://"+host+":8078/")
				return err == nil && out == "hello\n"
			})
		}
		if got := w.field("web", `{{range $name, $ep := .NetworkSettings.Networks}}{{if $ep.Gateway}}{{$name}} {{end}}{{end}}`); got != network {
			t.Errorf("%s: inspect has gateways on %q, want %s", when, got, network)
		}
	}
	check("at first", "second", 2)
	w.ok("network", "connect", "--gw-priority", "1", "third", "web")
	check("with another of less", "second", 2)
	w.ok("network", "disconnect", "third", "web")
	w.ok("network", "connect", "--gw-priority", "3", "third", "web")
	check("with another of more", "third", 2)
	w.ok("network", "disconnect", "third", "web")
	check("without that", "second", 2)
	w.ok("network", "connect", "--gw-priority", "3", "third", "web")
	w.ok("restart", "-t", "0", "web")
	check("after a restart", "third", 2)
	w.ok("network", "disconnect", "third", "web")
	w.ok("network", "disconnect", "second", "web")
	check("with the least alone", "first", 1)
	if got := w.field("web", "{{.NetworkSettings.Networks.closed.GwPriority}}"); got != "9" {
		t.Errorf("the priority is %s", got)
	}
	w.fails(2, []string{"gw-priority=high"}, "create", "--network", "name=first,gw-priority=high", "test/base")
}
