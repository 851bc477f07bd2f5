// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"builder/internal/testutil"

	"golang.org/x/sys/unix"
)

// inNetNS runs f on a thread in a network namespace made by ip-netns(8).
func inNetNS(t testing.TB, name string, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with this function
		ns, err := os.Open("/run/netns/" + name)
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestRootlessNetwork has containers of an ordinary user reach each other, the
// outside and be reached, by TCP, UDP and names, and not reach what listens on
// this machine's loopback.
func TestRootlessNetwork(t *testing.T) {
	testutil.Require(t, "root", "ip", "nsenter", "busybox")
	u := newUser(t, true)
	inside, outside := newMachineNetwork(t)
	u.netns = inside
	t.Cleanup(func() { u.command("rm", "-fa").Run() })
	u.importBase()

	www := t.TempDir()
	if err := os.WriteFile(filepath.Join(www, "index.html"), []byte("outside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	listen := func(ns, addr string) { // a web server of the machine ns
		t.Helper()
		cmd := exec.Command("nsenter", "--net=/run/netns/"+ns, "busybox", "httpd", "-f", "-p", addr, "-h", www)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
		waitFor(t, "the web server at "+addr, func() bool {
			return exec.Command("nsenter", "--net=/run/netns/"+ns, "busybox", "wget", "-qO", "/dev/null", "http://"+addr+"/").Run() == nil
		})
	}
	listen(outside, "203.0.113.2:80")
	listen(inside, "127.0.0.1:81")
	// A name server that knows none.
	var names *net.UDPConn
	inNetNS(t, outside, func() (err error) {
		names, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(203, 0, 113, 2), Port: 53})
		return err
	})
	defer names.Close()
	asked := make(chan string, 100)
	go func() {
		buf := make([]byte, 2000)
		for {
			n, from, err := names.ReadFromUDP(buf)
			if err != nil {
				return
			}
			select {
			case asked <- from.IP.String():
			default:
			}
			if n > 4 {
				buf[2], buf[3] = buf[2]|0x80, 3 // RFC 1035, section 4.1.1: a response, a name error
				names.WriteToUDP(buf[:n], from)
			}
		}
	}()
	from := func(ns, url string) string {
		out, err := exec.Command("nsenter", "--net=/run/netns/"+ns, "busybox", "wget", "-qO-", url).CombinedOutput()
		if err != nil {
			return fmt.Sprintf("%s (%v)", out, err)
		}
		return string(out)
	}

	// By default: a namespace of its own, from which the outside is reached.
	got := strings.Fields(u.ok("run", "--rm", "test/base", "sh", "-c", "ls /sys/class/net /proc/sys/net/ipv4/conf | grep -c -e '^lo$' -e '^eth0$' -e '^up0$'; ip -4 addr show eth0 | grep -o 'inet [0-9.]*'; wget -qO- http://203.0.113.2/; wget -qO- http://127.0.0.1:81/ || echo no"))
	if len(got) < 4 || got[0] != "2" && got[0] != "4" || !strings.HasPrefix(got[2], "10.") || got[3] != "outside" || got[len(got)-1] != "no" {
		t.Errorf("a container says %q", got)
	}
	if got := u.ok("run", "--rm", "test/base", "sh", "-c", "wget -qO- http://203.0.113.1:81/ || wget -qO- http://169.254.255.1:81/ || echo no"); got != "no\n" {
		t.Errorf("what listens on the machine's loopback says %q", got)
	}
	if out, err := exec.Command("ip", "-n", inside, "-o", "link").Output(); err != nil || strings.Count(string(out), "\n") != 2 {
		t.Errorf("the machine has the interfaces (%v)\n%s", err, out)
	}
	if got := u.ok("run", "--rm", "--network", "host", "test/base", "wget", "-qO-", "http://127.0.0.1:81/"); got != "outside\n" {
		t.Errorf("with the machine's network: %q", got)
	}
	u.write("Dockerfile", "FROM test/base\nRUN wget -qO /got http://203.0.113.2/ && ! wget -qO /no http://127.0.0.1:81/\n")
	u.ok("build", "-t", "got", ".")

	// Networks of one's own, with names and published ports.
	u.ok("network", "create", "--ipv6", "app")
	u.ok("network", "create", "--internal", "back")
	u.serveHTTP("web", "in", "--network", "app", "-p", "8080:80", "-p", "5300:53/udp")
	u.ok("run", "-d", "--name", "cli", "--network", "app", "test/base", "sleep", "1000")
	in := func(command string) string {
		t.Helper()
		return u.run("exec", "cli", "sh", "-c", command).stdout
	}
	waitFor(t, "the answer of web", func() bool { return in("wget -qO- http://web/") == "in\n" })
	if out := in("ping -6 -c1 -W2 web"); !strings.Contains(out, " 0% packet loss") {
		t.Errorf("by IPv6: %s", out)
	}
	for _, at := range [][2]string{{inside, "http://127.0.0.1:8080/"}, {inside, "http://[::1]:8080/"}, {outside, "http://203.0.113.1:8080/"}} {
		if got := from(at[0], at[1]); got != "in\n" {
			t.Errorf("%s from %s: %q", at[1], at[0], got)
		}
	}
	if got := in("nslookup nobody. 203.0.113.2 2>&1"); !strings.Contains(got, "NXDOMAIN") {
		t.Errorf("by UDP: %q", got)
	} else if who := <-asked; who != "203.0.113.1" {
		t.Errorf("%s has asked", who)
	}
	if r := u.run("run", "--rm", "--network", "back", "test/base", "wget", "-qO-", "http://203.0.113.2/"); r.code == 0 {
		t.Errorf("an internal network reaches the outside: %s", r.stdout)
	}
	if r := u.run("run", "--rm", "test/base", "sh", "-c", "timeout 2 wget -qO- http://"+u.field("web", "{{.NetworkSettings.Networks.app.IPAddress}}")+"/; exit $?"); r.code == 0 {
		t.Errorf("the default network reaches another: %s", r.stdout)
	}
	if r := u.run("run", "--rm", "-p", "80:80", "test/base", "true"); r.code != 125 || !strings.Contains(r.stderr, "ip_unprivileged_port_start") {
		t.Errorf("a port of root's: exit code %d, %s", r.code, r.stderr)
	}

	// Whichever of its processes is killed, it goes on.
	for _, words := range []string{"usernet", "monitor --kept"} {
		victim := processOf(t, u.root, words)
		if victim == 0 {
			t.Fatalf("there is no process %q", words)
		}
		syscall.Kill(victim, syscall.SIGKILL)
		waitFor(t, "the outside after "+words+" was killed", func() bool { return in("timeout 2 wget -qO- http://203.0.113.2/") == "outside\n" })
		waitFor(t, "web after "+words+" was killed", func() bool { return from(outside, "http://203.0.113.1:8080/") == "in\n" })
		waitFor(t, "its name after "+words+" was killed", func() bool { return in("timeout 2 wget -qO- http://web/") == "in\n" })
	}
	// Another network stands in for the one that both leave.
	u.ok("network", "create", "other")
	for _, name := range []string{"web", "cli"} {
		u.ok("network", "connect", "other", name)
		u.ok("network", "disconnect", "app", name)
	}
	waitFor(t, "the outside by another network", func() bool { return in("timeout 2 wget -qO- http://203.0.113.2/") == "outside\n" })
	waitFor(t, "web by another network", func() bool { return from(outside, "http://203.0.113.1:8080/") == "in\n" })
	waitFor(t, "its name on another network", func() bool { return in("timeout 2 wget -qO- http://web/") == "in\n" })
	u.ok("rm", "-fa")
	u.ok("network", "prune", "-f")
	waitFor(t, "the end of all processes", func() bool { return processOf(t, u.root, "") == 0 })
}

// processOf is a process that has a directory in its command line and then
// these words, 0 if there is none.
func processOf(t *testing.T, root, words string) int {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range entries {
		text, _ := os.ReadFile(name) // it may have ended
		line := strings.ReplaceAll(string(text), "\x00", " ")
		if _, after, ok := strings.Cut(line, root+" "); ok && strings.Contains(after, words) {
			var pid int
			if _, err := fmt.Sscanf(name, "/proc/%d/", &pid); err == nil {
				return pid
			}
		}
	}
	return 0
}
