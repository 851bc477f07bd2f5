// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"
)

// TestEnvFlags has variables left out, taken over and set, and later ones hold.
func TestEnvFlags(t *testing.T) {
	w := newLifeBench(t)
	w.write("Dockerfile", "FROM test/base\nENV ONE=image TWO=image\n")
	w.ok("build", "-t", "vars", ".")
	t.Setenv("THREE", "machine")
	t.Setenv("http_proxy", "http://machine.test")
	const show = "echo $ONE/$TWO/$THREE/$HTTP_PROXY/$http_proxy/$NO_PROXY"
	const configured = `{"proxies": {"default": {"httpProxy": "http://file.test", "noProxy": "near.test"}, "tcp://other:1": {"httpsProxy": "x"}}}`
	for _, tc := range []struct{ config, flags, want string }{
		{"", "", "image/image////"},
		{"", "--unsetenv ONE --unsetenv NONE", "/image////"},
		{"", "--unsetenv-all", "/////"},
		{"", "--unsetenv-all -e TWO=mine", "/mine////"},
		{"", "--env-host", "image/image/machine//http://machine.test/"},
		{"", "--env-host -e THREE=mine", "image/image/mine//http://machine.test/"},
		{"", "--http-proxy", "image/image///http://machine.test/"},
		{configured, "", "image/image//http://file.test/http://file.test/near.test"},
		{configured, "-e HTTP_PROXY=mine", "image/image//mine/http://file.test/near.test"},
		{configured, "--http-proxy", "image/image//http://file.test/http://machine.test/near.test"},
		{"{}", "", "image/image////"},
	} {
		if tc.config != "" {
			w.write("docker/config.json", tc.config)
			t.Setenv("DOCKER_CONFIG", w.dir+"/docker")
		}
		if out := w.ok(append(append([]string{"run", "--rm"}, strings.Fields(tc.flags)...), "vars", "sh", "-c", show)...); strings.TrimSpace(out) != tc.want {
			t.Errorf("run %s with %s: %q, want %q", tc.flags, tc.config, out, tc.want)
		}
	}
	// A build has the same, unless it says otherwise.
	w.write("docker/config.json", configured)
	w.write("Dockerfile", "FROM test/base\nARG HTTP_PROXY\nRUN echo $HTTP_PROXY/$NO_PROXY > /proxies\n")
	for _, tc := range []struct{ flag, want string }{{"--progress=plain", "http://file.test/near.test"}, {"--build-arg=http_proxy=mine", "mine/near.test"}} {
		w.ok("build", "-t", "proxied", tc.flag, ".")
		if out := w.ok("run", "--rm", "proxied", "cat", "/proxies"); strings.TrimSpace(out) != tc.want {
			t.Errorf("build %s: %q, want %q", tc.flag, out, tc.want)
		}
	}
	w.write("vars.env", "GOOD=1\nBAD NAME=2\n")
	w.fails(125, []string{"vars.env", `"BAD NAME"`}, "run", "--rm", "--env-file", "vars.env", "vars", "true")
	w.write("docker/config.json", "{broken")
	if r := w.run("run", "--rm", "vars", "sh", "-c", show); r.code != 0 || r.stdout != "image/image////\n" || !strings.Contains(r.stderr, "config.json: nothing is read but credentials") {
		t.Errorf("with a broken file: %+v", r)
	}
}

// TestContainerSettings looks in containers for what flags set there.
func TestContainerSettings(t *testing.T) {
	w, _ := newNetBench(t)
	ip := "hostname -i"
	for _, tc := range []struct{ flags, script, want string }{
		{"--hostname me --domainname example.test", "hostname; cat /proc/sys/kernel/domainname; hostname -f; grep -c \"$(" + ip + ").me.example.test me$\" /etc/hosts", "me example.test me.example.test 1"},
		{"--hostname me.example.test", "hostname; hostname -s; grep -c \"$(" + ip + ").me.example.test me$\" /etc/hosts", "me.example.test me 1"},
		{"--network none --hostname me --domainname example.test", "hostname -f; grep -c '^127.0.0.1.localhost me.example.test me$' /etc/hosts", "localhost 1"},
		{"", "umask; touch /f; stat -c %a /f", "0022 644"},
		{"--umask 077", "umask; touch /f; stat -c %a /f", "0077 600"},
		{"--umask 0007 --init", "umask", "0007"},
		{"--tz Europe/Paris", "TZ= ; unset TZ; head -c4 /etc/localtime; date -d @0 +%H", "TZif01"},
		{"--user 1000", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range; httpd -p 80 -h / && echo serves", "0 0 2147483647 serves"},
		{"--network none", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0"},
		{"--sysctl net.ipv4.ip_unprivileged_port_start=80", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "80"},
		{"--userns keep-id", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0"},
		{"--no-hosts", "test -e /etc/hosts; echo $?", "1"},
		{"--annotation org.example=1", "true", ""},
		{"--read-only", "test -f /.dockerenv; echo $?; readlink /etc/mtab; grep -c ' / ' /etc/mtab", "0 /proc/mounts 1"},
	} {
		out := w.ok(append(append([]string{"run", "--rm"}, strings.Fields(tc.flags)...), "test/base", "sh", "-c", tc.script)...)
		if got := strings.Join(strings.Fields(out), " "); got != tc.want {
			t.Errorf("run %s: %q, want %q", tc.flags, got, tc.want)
		}
	}
	w.ok("run", "-d", "--name", "cc", "--umask", "027", "--domainname", "example.test", "--annotation", "org.example=1", "test/base", "sleep", "1000")
	if out := w.ok("exec", "cc", "sh", "-c", "umask"); out != "0027\n" {
		t.Errorf("exec has umask %s", out)
	}
	if got, want := w.field("cc", "{{.Config.Domainname}} {{json .HostConfig.Annotations}}"), `example.test {"org.example":"1"}`; got != want {
		t.Errorf("inspect says %s, want %s", got, want)
	}
	for _, tc := range []struct{ flag, word string }{
		{"--umask=8", "octal"}, {"--umask=1000", "octal"}, {"--tz=../../etc/passwd", "time zone"}, {"--tz=No/Where", "no such file"},
		{"--annotation=x", "NAME=VALUE"}, {"--platform=plan9/", "invalid platform"}, {"--timeout=-1", "negative"},
		{"--health-on-failure=cry", "none, kill, restart or stop"}, {"--health-on-failure=kill", "health check"},
		{"--domainname=" + strings.Repeat("x", 65), "longer than 64"},
	} {
		w.fails(125, []string{tc.word}, "run", "--rm", tc.flag, "test/base", "true")
	}
	w.fails(125, []string{"--no-hosts", "--link"}, "run", "--rm", "--no-hosts", "--link", "cc", "test/base", "true")
	w.fails(125, []string{"--add-host"}, "run", "--rm", "--no-hosts", "--add-host", "a:1.2.3.4", "test/base", "true")
	w.fails(125, []string{"--domainname"}, "run", "--rm", "--uts", "host", "--domainname", "x", "test/base", "true")
}

// TestTimeout ends containers whose time is over, one of them under another monitor
// than that which has started it.
func TestTimeout(t *testing.T) {
	w := newLifeBench(t)
	if r := w.run("run", "--rm", "--timeout", "1", "test/base", "sleep", "1000"); r.code != 137 {
		t.Errorf("in the foreground: %+v", r)
	}
	w.ok("run", "-d", "--name", "cc", "--timeout", "2", "test/base", "sleep", "1000")
	w.withoutMonitor(func() {})
	w.waitField("cc", "{{.State.Status}} {{.State.ExitCode}}", "exited 137")
	var ran time.Duration
	for i, name := range []string{"StartedAt", "FinishedAt"} {
		at, err := time.Parse(`"`+time.RFC3339Nano+`"`, w.field("cc", "{{json .State."+name+"}}"))
		if err != nil {
			t.Fatal(err)
		}
		ran += time.Duration(2*i-1) * time.Duration(at.UnixNano())
	}
	if ran < 2*time.Second {
		t.Errorf("it was killed after %s of 2s", ran)
	}
}

// TestRefusedByRun holds that no flag of a peer is accepted and ignored.
func TestRefusedByRun(t *testing.T) {
	w := newLifeBench(t)
	for _, f := range refusedByRun {
		if f.name == "tls-verify" {
			continue // run has it
		}
		w.fails(125, []string{"--" + f.name, "not supported", f.why}, "run", "--rm", "--"+f.name+"=other", "test/base", "true")
		for _, v := range f.harmless {
			w.ok("run", "--rm", "--"+f.name+"="+v, "test/base", "true")
		}
	}
}
