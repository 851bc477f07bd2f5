// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"builder/image"
	"builder/internal/testutil"
	"builder/store"
)

// machine is a network namespace with a state directory of its own.
type machine struct {
	*workbench
	netns string
	link  string // the interface to the others
}

// builder runs builder on the machine.
func (m *machine) builder(args ...string) result {
	m.t.Helper()
	cmd := m.command(args...)
	cmd.Args = append([]string{"nsenter", "--net=/run/netns/" + m.netns, "/proc/self/exe"}, args...)
	cmd.Path = lookPath(m.t, "nsenter")
	self, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	cmd.Args[2] = self
	return m.finish(cmd)
}

// received is how many bytes the machine got from the others.
func (m *machine) received() int64 {
	m.t.Helper()
	out, err := exec.Command("nsenter", "--net=/run/netns/"+m.netns, "cat", "/proc/net/dev").Output()
	if err != nil {
		m.t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if name, counts, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == m.link {
			n, err := strconv.ParseInt(strings.Fields(counts)[0], 10, 64)
			if err != nil {
				m.t.Fatal(err)
			}
			return n
		}
	}
	m.t.Fatalf("no interface %s in\n%s", m.link, out)
	return 0
}

func lookPath(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func run(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// newMachines makes two network namespaces, joined by a cable and by nothing
// else to anything. A registry runs on the first, at the address returned.
func newMachines(t *testing.T) (machines [2]*machine, registry string) {
	testutil.Require(t, "root", "ip", "docker-registry")
	id := os.Getpid()
	for i := range machines {
		name := fmt.Sprintf("builder-test-%d-%d", id, i)
		run(t, "ip", "netns", "add", name)
		t.Cleanup(func() { run(t, "ip", "netns", "del", name) })
		machines[i] = &machine{netns: name, link: fmt.Sprintf("bt%d", i)}
	}
	a, b := machines[0], machines[1]
	run(t, "ip", "-n", a.netns, "link", "add", a.link, "type", "veth", "peer", "name", b.link, "netns", b.netns)
	for i, m := range machines {
		run(t, "ip", "-n", m.netns, "addr", "add", fmt.Sprintf("10.213.7.%d/30", i+1), "dev", m.link)
		run(t, "ip", "-n", m.netns, "link", "set", m.link, "up")
		run(t, "ip", "-n", m.netns, "link", "set", "lo", "up")
	}
	registry = "10.213.7.1:5000"
	config := filepath.Join(t.TempDir(), "config.yml")
	yml := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n", t.TempDir(), registry)
	if err := os.WriteFile(config, []byte(yml), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("nsenter", "--net=/run/netns/"+a.netns, "docker-registry", "serve", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	waitFor(t, "the registry's start", func() bool {
		out, err := exec.Command("nsenter", "--net=/run/netns/"+a.netns, "cat", "/proc/net/tcp").Output()
		return err == nil && strings.Contains(string(out), "0107D50A:1388") // 10.213.7.1:5000 in the kernel's form
	})
	return machines, registry
}

// TestTwoMachines builds an image of 20 steps on one machine and again on
// another one that shares a cache in a registry with it, and nothing else: the
// second runs no step, and over its cable come the layers of the image, not
// those of the stage that it copies from, and little more.
func TestTwoMachines(t *testing.T) {
	machines, registry := newMachines(t)
	a, b := machines[0], machines[1]
	a.workbench = newBench(t)
	a.write("Dockerfile", strings.ReplaceAll(manySteps(), "20000", "500000"))
	a.write("src/a", "a")
	b.workbench = a.twin()
	ref := "type=registry,registry.insecure=true,ref=" + registry + "/cache"
	if r := a.builder("build", "--cache-to", ref+",mode=max", "-t", "made", "."); r.code != 0 || strings.Contains(r.stderr, "not written") {
		t.Fatal(r.stderr)
	}
	before := b.received()
	r := b.builder("--debug", "build", "--cache-from", ref, "-t", "made", ".")
	if r.code != 0 {
		t.Fatal(r.stderr)
	}
	got := b.received() - before
	s := counts(t, r.stderr)
	if s["steps"] != 20 || s["imported"] != 20 || s["layersFetched"] != 12 {
		t.Errorf("%v: want 20 steps, all imported, and 12 layers fetched", s)
	}
	var need int64
	store, err := store.Open(b.root)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	entry, err := store.Resolve("docker.io/library/made:latest")
	if err != nil {
		t.Fatal(err)
	}
	img, err := store.Image(entry.Desc, image.HostPlatform())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range img.Manifest.Layers[1:] { // the base image's is here already
		need += l.Size
	}
	t.Logf("%d bytes of layers, %d received", need, got)
	if got < need || got > need+need/10+64<<10 {
		t.Errorf("%d bytes came over the cable, of which %d are the image's layers", got, need)
	}
	if first, second := a.ok("images", "-q", "--no-trunc", "made"), b.ok("images", "-q", "--no-trunc", "made"); first != second {
		t.Errorf("images %q and %q", first, second)
	}
}
