// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

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
	return m.finish(m.inside(args...))
}

// inside is builder as a command on the machine.
func (m *machine) inside(args ...string) *exec.Cmd {
	m.t.Helper()
	cmd := m.command(args...)
	cmd.Args = append([]string{"nsenter", "--net=/run/netns/" + m.netns, "/proc/self/exe"}, args...)
	cmd.Path = lookPath(m.t, "nsenter")
	self := program(m.t)
	cmd.Args[2] = self
	return cmd
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
// else to anything. A registry runs on the first, at the address returned, with
// further lines in its configuration and in that of http.
func newMachines(t *testing.T, http, more string) (machines [2]*machine, registry string) {
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
	yml := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q%s}\n", t.TempDir(), registry, http) + more
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
	machines, registry := newMachines(t, "", "")
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

// certificates makes an authority and certificates by it: for the address of a
// server, and for a client. It returns the directory that has them.
func certificates(t *testing.T, address string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var authority *x509.Certificate
	var authorityKey *ecdsa.PrivateKey
	for i, name := range []string{"ca", "server", "client"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		cert := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: name == "ca", BasicConstraintsValid: true, IPAddresses: []net.IP{net.ParseIP(address)},
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		if authority == nil {
			authority, authorityKey = cert, key
		}
		der, err := x509.CreateCertificate(rand.Reader, cert, authority, &key.PublicKey, authorityKey)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(name+".crt", "CERTIFICATE", der)
		write(name+".key", "EC PRIVATE KEY", private)
	}
	return dir
}

// TestTLSRegistry logs in to, pushes to and pulls from a registry that speaks
// TLS, by an authority of its own, and wants a client's certificate and a
// password.
func TestTLSRegistry(t *testing.T) {
	certs := certificates(t, "10.213.7.1")
	at := func(name string) string { return filepath.Join(certs, name) }
	htpasswd := filepath.Join(t.TempDir(), "htpasswd")
	const line = "user:$2a$04$Xnx9Ovz9AWg7nDM/2cLTBePu1jV3P81sGfKuXph.APjGE/SEFtfQW\n"
	if err := os.WriteFile(htpasswd, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	machines, registry := newMachines(t, fmt.Sprintf(", tls: {certificate: %s, key: %s, clientcas: [%s]}", at("server.crt"), at("server.key"), at("ca.crt")),
		"auth: {htpasswd: {realm: x, path: "+htpasswd+"}}\n")
	m := machines[1]
	m.workbench = newBench(t)
	m.asUser()
	name := registry + "/app:1"
	m.ok("tag", "test/base", name)
	try := func(what string, code int, words ...string) {
		t.Helper()
		cmd := m.inside("login", "-u", "user", "--password-stdin", registry)
		cmd.Stdin = strings.NewReader("secret")
		r := m.finish(cmd)
		if r.code != code {
			t.Errorf("%s: exit code %d\n%s", what, r.code, r.stderr)
		}
		for _, word := range words {
			if !strings.Contains(r.stderr, word) {
				t.Errorf("%s: no %q in %s", what, word, r.stderr)
			}
		}
	}
	dir := filepath.Join(os.Getenv("HOME"), ".config", "containers", "certs.d", registry)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(from, to string) {
		t.Helper()
		data, err := os.ReadFile(at(from))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, to), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	try("unknown authority", 1, "certificate signed by unknown authority")
	put("ca.crt", "ca.crt")
	try("no certificate of ours", 1, "tls: the registry asks its clients for a certificate")
	put("client.crt", "client.cert")
	try("no key", 1, "client.cert has no key beside it", "client.key is missing")
	put("client.key", "client.key")
	try("all there", 0)
	for _, args := range [][]string{{"push", "-q", name}, {"rmi", name, "test/base"}, {"pull", "-q", name}} {
		if r := m.builder(args...); r.code != 0 {
			t.Errorf("%v: %s", args, r.stderr)
		}
	}
	if err := os.Remove(filepath.Join(dir, "client.cert")); err != nil {
		t.Fatal(err)
	}
	try("key alone", 1, "client.key has no certificate beside it")
}
