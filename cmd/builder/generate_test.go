// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"builder/internal/testutil"
)

// TestBoot starts a machine with systemd, which is a container with builder in
// it, three times: what is to run there at boot does, after an orderly end of
// the machine and after a power cut.
func TestBoot(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads packages")
	}
	w := newLifeBench(t)
	source, err := filepath.Abs("../../testdata/machine")
	if err != nil {
		t.Fatal(err)
	}
	self := program(t)
	w.write("env.conf", "[Manager]\nDefaultEnvironment=BUILDER_TEST_MAIN=1\n")
	w.ok("import", debian(t), "debian:12")
	w.ok("build", "--build-arg", "BASE=debian:12", "-t", "machine", source)
	w.ok("run", "-d", "--name", "machine", "--privileged", "--network", "none", "--tmpfs", "/run", "--tmpfs", "/run/lock",
		"-e", "container=docker", "-e", "BUILDER_TEST_MAIN=1", "-e", "BUILDER_NETWORK=none",
		"-v", self+":/usr/local/bin/builder:ro", "-v", w.dir+"/env.conf:/etc/systemd/system.conf.d/env.conf:ro", "machine")
	in := func(args ...string) result { return w.run(append([]string{"exec", "machine"}, args...)...) }
	booted := func() {
		t.Helper()
		waitFor(t, "systemd", func() bool {
			state := strings.TrimSpace(in("systemctl", "is-system-running").stdout)
			return state == "running" || state == "degraded"
		})
	}
	states := func() string {
		return in("sh", "-c", `for n in $(ls /want); do echo $n $(builder inspect -f "{{.State.Status}}" $n); done`).stdout
	}
	booted()
	cmd := w.command("exec", "-i", "machine", "builder", "import", "-", "base")
	cmd.Stdin = bytes.NewReader(baseTar(t))
	if r := w.finish(cmd); r.code != 0 {
		t.Fatalf("import: %s", r.stderr)
	}
	setUp := `set -e
mkdir /want
run() { touch /want/$1; builder run -d --name "$@"; }
sleep='trap "exit 0" TERM; sleep 1000 & wait'
run always --restart always base sh -c "$sleep"
run unless-stopped --restart unless-stopped base sh -c "$sleep"
run on-failure --restart on-failure base sh -c 'trap "exit 3" TERM; sleep 1000 & wait'
run none base sh -c "$sleep"
run succeeded --restart on-failure base true
run stopped --restart unless-stopped base sh -c "$sleep"
run stopped-always --restart always base sh -c "$sleep"
builder wait succeeded
builder stop stopped stopped-always
touch /want/created
builder create --name created --restart always base true
cd /etc/systemd/system
builder generate systemd --files
systemctl daemon-reload
systemctl enable --now builder.service`
	if r := in("sh", "-c", setUp); r.code != 0 || !strings.Contains(r.stdout, "/etc/systemd/system/builder.service\n") {
		t.Fatalf("set up: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	const want = "always running\ncreated created\nnone exited\non-failure running\nstopped exited\nstopped-always running\nsucceeded exited\nunless-stopped running\n"
	for _, end := range [][]string{{"stop", "-t", "60", "machine"}, {"kill", "machine"}} {
		w.ok(end...)
		w.waitField("machine", "{{.State.Status}}", "exited")
		if code := w.field("machine", "{{.State.ExitCode}}"); end[0] == "stop" && code == "137" {
			t.Errorf("the machine was not down after a minute")
		}
		w.ok("start", "machine")
		booted()
		if got := states(); got != want {
			t.Errorf("after %s and start:\n%swant\n%s", end[0], got, want)
		}
		if r := in("systemctl", "is-active", "builder.service"); r.stdout != "active\n" {
			t.Errorf("after %s and start the unit is %s%s", end[0], r.stdout, in("systemctl", "status", "--no-pager", "builder.service").stdout)
		}
	}
	// The unit of one container.
	r := in("sh", "-c", `cd /etc/systemd/system && builder generate systemd -f -t 30 none && systemctl daemon-reload && systemctl start container-none &&
until [ "$(builder inspect -f "{{.State.Status}}" none)" = running ]; do sleep 0.1; done; builder inspect -f "{{.State.Status}}" none && systemctl stop container-none && builder inspect -f "{{.State.Status}} {{.State.ExitCode}}" none &&
systemctl is-active builder.service && builder inspect -f "{{.State.Status}}" always; systemctl is-failed container-none`)
	if !strings.HasSuffix(r.stdout, "\nrunning\nexited 0\nactive\nrunning\ninactive\n") {
		t.Errorf("the unit of a container:\n%s%s", r.stdout, r.stderr)
	}
}

// TestGeneratedUnits has systemd read what is generated.
func TestGeneratedUnits(t *testing.T) {
	w := newLifeBench(t)
	w.root += "/state $HOME 100%"
	if err := os.Mkdir(w.root, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := w.command("import", "-", "test/base")
	cmd.Stdin = bytes.NewReader(baseTar(t))
	if r := w.finish(cmd); r.code != 0 {
		t.Fatal(r.stderr)
	}
	w.ok("create", "--name", "web", "--stop-timeout", "-1", "test/base", "true")
	id := w.field("web", "{{.Id}}")
	files := strings.Fields(w.ok("generate", "systemd", "-f") + w.ok("generate", "systemd", "-f", "--name=false", "--container-prefix", "c", "--separator", "_",
		"--after", "a.service", "--wants", "b.service", "--requires", "d.service", "--restart-policy", "always", "--restart-sec", "3", "--start-timeout", "9", "web"))
	if len(files) != 2 || filepath.Base(files[0]) != "builder.service" || filepath.Base(files[1]) != "c_"+id+".service" {
		t.Fatalf("files %q", files)
	}
	data, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"Restart=always", "RestartSec=3", "TimeoutStartSec=9", "TimeoutStopSec=infinity", "Wants=b.service", "Requires=d.service", "After=a.service", "After=b.service", "After=d.service"} {
		if !strings.Contains(string(data), line+"\n") {
			t.Errorf("no line %s in\n%s", line, data)
		}
	}
	testutil.Require(t, "systemd-analyze")
	out, err := exec.Command("systemd-analyze", append([]string{"verify"}, files[0])...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	for _, tt := range []struct{ args, word string }{
		{"", "want systemd"}, {"kube", "want systemd"}, {"systemd --restart-policy often", `"often"`}, {"systemd --new web", "unknown flag: --new"},
	} {
		w.fails(2, []string{tt.word}, append([]string{"generate"}, strings.Fields(tt.args)...)...)
	}
	w.fails(1, []string{"no such container: nosuch"}, "generate", "systemd", "nosuch")
}
