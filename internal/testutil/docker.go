// SPDX-License-Identifier: Apache-2.0

package testutil

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Docker is a docker daemon that ends with the test, with its state in a
// directory of its own and without bridge and firewall rules.
type Docker struct{ host string }

// StartDocker starts a daemon.
func StartDocker(t testing.TB) Docker {
	t.Helper()
	Require(t, "root", "dockerd", "docker", "containerd")
	dir, err := os.MkdirTemp("", "d") // a socket's path may not be long
	if err != nil {
		t.Fatal(err)
	}
	d := Docker{"unix://" + dir + "/sock"}
	var log bytes.Buffer
	cmd := exec.Command("dockerd", "--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid", "--config-file", dir+"/none.json",
		"-H", d.host, "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs", "--ip-forward=false", "--ip-masq=false")
	if err := os.WriteFile(dir+"/none.json", []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	})
	for range 300 {
		if exec.Command("docker", "-H", d.host, "version").Run() == nil {
			return d
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("dockerd doesn't start:\n%s", log.String())
	return d
}

// Run runs docker and returns what it prints on standard output.
func (d Docker) Run(t testing.TB, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("docker", append([]string{"-H", d.host}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}
