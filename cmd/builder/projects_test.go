// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"builder/internal/testutil"
)

// TestProjects builds real projects on a Debian base that is pulled from a
// registry on loopback, runs them, builds them again out of the cache, and
// lets other tools read what was saved.
func TestProjects(t *testing.T) {
	testutil.Require(t, "root", "mmdebstrap", "docker-registry", "skopeo", "umoci", "podman")
	if testing.Short() {
		t.Skip("downloads packages")
	}
	w := &workbench{t: t, root: t.TempDir(), dir: t.TempDir()}
	base := pushDebian(t, startRegistry(t))
	tests := []struct{ name, output string }{
		{"apt", "42\n"},
		{"node", "42 is a number: true\n"},
		{"go", "hello from pid 1 with true\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &workbench{t: t, root: w.root, dir: w.dir}
			project := copyProject(t, tt.name)
			settle(t, w)
			args := []string{"-t", "project/" + tt.name, "--build-arg", "BASE=" + base, project}
			w.stats(args...)
			if out := w.ok("run", "--rm", "project/"+tt.name); out != tt.output {
				t.Errorf("it prints %q, want %q", out, tt.output)
			}
			again := w.stats(args...)
			if again["cached"] != again["steps"] || again["steps"] == 0 || again["filesHashed"] != 0 || again["layersWritten"] != 0 {
				t.Errorf("built again: %v, want every step cached and nothing hashed or written", again)
			}
			w.readByOthers("project/" + tt.name)
			if tt.name != "node" { // large, and of no other kind than apt
				w.unpackByUmoci("project/" + tt.name)
				w.loadByPodman("project/"+tt.name, "saved.tar", "saved.docker", "saved.oci")
			}
		})
	}
}

// copyProject copies a project to a directory of its own and gives it what
// this machine trusts: packages may come through a proxy that has its own
// authority.
func copyProject(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if out, err := exec.Command("cp", "-r", "../../testdata/projects/"+name, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	trusted, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), trusted, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// startRegistry runs Debian's registry on a free loopback port and returns its
// address.
func startRegistry(t *testing.T) string {
	t.Helper()
	return startRegistryWith(t, "")
}

// startRegistryWith has further lines in the registry's configuration.
func startRegistryWith(t *testing.T, more string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	config := filepath.Join(t.TempDir(), "config.yml")
	yml := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n", t.TempDir(), addr) + more
	if err := os.WriteFile(config, []byte(yml), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	waitFor(t, "the registry's start", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return addr
}

// debianDir has what debian made, for all tests.
var debianDir string

// debian is the name of a tar with Debian's smallest system, made of packages.
func debian(t *testing.T) string {
	t.Helper()
	testutil.Require(t, "root", "mmdebstrap")
	name := filepath.Join(debianDir, "debian.tar")
	if debianDir != "" {
		return name
	}
	dir, err := os.MkdirTemp("", "builder-test-debian-")
	if err != nil {
		t.Fatal(err)
	}
	name = filepath.Join(dir, "debian.tar")
	cmd := exec.Command("mmdebstrap", "--quiet", "--variant=minbase", `--aptopt=APT::Sandbox::User "root"`, "bookworm", name)
	if out, err := cmd.CombinedOutput(); err != nil {
		_ = os.RemoveAll(dir)
		t.Fatalf("make base image: %v\n%s", err, out)
	}
	debianDir = dir
	return name
}

// pushDebian makes a base image from Debian packages, pushes it to a registry
// and returns its name there.
func pushDebian(t *testing.T, registry string) string {
	t.Helper()
	dir := t.TempDir()
	w := &workbench{t: t, root: t.TempDir(), dir: dir}
	w.ok("import", "--change", `CMD ["/bin/bash"]`, debian(t), "debian:12")
	w.ok("save", "--format", "oci-archive", "-o", "debian.oci", "debian:12")
	name := registry + "/debian:12"
	out, err := exec.Command("skopeo", "copy", "--dest-tls-verify=false", "oci-archive:"+dir+"/debian.oci", "docker://"+name).CombinedOutput()
	if err != nil {
		t.Fatalf("push base image: %v\n%s", err, out)
	}
	return name
}

// readByOthers saves an image in every format and has skopeo read it.
func (w *workbench) readByOthers(name string) {
	t := w.t
	t.Helper()
	w.ok("save", "-o", "saved.tar", name)
	w.ok("save", "--format", "oci-archive", "-o", "saved.oci", name)
	w.ok("save", "--format", "docker-archive", "-o", "saved.docker", name)
	var want struct {
		Config struct{ Cmd, Entrypoint []string }
	}
	for i, src := range []string{"oci-archive:saved.oci", "docker-archive:saved.docker", "docker-archive:saved.tar", "oci:" + w.root + ":docker.io/" + name + ":latest"} {
		cmd := exec.Command("skopeo", "inspect", "--config", src)
		cmd.Dir = w.dir
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("skopeo inspect %s: %v\n%s", src, err, &stderr)
			continue
		}
		got := want
		if err := json.Unmarshal(out, &got); err != nil {
			t.Errorf("%s: %v", src, err)
		}
		if i > 0 && fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: config is %v, want %v", src, got, want)
		}
		want = got
	}
}

// unpackByUmoci has umoci unpack the image out of the store in place.
func (w *workbench) unpackByUmoci(name string) {
	w.t.Helper()
	bundle := filepath.Join(w.t.TempDir(), "bundle")
	layout := filepath.Join(w.t.TempDir(), "layout")
	w.ok("save", "--format", "oci-dir", "-o", layout, name)
	tags, err := exec.Command("umoci", "list", "--layout", layout).Output()
	if err != nil {
		w.t.Errorf("umoci list: %v", err)
		return
	}
	out, err := exec.Command("umoci", "unpack", "--image", layout+":"+lines(string(tags))[0], bundle).CombinedOutput()
	if err != nil {
		w.t.Errorf("umoci unpack: %v\n%s", err, out)
		return
	}
	if entries, err := os.ReadDir(filepath.Join(bundle, "rootfs")); err != nil || len(entries) == 0 {
		w.t.Errorf("umoci unpacked nothing: %v", err)
	}
}

// loadByPodman has podman load archives into a store of its own.
func (w *workbench) loadByPodman(name string, files ...string) {
	w.t.Helper()
	dir := w.t.TempDir()
	podman := func(args ...string) (string, error) {
		cmd := exec.Command("podman", append([]string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "overlay"}, args...)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, file := range files {
		if out, err := podman("load", "-q", "-i", filepath.Join(w.dir, file)); err != nil {
			w.t.Errorf("podman load %s: %v\n%s", file, err, out)
			continue
		}
		out, err := podman("image", "exists", name)
		if err != nil {
			w.t.Errorf("podman does not know %s after loading %s: %v\n%s", name, file, err, out)
		}
		if list, err := podman("rmi", "-af"); err != nil {
			w.t.Errorf("podman rmi: %v\n%s", err, strings.TrimSpace(list))
		}
	}
}
